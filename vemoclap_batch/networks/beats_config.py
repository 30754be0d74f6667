"""The architectures of the BEATs family, as the checkpoints of its authors describe them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vemoclap_batch.networks.fbank import BANDS

#: Between the two feed-forward layers; ``glu`` puts its gate into the first of them.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_accurate": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_fast": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "tanh": torch.tanh,
    "linear": lambda x: x,
    "glu": lambda x: x,
}
#: What a checkpoint says of its training; it does not change what the network computes.
_TRAINING = frozenset(
    "activation_dropout attention_dropout dropout dropout_input encoder_layerdrop layer_wise_gradient_decay_ratio "
    "predictor_dropout".split()
)


@dataclass(frozen=True)
class BeatsConfig:
    """What decides the architecture: the entry ``cfg`` of a checkpoint, with its names and its authors' defaults.

    Attributes:
        input_patch_size: side of a patch, in frames and in mel bands.
        embed_dim, conv_bias: width of a patch's embedding, and whether it has a bias.
        encoder_embed_dim: width of the tokens.
        layer_norm_first: normalise before attention and feed-forward rather than after.
        deep_norm: weigh the residuals of a post-norm layer by (2 layers)^(1/4).
        conv_pos, conv_pos_groups: kernel and groups of the convolution that tells tokens where they are.
        relative_position_embedding: add to attention a bias for the distance between tokens, in ``num_buckets`` up to
            ``max_distance``; with ``gru_rel_pos`` weighed by what the query is.
        finetuned_model, predictor_class: whether there is a classifier, and its classes.
    """

    input_patch_size: int = -1
    embed_dim: int = 512
    conv_bias: bool = False
    encoder_layers: int = 12
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072
    encoder_attention_heads: int = 12
    activation_fn: str = "gelu"
    layer_norm_first: bool = False
    deep_norm: bool = False
    conv_pos: int = 128
    conv_pos_groups: int = 16
    relative_position_embedding: bool = False
    num_buckets: int = 320
    max_distance: int = 1280
    gru_rel_pos: bool = False
    finetuned_model: bool = False
    predictor_class: int = 527

    @classmethod
    def of(cls, cfg: Mapping[str, Any]) -> BeatsConfig:
        """The architecture that a checkpoint's ``cfg`` describes.

        Raises:
            ValueError: it has entries that BEATs does not have, or values it cannot have; names all of them.
        """
        types = {field.name: type(field.default) for field in fields(cls)}
        mistakes = [f"{name!r} is no setting of BEATs" for name in cfg if name not in types and name not in _TRAINING]
        for name, kind in types.items():
            if name in cfg and type(cfg[name]) is not kind:
                mistakes.append(f"{name} = {cfg[name]!r}: expected {kind.__name__}")
        if not mistakes:
            config = cls(**{name: cfg[name] for name in types if name in cfg})
            mistakes = config._mistakes()
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return config

    def _mistakes(self) -> list[str]:
        numbers = {field.name: getattr(self, field.name) for field in fields(self) if type(field.default) is int}
        mistakes = [f"{name} = {value}: expected at least 1" for name, value in numbers.items() if value < 1]
        if mistakes:
            return mistakes
        if self.input_patch_size > BANDS:
            mistakes.append(f"input_patch_size = {self.input_patch_size}: there are {BANDS} mel bands")
        width = self.encoder_embed_dim
        for name in ("encoder_attention_heads", "conv_pos_groups"):
            if width % (divisor := getattr(self, name)):
                mistakes.append(f"{name} = {divisor} does not divide encoder_embed_dim = {width}")
        if self.activation_fn not in ACTIVATIONS:
            mistakes.append(f"activation_fn = {self.activation_fn!r}: expected one of {', '.join(ACTIVATIONS)}")
        if self.num_buckets < 4 or self.max_distance <= self.num_buckets // 4:
            given = f"num_buckets = {self.num_buckets}, max_distance = {self.max_distance}"
            mistakes.append(f"{given}: expected at least 4 buckets, and a distance beyond a quarter of them")
        return mistakes
