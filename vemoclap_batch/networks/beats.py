"""BEATs (Chen et al., 2022): a transformer over patches of a log-mel spectrogram, read from its authors' checkpoints.

Parameters have the names that they have in those checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vemoclap_batch.networks.beats_config import ACTIVATIONS, BeatsConfig
from vemoclap_batch.networks.fbank import FRAME, HOP, Fbank


class PositionConv(nn.Module):
    """A grouped convolution over time as long as its input, its weights split into direction and length per tap."""

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.bias = nn.Parameter(torch.zeros(width))
        self.weight_g = nn.Parameter(torch.ones(1, 1, kernel))
        self.weight_v = nn.Parameter(torch.randn(width, width // groups, kernel))

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, T] to the same."""
        weight = self.weight_v * (self.weight_g / self.weight_v.norm(dim=(0, 1), keepdim=True))
        y = F.conv1d(x, weight, self.bias, padding=weight.shape[2] // 2, groups=self.groups)
        # An even kernel gives one too many.
        return y[..., : x.shape[2]]


class GatedUnit(nn.Module):
    """The first feed-forward layer for ``activation_fn = "glu"``: one half gated by the other."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, 2 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        value, gate = self.linear(x).chunk(2, -1)
        return value * F.silu(gate)


class Attention(nn.Module):
    """Self-attention with a bias for the distance between tokens, which each query may gate."""

    def __init__(self, config: BeatsConfig, distances: nn.Embedding | None) -> None:
        """Make one of ``config``'s layers; ``distances`` is the bias of each bucket of distances, None for no bias."""
        super().__init__()
        width, self.heads = config.encoder_embed_dim, config.encoder_attention_heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        # The same module in all layers: a checkpoint holds it under the name of each.
        self.relative_attention_bias = distances
        if config.gru_rel_pos:
            self.grep_linear = nn.Linear(width // self.heads, 8)
            self.grep_a = nn.Parameter(torch.ones(1, self.heads, 1, 1))
        self.gated = config.gru_rel_pos

    def forward(self, x: Tensor, bias: Tensor | None, padded: Tensor | None) -> Tensor:
        """Tokens [B, n, width] to the same, by the bias [heads, n, n]; none attends to the padded ones, bool [B, n]."""
        query, key, value = (
            project(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # [B, heads, n, width / heads]
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mask = None
        if bias is not None:
            mask = (self._gate(query) * bias if self.gated else bias[None]).to(query.dtype)  # [B or 1, heads, n, n]
        if padded is not None:
            own = ~padded[:, None, None, :]
            mask = own if mask is None else mask.masked_fill(~own, -math.inf)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _gate(self, query: Tensor) -> Tensor:
        """How much each query minds the distance: [B, heads, n, 1]."""
        update, reset = self.grep_linear(query).unflatten(-1, (2, 4)).sum(-1, keepdim=True).sigmoid().unbind(-2)
        return update * (reset * self.grep_a - 1) + 2


class Layer(nn.Module):
    """Attention and a feed-forward network, each with a residual and a norm."""

    def __init__(self, config: BeatsConfig, distances: nn.Embedding | None) -> None:
        super().__init__()
        width, inner = config.encoder_embed_dim, config.encoder_ffn_embed_dim
        self.norm_first = config.layer_norm_first
        self.residual = (2 * config.encoder_layers) ** 0.25 if config.deep_norm else 1.0
        self.self_attn = Attention(config, distances)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        gated = config.activation_fn == "glu"
        self.fc1 = GatedUnit(width, inner) if gated else nn.Linear(width, inner)
        self.activation = ACTIVATIONS[config.activation_fn]
        self.fc2 = nn.Linear(inner, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, bias: Tensor | None, padded: Tensor | None) -> Tensor:
        """[B, n, width] to the same; the other arguments are those of :meth:`Attention.forward`."""
        if self.norm_first:
            # The authors' pre-norm layers leave the residuals as they are, with deep_norm too.
            x = x + self.self_attn(self.self_attn_layer_norm(x), bias, padded)
            return x + self._feed_forward(self.final_layer_norm(x))
        x = self.self_attn_layer_norm(self.residual * x + self.self_attn(x, bias, padded))
        return self.final_layer_norm(self.residual * x + self._feed_forward(x))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class Encoder(nn.Module):
    """The transformer over tokens."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.config = config
        width = config.encoder_embed_dim
        self.pos_conv = nn.Sequential(PositionConv(width, config.conv_pos, config.conv_pos_groups), nn.GELU())
        relative = config.relative_position_embedding
        distances = nn.Embedding(config.num_buckets, config.encoder_attention_heads) if relative else None
        self.layers = nn.ModuleList(Layer(config, distances) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, padded: Tensor | None) -> Tensor:
        """Tokens [B, n, width] to the same; those that are ``padded``, bool [B, n], change no other."""
        if padded is not None:
            x = x.masked_fill(padded[..., None], 0)
        x = x + self.pos_conv(x.transpose(1, 2)).transpose(1, 2)
        if not self.config.layer_norm_first:
            x = self.layer_norm(x)
        bias = self._bias(x)
        for layer in self.layers:
            x = layer(x, bias, padded)
        return self.layer_norm(x) if self.config.layer_norm_first else x

    def _bias(self, x: Tensor) -> Tensor | None:
        """The bias for every pair of tokens: [heads, n, n]."""
        first = self.layers[0]
        assert isinstance(first, Layer)
        if (distances := first.self_attn.relative_attention_bias) is None:
            return None
        buckets = distance_buckets(x.shape[1], self.config.num_buckets, self.config.max_distance)
        return distances(buckets.to(x.device)).permute(2, 0, 1)


def distance_buckets(length: int, buckets: int, farthest: int) -> Tensor:
    """Which bias goes with each pair of tokens, as in T5: int64 [length, length], query by key.

    The first half of the buckets is for keys before the query. Half of each half is for one distance each, the rest
    widen with its logarithm up to ``farthest``. On the CPU, for the rounding of logarithms decides about borders.
    """
    place = torch.arange(length)
    offset = place - place[:, None]
    side = buckets // 2
    near = side // 2
    distance = offset.abs()
    widening = torch.log(distance.clamp(min=near).float() / near) / math.log(farthest / near) * (side - near)
    bucket = torch.where(distance < near, distance, (near + widening.long()).clamp(max=side - 1))
    return bucket + side * (offset > 0)


class Beats(nn.Module):
    """Tokens of a waveform, and the probabilities of the events that a fine-tuned checkpoint knows.

    Attributes:
        labels: AudioSet's id of each class, in order; empty where the checkpoint names none.
    """

    def __init__(self, config: BeatsConfig, labels: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.config, self.labels = config, labels
        side, width = config.input_patch_size, config.encoder_embed_dim
        self.fbank = Fbank()
        self.patch_embedding = nn.Conv2d(1, config.embed_dim, side, side, bias=config.conv_bias)
        self.layer_norm = nn.LayerNorm(config.embed_dim)
        self.post_extract_proj = nn.Linear(config.embed_dim, width) if config.embed_dim != width else None
        self.encoder = Encoder(config)
        self.predictor = nn.Linear(width, config.predictor_class) if config.finetuned_model else None

    @property
    def shortest(self) -> int:
        """Samples that the first token in time needs."""
        return FRAME + (self.config.input_patch_size - 1) * HOP

    def forward(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The tokens of waveforms: for each patch of time in order, one for each patch of mel bands.

        Args:
            waveform: float32 [B, samples], mono, 16 kHz, in [-1, 1).
            lengths: int [B], the samples of each before its padding, None for no padding; padding adds no tokens but
                to a waveform too short for any, which has those of one patch of time.

        Returns:
            float32 [B, n, width]; zero where not a whole patch is left of the waveform.

        Raises:
            ValueError: waveforms too short for a single token, or lengths that are not those of these waveforms.
        """
        return self._encode(waveform, lengths)[0]

    def embed(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The mean over the tokens of each waveform: float32 [B, width]; arguments and errors of :meth:`forward`."""
        tokens, counts = self._encode(waveform, lengths)
        return tokens.float().sum(1) / counts[:, None]

    def events(self, embedding: Tensor) -> Tensor:
        """The probability of each event in audio whose embedding is [..., width]: [..., classes].

        Raises:
            ValueError: the checkpoint was not fine-tuned, so it knows no events.
        """
        if self.predictor is None:
            raise ValueError("this checkpoint has no predictor: it was not fine-tuned")
        return self.predictor(embedding).float().sigmoid()

    def _encode(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """The tokens [B, n, width], and how many of them are each waveform's own, int64 [B]."""
        if waveform.shape[1] < self.shortest:
            raise ValueError(f"waveforms of {waveform.shape[1]} samples: this network needs at least {self.shortest}")
        if lengths is not None:
            lengths = _checked(lengths.to(waveform.device), waveform)
            waveform = waveform.masked_fill(_beyond(lengths, waveform), 0)
        patches = self.patch_embedding(self.fbank(waveform)[:, None])  # [B, embed, time, mel]
        x = self.layer_norm(patches.flatten(2).transpose(1, 2))  # [B, time * mel, embed]
        if self.post_extract_proj is not None:
            x = self.post_extract_proj(x)
        if lengths is None:
            return self.encoder(x, None), torch.full((len(x),), x.shape[1], device=x.device)
        frames = (lengths - FRAME) // HOP + 1
        counts = (frames // self.config.input_patch_size).clamp(min=1) * patches.shape[3]
        padded = _beyond(counts, x)
        return self.encoder(x, padded).masked_fill(padded[..., None], 0), counts


def _beyond(counts: Tensor, items: Tensor) -> Tensor:
    """Which of the items [B, n, ...] come after the first ``counts`` [B]: bool [B, n]."""
    return torch.arange(items.shape[1], device=items.device) >= counts[:, None]


def _checked(lengths: Tensor, waveform: Tensor) -> Tensor:
    """The lengths of waveforms [B, samples]: int64 [B]; ValueError if they are not int [B] of 1 to samples."""
    longest = waveform.shape[1]
    whole = not lengths.is_floating_point() and lengths.dtype != torch.bool
    if lengths.shape != waveform.shape[:1] or not whole or not ((lengths > 0) & (lengths <= longest)).all():
        given = f"{str(lengths.dtype).removeprefix('torch.')} {lengths.flatten().tolist()[:16]}"
        raise ValueError(f"lengths: {given}; expected for each of {len(waveform)} waveforms an int from 1 to {longest}")
    return lengths.long()


def load_beats(path: str | Path) -> Beats:
    """The network in a checkpoint of its authors, in float32 on the CPU and in evaluation mode.

    That is a dict with ``cfg`` (see :class:`BeatsConfig`), ``model`` (name -> tensor) and, where there is a classifier,
    ``label_dict`` (index -> AudioSet id). Nothing in the file is run.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is broken, holds more than weights, or is not a BEATs checkpoint of a known architecture.
    """
    with Path(path).open("rb") as file:
        try:
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(f"{path} is broken, or holds more than weights; it was not loaded: {error}") from error
    entries = checkpoint if isinstance(checkpoint, dict) else {}
    if not all(isinstance(entries.get(name), dict) for name in ("cfg", "model")):
        raise ValueError(f"{path} is no BEATs checkpoint: expected a dict with the dicts 'cfg' and 'model'")
    try:
        config = BeatsConfig.of(entries["cfg"])
        network = Beats(config, _labels(entries.get("label_dict") or {}, config))
        network.load_state_dict(entries["model"])
    except (ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no BEATs checkpoint that this network can run: {error}") from error
    return network.eval().requires_grad_(False)


def _labels(names: Mapping[int, str], config: BeatsConfig) -> tuple[str, ...]:
    """The id of each class in order, none of a pre-trained checkpoint; ValueError if they are not the classes'."""
    if not names or not config.finetuned_model:
        return ()
    if set(names) != set(range(config.predictor_class)) or not all(isinstance(name, str) for name in names.values()):
        last = config.predictor_class - 1
        raise ValueError(f"label_dict names {len(names)} classes; expected a text for each of 0 to {last}")
    return tuple(names[index] for index in range(config.predictor_class))
