"""The published cross-attention classifier (VEMOCLAP, arXiv 2410.21303), with its sizes as settings."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from vemoclap_batch.config import LABELS

Fusion = Literal["cross_attention", "concatenation", "addition", "transformer", "late"]


class FeatureSpec(BaseModel):
    """What the classifier takes of one feature.

    Attributes:
        space: the feature space that it was trained on; None when nothing is known (an imported checkpoint).
        length: items of a sequence; 1 for a single vector.
        minimum, maximum: over the training set, for (x - minimum) / (maximum - minimum).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int = Field(ge=1)
    length: int = Field(16, ge=1)
    sequence: bool
    minimum: float = 0.0
    maximum: float = 1.0
    space: str | None = None


class FusionSpec(BaseModel):
    """Everything that shapes the classifier; :func:`~vemoclap_batch.fusion.variants.build` makes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    features: dict[str, FeatureSpec]
    labels: tuple[str, ...] = LABELS
    d_model: int = Field(512, ge=1)
    heads: int = Field(4, ge=1)
    dropout: float = Field(0.5, ge=0, lt=1)
    # Left out of what is written where it is the published one, so that it changes no checkpoint's digest.
    fusion: Fusion = Field("cross_attention", exclude_if=lambda value: value == "cross_attention")

    @model_validator(mode="after")
    def _fits(self) -> FusionSpec:
        if not self.features:
            raise ValueError("at least one feature is needed")
        if self.d_model % self.heads:
            raise ValueError(f"d_model {self.d_model} must be a multiple of heads {self.heads}")
        return self

    @property
    def sequences(self) -> list[str]:
        """Names of the sequence features, sorted."""
        return sorted(name for name, feature in self.features.items() if feature.sequence)


class Classifier(nn.Module):
    """Any fusion: from per feature float32 [batch, length, width], normalised and zero-padded, to logits."""

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__()
        self.spec = spec


class EncodingClassifier(Classifier):
    """A fusion that begins with one Linear per feature, then dropout."""

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__(spec)
        features = sorted(spec.features.items())
        self.encoders = nn.ModuleDict({name: nn.Linear(f.width, spec.d_model) for name, f in features})
        self.dropout = nn.Dropout(spec.dropout)

    def encode(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Per feature [batch, length, d_model], in the order of the names."""
        return {name: self.dropout(layer(features[name])) for name, layer in self.encoders.items()}


class AttentionClassifier(EncodingClassifier):
    """Cross-attention between every ordered pair of sequences, one Linear on all of it: the published one.

    The names of the parameters are the published ones, so that the authors' weights load as they are.
    """

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__(spec)
        if spec.fusion != "cross_attention":
            raise ValueError(f"the spec asks for fusion {spec.fusion!r}: use fusion.variants.build")
        d, sequences = spec.d_model, spec.sequences
        self.pairs = list(permutations(sequences, 2))
        projected = sequences if self.pairs else []
        self.query_proj = nn.ModuleDict({name: nn.Linear(d, d) for name in projected})
        self.key_proj = nn.ModuleDict({name: nn.Linear(d, d) for name in projected})
        self.value_proj = nn.ModuleDict({name: nn.Linear(d, d) for name in projected})
        self.attention_layers = nn.ModuleDict(
            {f"{f}_{g}": nn.MultiheadAttention(d, spec.heads, batch_first=True) for f, g in self.pairs}
        )
        self.attn_norms = nn.ModuleDict({f"{f}_{g}": nn.LayerNorm(d) for f, g in self.pairs})
        singles = len(spec.features) - len(sequences)
        # A lone sequence has no pair: its mean over time takes the place (the released code leaves this undefined).
        parts = len(self.pairs) + singles + (1 if len(sequences) == 1 else 0)
        self.cls_mlp = nn.Sequential(nn.Linear(parts * d, len(spec.labels)))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Classify a batch.

        Args:
            features: per feature float32 [batch, length, width], normalised and zero-padded.

        Returns:
            Logits [batch, labels].
        """
        encoded = self.encode(features)  # [B, n, d]
        parts = {name: x.squeeze(1) for name, x in encoded.items() if not self.spec.features[name].sequence}  # [B, d]
        parts |= self._attend(encoded)
        joined = torch.cat([parts[name] for name in sorted(parts)], dim=-1)  # [B, parts * d]
        return self.cls_mlp(torch.relu(joined))

    def _attend(self, encoded: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not self.pairs:
            return {name: encoded[name].mean(1) for name in self.spec.sequences}
        query = {name: self.dropout(layer(encoded[name])) for name, layer in self.query_proj.items()}
        key = {name: self.dropout(layer(encoded[name])) for name, layer in self.key_proj.items()}
        value = {name: self.dropout(layer(encoded[name])) for name, layer in self.value_proj.items()}
        parts = {}
        for f, g in self.pairs:
            attended, _ = self.attention_layers[f"{f}_{g}"](query[f], key[g], value[g], need_weights=False)
            parts[f"{f}_{g}"] = self.dropout(self.attn_norms[f"{f}_{g}"](attended)).mean(1)  # [B, d]
        return parts
