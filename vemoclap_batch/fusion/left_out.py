"""What a classifier says when features, or single items of a sequence, are left out: the ground of explanations.

What is left out is what the classifier itself takes for missing: zeros after normalising.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vemoclap_batch.fusion.model import AttentionClassifier, Classifier

#: Examples in one pass of a classifier that is asked as it is.
_PASS = 512
Batch = Mapping[str, Tensor]


def subsets(names: int) -> np.ndarray:
    """Every subset of so many features, bool [2**names, names]: bit i of its number says whether feature i is in it."""
    return (np.arange(2**names)[:, None] >> np.arange(names)[None]) % 2 == 1


def leave_out(model: Classifier, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """The logits of a classifier with every subset of its features, and without each item of its sequences.

    Args:
        model: in evaluation mode.
        batch: per feature float32 [batch, length, width], normalised and zero-padded.

    Returns:
        Logits [batch, 2**features, labels], the subsets in the order of :func:`subsets` over the features' names,
        sorted; and per sequence logits [batch, length, labels], item i replaced by zeros, which pad a sequence too.
    """
    if isinstance(model, AttentionClassifier) and model.pairs:
        return _of_attention(model, batch)
    return of_any(model, batch)


def of_any(model: Classifier, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """:func:`leave_out` by asking the classifier for each subset and item."""
    names = sorted(batch)
    of_subsets = []
    for present in subsets(len(names)):
        kept = dict(zip(names, present, strict=True))
        of_subsets.append(_logits(model, {name: x if kept[name] else torch.zeros_like(x) for name, x in batch.items()}))
    of_items = {}
    for name in model.spec.sequences:
        without = []
        for item in range(batch[name].shape[1]):
            changed = batch[name].clone()
            changed[:, item] = 0
            without.append(_logits(model, {**batch, name: changed}))
        of_items[name] = torch.stack(without, 1)
    return torch.stack(of_subsets, 1), of_items


def _logits(model: Classifier, batch: Batch) -> Tensor:
    count = len(next(iter(batch.values())))
    parts = [model({name: x[at : at + _PASS] for name, x in batch.items()}) for at in range(0, count, _PASS)]
    return torch.cat(parts)


def _of_attention(model: AttentionClassifier, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """:func:`leave_out` of the published classifier, in little more than one pass.

    All but its last layers sees pairs of features at most, so that their outputs are computed once, and put together
    for each subset. A zero item is one more query and one more key.
    """
    names, sequences = sorted(batch), model.spec.sequences
    encoded = {name: model.encoders[name](_with_zero(batch[name])) for name in names}  # [B, n + 1, d]
    # The last layer is linear: what each part adds to the logits is computed by itself.
    last: Any = model.cls_mlp[-1]
    weights: dict[str, Tensor] = {}
    pairs = {f"{f}_{g}": (f, g) for f, g in model.pairs}
    singles = [name for name in names if name not in sequences]
    for number, part in enumerate(sorted([*pairs, *singles])):
        weights[part] = last.weight[:, number * model.spec.d_model : (number + 1) * model.spec.d_model]

    def added(part: str, value: Tensor) -> Tensor:
        return functional.linear(torch.relu(value), weights[part])

    present = torch.from_numpy(subsets(len(names)).astype(np.int64))  # [S, features]
    of_subsets = last.bias.expand(len(encoded[names[0]]), len(present), -1).clone()  # [B, S, labels]
    changes = {name: torch.zeros(()) for name in sequences}  # [B, n, labels]
    for name in singles:
        of_subsets += added(name, encoded[name].flip(1))[:, present[:, names.index(name)]]
    for part, (f, g) in pairs.items():
        pair = _Pair(model, f, g, encoded[f], encoded[g])
        whole = added(part, pair.parts)  # [B, 2, 2, labels]
        of_subsets += whole[:, present[:, names.index(f)], present[:, names.index(g)]]
        changes[f] = changes[f] + added(part, pair.without_query) - whole[:, 1, 1, None]
        changes[g] = changes[g] + added(part, pair.without_key) - whole[:, 1, 1, None]
    return of_subsets, {name: of_subsets[:, -1:] + change for name, change in changes.items()}


def _with_zero(x: Tensor) -> Tensor:
    return functional.pad(x, (0, 0, 0, 1))


class _Pair:
    """The attention of one sequence's items to another one's, with and without each.

    Attributes:
        parts: [batch, 2, 2, d], whether the first and the second are there.
        without_query: [batch, items of the first, d], each left out in turn.
        without_key: [batch, items of the second, d].
    """

    def __init__(self, model: AttentionClassifier, f: str, g: str, first: Tensor, second: Tensor) -> None:
        layer: Any = model.attention_layers[f"{f}_{g}"]
        self._norm = model.attn_norms[f"{f}_{g}"]
        heads, d = layer.num_heads, layer.embed_dim
        weights, biases = layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3)
        projected = (model.query_proj[f](first), model.key_proj[g](second), model.value_proj[g](second))
        query, key, value = (
            functional.linear(x, weight, bias).unflatten(-1, (heads, d // heads)).transpose(1, 2)  # [B, h, n + 1, d/h]
            for x, weight, bias in zip(projected, weights, biases, strict=True)
        )
        self._bias = layer.out_proj.bias
        # The output layer is linear: each head's values go through it before they are added up.
        out = layer.out_proj.weight.unflatten(1, (heads, d // heads))  # [d, h, d/h]
        values = torch.einsum("bhkc,dhc->bhkd", value, out)  # [B, h, k + 1, d]
        scores = query @ key.transpose(-1, -2) / math.sqrt(d // heads)  # [B, h, q + 1, k + 1]
        attended = self._attended(scores[..., :-1].softmax(-1), values[:, :, :-1])  # [B, q + 1, d]
        items, zero = attended[:, :-1], attended[:, -1]
        mean = items.mean(1)
        absent_key = self._norm(values[:, :, -1].sum(1) + self._bias)  # all keys are alike then: [B, d]
        self.parts = torch.stack([torch.stack([absent_key, zero], 1), torch.stack([absent_key, mean], 1)], 1)
        self.without_query = mean[:, None] + (zero[:, None] - items) / items.shape[1]
        self.without_key = self._without_key(scores[:, :, :-1], values)

    def _attended(self, weights: Tensor, values: Tensor) -> Tensor:
        return self._norm(torch.einsum("bhqk,bhkd->bqd", weights, values) + self._bias)

    def _without_key(self, scores: Tensor, values: Tensor) -> Tensor:
        """The mean over queries with each key in turn replaced by that of a zero item."""
        count = scores.shape[-1] - 1
        # [B, h, q, i, k + 1]: without key i, the zero item's stands in; with none missing it is not there.
        left_out = torch.eye(count, count + 1, dtype=torch.bool)
        weights = scores.unsqueeze(-2).expand(-1, -1, -1, count, -1).masked_fill(left_out, -math.inf).softmax(-1)
        batch, heads, queries = weights.shape[:3]
        # Matrices [q * i, h * k] by [h * k, d], in place of one small product a head.
        flat = weights.permute(0, 2, 3, 1, 4).reshape(batch, queries * count, heads * (count + 1))
        attended = self._norm(torch.baddbmm(self._bias, flat, values.flatten(1, 2)))
        return attended.unflatten(1, (queries, count)).mean(1)
