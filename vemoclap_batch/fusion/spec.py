"""The shape of a classifier, without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
    """Everything that shapes the classifier; :func:`vemoclap_batch.fusion.model.build` makes it."""

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
