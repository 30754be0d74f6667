"""How a voice sounds: the lower layers of a Whisper encoder (Radford et al., 2022), averaged over a window.

The upper layers keep the words and forget the voice; the lower half still knows the tone, and costs half as much.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from vemoclap_batch.media.clip import SAMPLE_RATE
from vemoclap_batch.networks.prosody import loudness

#: Encoder layers that are run. On speakers not trained on, the third of the six tells emotions best.
LAYERS = 3
#: Samples per output of the encoder (20 ms).
STEP = 320
#: Whisper's front end: 25 ms of audio every 10 ms, 80 mel bands.
FFT, HOP, BANDS = 400, 160, 80

# Audio that is quieter than the loudest by more than PAUSE_DB is a pause; nothing under the floor is a voice.
PAUSE_DB, FLOOR_DBFS = 30.0, -70.0
# Silence before and after says nothing about the voice: it is cut off but for a tenth of a second.
MARGIN = 1600
# Every window gets the same level, for a level says more about the recording than about the speaker. More than
# MOST_GAIN_DB would make a voice of the noise of a silent track.
LEVEL_DBFS, MOST_GAIN_DB = -20.0, 30.0
# Shorter windows are padded with silence to this, so that there is something to take a spectrum of.
SHORTEST = 2 * FFT
# What the numbers of a CTranslate2 file mean.
_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def read_ctranslate2(path: str | Path, prefixes: Iterable[str]) -> dict[str, np.ndarray]:
    """The arrays of a CTranslate2 ``model.bin`` whose names start with one of ``prefixes``.

    The format (version 6): little-endian; a version, the name and revision of the specification, a count, then per
    array its name, shape, type, size in bytes and data. A string is its length, its bytes and a NUL.

    Raises:
        ValueError: the file has another version of the format.
    """
    with Path(path).open("rb") as file:

        def number(kind: str) -> int:
            return int(struct.unpack(f"<{kind}", file.read(struct.calcsize(kind)))[0])

        def text() -> str:
            return file.read(number("H"))[:-1].decode()

        if (version := number("I")) != 6:
            raise ValueError(f"{path} is a CTranslate2 file of version {version}; expected 6")
        text(), number("I")
        found = {}
        for _ in range(number("I")):
            name = text()
            shape = [number("I") for _ in range(number("B"))]
            kind, size = _TYPES[number("B")], number("I")
            if name.startswith(tuple(prefixes)):
                found[name] = np.frombuffer(file.read(size), kind).reshape(shape)
            else:
                file.seek(size, 1)
    return found


class Block(nn.Module):
    """A pre-norm transformer layer, its parts named as in CTranslate2 files."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads

        def part(first: nn.Linear, second: nn.Linear) -> nn.ModuleDict:
            return nn.ModuleDict({"layer_norm": nn.LayerNorm(width), "linear_0": first, "linear_1": second})

        self.self_attention = part(nn.Linear(width, 3 * width), nn.Linear(width, width))
        self.ffn = part(nn.Linear(width, 4 * width), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] to the same."""
        norm, project_in, project_out = self.self_attention.values()
        heads = project_in(norm(x)).unflatten(2, (3, self.heads, -1))  # [B, T, 3, heads, w]
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value)  # [B, heads, T, w]
        x = x + project_out(attended.transpose(1, 2).flatten(2))
        norm, up, down = self.ffn.values()
        return x + down(F.gelu(up(norm(x))))


class Encoder(nn.Module):
    """The first layers of a Whisper encoder, without the norm that follows the last."""

    def __init__(self, width: int, heads: int, layers: int, positions: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(BANDS, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.positions = nn.Parameter(torch.zeros(positions, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))

    def forward(self, spectrum: Tensor) -> Tensor:
        """Log-mel spectra [B, 80, T] to [B, T / 2, width]."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(spectrum)))).transpose(1, 2)
        x = x + self.positions[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return x


def load_encoder(model_bin: str | Path, layers: int = LAYERS) -> Encoder:
    """The first ``layers`` layers of the Whisper encoder in a CTranslate2 file, in float32 and eval mode.

    Raises:
        ValueError: the file is of another format, quantised, or has fewer layers.
    """
    wanted = ["encoder/conv", "encoder/num_heads", "encoder/position", *(f"encoder/layer_{i}/" for i in range(layers))]
    arrays = read_ctranslate2(model_bin, wanted)
    try:
        heads = int(arrays.pop("encoder/num_heads"))
        state = {_parameter(name): torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}
        positions, width = state["positions"].shape
        encoder = Encoder(width, heads, layers, positions)
        encoder.load_state_dict(state, assign=True)
    except (KeyError, RuntimeError) as error:
        wrong = f"does not hold {layers} layers of a Whisper encoder in floats"
        raise ValueError(f"{model_bin} {wrong}: {error}") from error
    return encoder.eval()


def _parameter(name: str) -> str:
    """The name in :class:`Encoder` of an array in a CTranslate2 file."""
    name = name.removeprefix("encoder/").replace("position_encodings/encodings", "positions")
    return re.sub(r"^layer_", "blocks.", name).replace("gamma", "weight").replace("beta", "bias").replace("/", ".")


def mel_filters() -> np.ndarray:
    """Slaney's mel filter bank [80, 201], which Whisper was trained with: linear up to 1 kHz, then logarithmic."""
    top = 15 + 27 * np.log(SAMPLE_RATE / 2 / 1000) / np.log(6.4)
    mel = np.linspace(0, top, BANDS + 2)
    corners = np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))[:, None]
    frequency = np.arange(FFT // 2 + 1) * SAMPLE_RATE / FFT
    rise = (frequency - corners[:-2]) / (corners[1:-1] - corners[:-2])
    fall = (corners[2:] - frequency) / (corners[2:] - corners[1:-1])
    return np.maximum(0, np.minimum(rise, fall)) * 2 / (corners[2:] - corners[:-2])


def trim_and_level(window: np.ndarray) -> np.ndarray:
    """The window without silence at either end, at the level :data:`LEVEL_DBFS`; float32, empty for silence."""
    levels = loudness(window)
    audible = np.flatnonzero(levels > max(np.percentile(levels, 95) - PAUSE_DB, FLOOR_DBFS))
    if not len(audible):
        return np.zeros(0, np.float32)
    first, last = audible[0], audible[-1] + 1
    loud = np.percentile(levels[first:last], 95)
    gain_db = np.clip(LEVEL_DBFS - loud, -MOST_GAIN_DB, MOST_GAIN_DB)
    return (window[max(0, first * STEP - MARGIN) : last * STEP + MARGIN] * 10 ** (gain_db / 20)).astype(np.float32)


class VoiceNet(nn.Module):
    """Describes windows of audio: the mean of the encoder's outputs, standardised over its training set.

    Args:
        encoder: frozen.
        mean: [encoder's width].
        projection: [encoder's width, descriptors]; their variances are 1 on average over the training set.
    """

    def __init__(self, encoder: Encoder, mean: Tensor, projection: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.mean, self.projection = nn.Buffer(mean), nn.Buffer(projection)
        self.filters = nn.Buffer(torch.from_numpy(mel_filters().astype(np.float32)))
        self.hann = nn.Buffer(torch.hann_window(FFT))

    @torch.inference_mode()
    def describe(self, window: np.ndarray) -> np.ndarray:
        """Describe one window, by itself: what else is in a batch never changes the last digit.

        Music and noise lie far away from any voice and would drown what other windows say: a vector is at most as long
        as one of the training set is on average.

        Args:
            window: float32 [samples], 16 kHz, at least one sample, at most 30 s.

        Returns:
            float32 [descriptors], finite whatever the audio; all zero, which is the average voice, for silence.
        """
        audio = trim_and_level(window)
        if not len(audio):
            return np.zeros(self.projection.shape[1], np.float32)
        standard = (self.embed(audio) - self.mean) @ self.projection
        usual = standard.shape[0] ** 0.5
        return (standard * (usual / standard.norm()).clamp_max(1)).cpu().numpy()

    @torch.inference_mode()
    def embed(self, audio: np.ndarray) -> Tensor:
        """The mean of the encoder's outputs over audio that :func:`trim_and_level` gave, [encoder's width]."""
        padded = np.pad(audio, (0, max(0, SHORTEST - len(audio))))
        waveform = torch.from_numpy(padded).to(self.mean.device)
        encoded = self.encoder(self.log_mel(waveform)[None])[0]  # [T, width]
        return encoded[: max(1, len(audio) // STEP)].mean(0)

    def log_mel(self, waveform: Tensor) -> Tensor:
        """Whisper's log-mel spectrum [80, samples / 160] of [samples], as its authors compute it."""
        spectrum = torch.stft(waveform, FFT, HOP, window=self.hann, return_complex=True)[:, :-1].abs() ** 2
        logarithm = (self.filters @ spectrum).clamp_min(1e-10).log10()
        return (torch.maximum(logarithm, logarithm.max() - 8) + 4) / 4


def save_projection(mean: Tensor, projection: Tensor, path: str | Path) -> None:
    """Write what :class:`VoiceNet` learnt, with the layer it belongs to."""
    tensors = {"mean": mean.float().contiguous(), "projection": projection.half().contiguous()}
    save_file(tensors, str(path), metadata={"layers": str(LAYERS)})


def load_voice_net(model_bin: str | Path, path: str | Path) -> VoiceNet:
    """The network of a CTranslate2 Whisper encoder and the projection at ``path``, in float32 and eval mode.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: they do not fit each other.
    """
    with safe_open(str(path), "pt") as file:
        layers = int((file.metadata() or {}).get("layers", 0))
        mean, projection = file.get_tensor("mean"), file.get_tensor("projection").float()
    encoder = load_encoder(model_bin, layers)
    if len(mean) != encoder.positions.shape[1]:
        raise ValueError(f"{path} was made for an encoder of width {len(mean)}, not that in {model_bin}")
    return VoiceNet(encoder, mean, projection).eval()
