import struct

import numpy as np
import pytest
import torch
from faster_whisper.feature_extractor import FeatureExtractor

from vemoclap_batch.media.clip import SAMPLE_RATE
from vemoclap_batch.networks.voice import (
    BANDS,
    LAYERS,
    Encoder,
    VoiceNet,
    load_encoder,
    load_voice_net,
    mel_filters,
    read_ctranslate2,
    save_projection,
    trim_and_level,
)

pytestmark = pytest.mark.numeric

WIDTH, HEADS, POSITIONS = 16, 2, 1500
TYPES = {np.dtype(np.float32): 0, np.dtype(np.int16): 2, np.dtype(np.float16): 4}


def write_ctranslate2(path, arrays, version=6):
    """As CTranslate2's converter writes it."""

    def text(value):
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    parts = [struct.pack("<I", version), text("WhisperSpec"), struct.pack("<II", 3, len(arrays))]
    for name, array in arrays.items():
        data = array.tobytes()
        shape = struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        parts += [text(name), shape, struct.pack("<BI", TYPES[array.dtype], len(data)), data]
    path.write_bytes(b"".join(parts))


def whisper_arrays(layers=4):
    rng = np.random.default_rng(0)

    def random(*shape):
        return (rng.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float16)

    arrays = {
        "decoder/embeddings/weight": random(50, WIDTH),
        "encoder/conv1/weight": random(WIDTH, BANDS, 3),
        "encoder/conv1/bias": random(WIDTH),
        "encoder/conv2/weight": random(WIDTH, WIDTH, 3),
        "encoder/conv2/bias": random(WIDTH),
        "encoder/num_heads": np.array(HEADS, np.int16),
        "encoder/position_encodings/encodings": random(POSITIONS, WIDTH),
    }
    sizes = {"self_attention/linear_0": (3, 1), "self_attention/linear_1": (1, 1), "ffn/linear_0": (4, 1)}
    sizes["ffn/linear_1"] = (1, 4)
    for layer in range(layers):
        for part, (out, into) in sizes.items():
            arrays[f"encoder/layer_{layer}/{part}/weight"] = random(out * WIDTH, into * WIDTH)
            arrays[f"encoder/layer_{layer}/{part}/bias"] = random(out * WIDTH)
        for part in ("self_attention", "ffn"):
            arrays[f"encoder/layer_{layer}/{part}/layer_norm/gamma"] = 1 + random(WIDTH)
            arrays[f"encoder/layer_{layer}/{part}/layer_norm/beta"] = random(WIDTH)
    return arrays


@pytest.fixture
def model_bin(tmp_path):
    write_ctranslate2(tmp_path / "model.bin", whisper_arrays())
    return tmp_path / "model.bin"


@pytest.fixture
def net(model_bin):
    torch.manual_seed(0)
    return VoiceNet(load_encoder(model_bin), torch.zeros(WIDTH), torch.eye(WIDTH))


def audio(seconds=3.0, seed=0, amplitude=0.1):
    """Bursts of noise, as speech is loud and quiet by turns."""
    rng = np.random.default_rng(seed)
    samples = rng.normal(size=int(seconds * SAMPLE_RATE))
    bursts = np.sin(2 * np.pi * 3 * np.arange(len(samples)) / SAMPLE_RATE) ** 2 + 0.1
    return (amplitude * bursts * samples).astype(np.float32)


def test_only_what_is_asked_for_is_read(model_bin):
    found = read_ctranslate2(model_bin, ["encoder/conv1", "encoder/num"])
    assert sorted(found) == ["encoder/conv1/bias", "encoder/conv1/weight", "encoder/num_heads"]
    assert int(found["encoder/num_heads"]) == HEADS
    assert np.array_equal(found["encoder/conv1/weight"], whisper_arrays()["encoder/conv1/weight"])


def test_unknown_formats_are_refused(tmp_path, model_bin):
    write_ctranslate2(tmp_path / "old.bin", {}, version=5)
    with pytest.raises(ValueError, match="version 5; expected 6"):
        read_ctranslate2(tmp_path / "old.bin", [])
    with pytest.raises(ValueError, match="5 layers of a Whisper encoder"):
        load_encoder(model_bin, layers=5)


