"""The published cross-attention classifier (VEMOCLAP, arXiv 2410.21303), and other fusions to compare it with.

All begin with the same Linear per feature and end with a Linear to the labels. As in the published one there is no
mask: the zeros that pad a sequence, and a missing feature, are items like any other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import permutations

import torch
from torch import Tensor, nn

from vemoclap_batch.fusion.spec import Fusion, FusionSpec


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
            raise ValueError(f"the spec asks for fusion {spec.fusion!r}: use build")
        d, sequences = spec.d_model, spec.sequences
        self.pairs = list(permutations(sequences, 2))
        projected = sequences if self.pairs else []
        self.query_proj, self.key_proj, self.value_proj = (
            nn.ModuleDict({name: nn.Linear(d, d) for name in projected}) for _ in range(3)
        )
        self.attention_layers = nn.ModuleDict(
            {f"{f}_{g}": nn.MultiheadAttention(d, spec.heads, batch_first=True) for f, g in self.pairs}
        )
        self.attn_norms = nn.ModuleDict({f"{f}_{g}": nn.LayerNorm(d) for f, g in self.pairs})
        singles = len(spec.features) - len(sequences)
        # A lone sequence has no pair: its mean over time takes the place (the released code leaves this undefined).
        parts = len(self.pairs) + singles + (1 if len(sequences) == 1 else 0)
        self.cls_mlp = nn.Sequential(nn.Linear(parts * d, len(spec.labels)))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits [batch, labels]."""
        encoded = self.encode(features)  # [B, n, d]
        parts = {name: x.squeeze(1) for name, x in encoded.items() if not self.spec.features[name].sequence}  # [B, d]
        parts |= self._attend(encoded)
        joined = torch.cat([parts[name] for name in sorted(parts)], dim=-1)  # [B, parts * d]
        return self.cls_mlp(torch.relu(joined))

    def _attend(self, encoded: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not self.pairs:
            return {name: encoded[name].mean(1) for name in self.spec.sequences}
        query, key, value = (
            {name: self.dropout(layer(encoded[name])) for name, layer in projections.items()}
            for projections in (self.query_proj, self.key_proj, self.value_proj)
        )
        parts = {}
        for f, g in self.pairs:
            attended, _ = self.attention_layers[f"{f}_{g}"](query[f], key[g], value[g], need_weights=False)
            parts[f"{f}_{g}"] = self.dropout(self.attn_norms[f"{f}_{g}"](attended)).mean(1)  # [B, d]
        return parts


class PooledClassifier(EncodingClassifier):
    """The mean over time of every feature, side by side (``concatenation``) or added up → ReLU → Linear."""

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__(spec)
        self.is_sum = spec.fusion == "addition"
        width = spec.d_model * (1 if self.is_sum else len(spec.features))
        self.cls_mlp = nn.Sequential(nn.Linear(width, len(spec.labels)))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits [batch, labels]."""
        means = [x.mean(1) for x in self.encode(features).values()]  # [B, d] each
        pooled = torch.stack(means).sum(0) if self.is_sum else torch.cat(means, dim=-1)
        return self.cls_mlp(torch.relu(pooled))


class SingleTransformer(EncodingClassifier):
    """One Transformer encoder layer over the items of all features and a class token, whose output → ReLU → Linear.

    A learnt vector a feature tells the layer whose item it sees. Items carry no position, as in the cross-attention.
    """

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__(spec)
        d = spec.d_model
        self.kinds = nn.ParameterDict({name: nn.Parameter(0.02 * torch.randn(d)) for name in self.encoders})
        self.token = nn.Parameter(0.02 * torch.randn(d))
        self.layer = nn.TransformerEncoderLayer(d, spec.heads, 4 * d, spec.dropout, batch_first=True)
        self.cls_mlp = nn.Sequential(nn.Linear(d, len(spec.labels)))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits [batch, labels]."""
        items = [x + self.kinds[name] for name, x in self.encode(features).items()]
        token = self.token.expand(len(items[0]), 1, -1)
        seen = self.layer(torch.cat([token, *items], dim=1))  # [B, 1 + items of all features, d]
        return self.cls_mlp(torch.relu(seen[:, 0]))


class LateAverage(Classifier):
    """One classifier per feature, each as if it were the only one; the mean of their probabilities.

    They are trained apart from each other; :meth:`assemble` joins them.
    """

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__(spec)
        self.members = nn.ModuleDict({name: AttentionClassifier(alone(spec, name)) for name in sorted(spec.features)})

    @classmethod
    def assemble(cls, spec: FusionSpec, members: Mapping[str, Classifier]) -> LateAverage:
        """The average of these classifiers, by feature; each must have the shape that :func:`alone` gives."""
        model = cls(spec)
        for name, member in model.members.items():
            member.load_state_dict(members[name].state_dict())
        return model.eval()

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logarithms of the mean probabilities [batch, labels]: logits, whose softmax they are."""
        each = torch.stack([torch.log_softmax(member(features), -1) for member in self.members.values()])
        return torch.logsumexp(each, 0) - math.log(len(each))


_CLASSES: dict[Fusion, type[Classifier]] = {
    "cross_attention": AttentionClassifier,
    "concatenation": PooledClassifier,
    "addition": PooledClassifier,
    "transformer": SingleTransformer,
    "late": LateAverage,
}
FUSIONS: tuple[Fusion, ...] = tuple(_CLASSES)


def build(spec: FusionSpec) -> Classifier:
    """The classifier that a spec asks for, with random weights."""
    return _CLASSES[spec.fusion](spec)


def alone(spec: FusionSpec, name: str) -> FusionSpec:
    """The published classifier of one feature: a Linear, the mean over time, ReLU, a Linear."""
    return spec.model_copy(update={"features": {name: spec.features[name]}, "fusion": "cross_attention"})
