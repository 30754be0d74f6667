"""What the published cross-attention is compared with: other fusions of the same features, trained the same way.

All begin with the same Linear per feature and end with a Linear to the labels. As in the published one there is no
mask: the zeros that pad a sequence, and a missing feature, are items like any other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vemoclap_batch.fusion.model import AttentionClassifier, Classifier, EncodingClassifier, Fusion, FusionSpec


class Concatenation(EncodingClassifier):
    """The mean over time of every feature, side by side → ReLU → Linear."""

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__(spec)
        self.cls_mlp = nn.Sequential(nn.Linear(len(spec.features) * spec.d_model, len(spec.labels)))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits [batch, labels]."""
        joined = torch.cat([x.mean(1) for x in self.encode(features).values()], dim=-1)  # [B, features * d]
        return self.cls_mlp(torch.relu(joined))


class Addition(EncodingClassifier):
    """The mean over time of every feature, added up → ReLU → Linear."""

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__(spec)
        self.cls_mlp = nn.Sequential(nn.Linear(spec.d_model, len(spec.labels)))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits [batch, labels]."""
        added = torch.stack([x.mean(1) for x in self.encode(features).values()]).sum(0)  # [B, d]
        return self.cls_mlp(torch.relu(added))


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

    The classifiers know nothing of each other: :meth:`assemble` joins ones that were trained apart.
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
    "concatenation": Concatenation,
    "addition": Addition,
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