def test_the_encoder_computes_what_transformers_does(model_bin):
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    arrays = {name: torch.from_numpy(array.astype(np.float32)) for name, array in whisper_arrays().items()}
    config = WhisperConfig(
        d_model=WIDTH, encoder_layers=4, encoder_attention_heads=HEADS, encoder_ffn_dim=4 * WIDTH, num_mel_bins=BANDS
    )
    state = {"embed_positions.weight": arrays["encoder/position_encodings/encodings"]}
    for part in ("weight", "bias"):
        # The final norm is not among the first layers; any will do here.
        state[f"layer_norm.{part}"] = torch.zeros(WIDTH)
        state |= {f"{conv}.{part}": arrays[f"encoder/{conv}/{part}"] for conv in ("conv1", "conv2")}
    for layer in range(4):
        ours, theirs = f"encoder/layer_{layer}", f"layers.{layer}"
        for name in ("weight", "bias"):
            joined = arrays[f"{ours}/self_attention/linear_0/{name}"].chunk(3)
            state |= {f"{theirs}.self_attn.{p}_proj.{name}": x for p, x in zip("qkv", joined, strict=True)}
            state[f"{theirs}.self_attn.out_proj.{name}"] = arrays[f"{ours}/self_attention/linear_1/{name}"]
            state[f"{theirs}.fc1.{name}"] = arrays[f"{ours}/ffn/linear_0/{name}"]
            state[f"{theirs}.fc2.{name}"] = arrays[f"{ours}/ffn/linear_1/{name}"]
            old = {"weight": "gamma", "bias": "beta"}[name]
            state[f"{theirs}.self_attn_layer_norm.{name}"] = arrays[f"{ours}/self_attention/layer_norm/{old}"]
            state[f"{theirs}.final_layer_norm.{name}"] = arrays[f"{ours}/ffn/layer_norm/{old}"]
    # Whisper's keys have no bias; with the softmax one would make no difference.
    state = {name: value for name, value in state.items() if not name.endswith("k_proj.bias")}
    reference = WhisperEncoder(config).eval()
    reference.load_state_dict(state)
    spectrum = torch.randn(1, BANDS, 2 * POSITIONS)
    with torch.inference_mode():
        expected = reference(spectrum, output_hidden_states=True).hidden_states[LAYERS]
        assert torch.allclose(load_encoder(model_bin)(spectrum), expected, atol=1e-4)


def test_the_spectrum_is_the_one_that_whisper_gets(net):
    waveform = audio()
    expected = FeatureExtractor(feature_size=BANDS)(waveform, padding=0)
    assert mel_filters() == pytest.approx(FeatureExtractor(feature_size=BANDS).mel_filters, abs=1e-6)
    assert net.log_mel(torch.from_numpy(waveform)).numpy() == pytest.approx(expected, abs=1e-3)


def test_neither_the_level_nor_surrounding_silence_makes_a_difference(net):
    waveform = audio(2.0)
    assert net.describe(waveform * 0.1) == pytest.approx(net.describe(waveform), abs=1e-3)
    once, thrice = (net.describe(np.pad(waveform, (pause, pause))) for pause in (3_200, 9_600))
    assert thrice == pytest.approx(once, abs=1e-3)


def test_what_is_heard_begins_and_ends_with_audio():
    silence = np.zeros(16_000, np.float32)
    kept = trim_and_level(np.concatenate([silence, audio(1.0, amplitude=0.01), silence]))
    assert 16_000 <= len(kept) <= 16_000 + 2 * 1600 + 320
    assert np.abs(kept).max() > 0.1


@pytest.mark.parametrize("amplitude", [0.0, 2.0**-15])
def test_silence_is_described_as_nothing(net, amplitude):
    # Noise of one step of 16 bits is silence too.
    silence = audio(amplitude=amplitude)
    assert len(trim_and_level(silence)) == 0
    assert not net.describe(silence).any()


def test_faint_noise_is_not_made_as_loud_as_a_voice():
    assert np.abs(trim_and_level(audio(amplitude=0.002))).max() < 0.3


@pytest.mark.parametrize("samples", [1, 160, 400, 5_000])
@pytest.mark.parametrize("amplitude", [0.0, 0.002, 0.3])
def test_descriptors_are_finite_and_bounded(net, samples, amplitude):
    found = net.describe(audio(amplitude=amplitude)[:samples])
    assert found.shape == (WIDTH,)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert np.linalg.norm(found) <= WIDTH**0.5 + 1e-4


def test_a_full_scale_square_wave_is_finite(net):
    assert np.isfinite(net.describe(np.where(audio() > 0, 0.99997, -1).astype(np.float32))).all()


def test_saved_and_loaded(model_bin, tmp_path):
    mean, projection = torch.randn(WIDTH), torch.randn(WIDTH, 5).half().float()
    save_projection(mean, projection, tmp_path / "voice.safetensors")
    loaded = load_voice_net(model_bin, tmp_path / "voice.safetensors")
    expected = VoiceNet(load_encoder(model_bin), mean, projection).describe(audio())
    assert np.array_equal(loaded.describe(audio()), expected)
    save_projection(mean, projection, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "voice.safetensors").read_bytes()


def test_files_that_do_not_fit_are_refused(model_bin, tmp_path):
    save_projection(torch.zeros(8), torch.zeros(8, 5), tmp_path / "voice.safetensors")
    with pytest.raises(ValueError, match="width 8"):
        load_voice_net(model_bin, tmp_path / "voice.safetensors")


def test_an_encoder_has_the_layers_it_was_asked_for(model_bin):
    assert len(load_encoder(model_bin, layers=2).blocks) == 2
    assert isinstance(load_encoder(model_bin), Encoder)
