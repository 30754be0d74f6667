"""What the authors of VEMOCLAP (arXiv 2410.21303) released: the features' facts, and their checkpoint's files."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from vemoclap_batch.config import LABELS, ConfigError
from vemoclap_batch.fusion.checkpoint import Checkpoint
from vemoclap_batch.fusion.model import AttentionClassifier, FeatureSpec, FusionSpec
from vemoclap_batch.fusion.safe_pickle import load

FRAMES, HEADS, DROPOUT = 16, 4, 0.5
_TEXT = "vemoclap/twitter-roberta-base-sentiment-latest"

#: The published features as the released classifier takes them: widths, spaces, and minimum and maximum over its
#: training set.
FEATURES = {
    "asr_sentiment": FeatureSpec(
        width=768, length=1, sequence=False, minimum=-3.8625615, maximum=31.99348, space=_TEXT
    ),
    "beats": FeatureSpec(
        width=768, sequence=True, minimum=-4.46773, maximum=6.2564635, space="vemoclap/beats-iter3plus-as2m-cpt2"
    ),
    "clip": FeatureSpec(
        width=512, sequence=True, minimum=-11.513216, maximum=5.377771, space="vemoclap/clip-vit-b32-openai"
    ),
    "face_emotion": FeatureSpec(
        width=768, sequence=True, minimum=-93.499756, maximum=83.87972, space="vemoclap/vit-face-expression"
    ),
    "ocr_sentiment": FeatureSpec(
        width=768, length=1, sequence=False, minimum=-3.5364149, maximum=31.442732, space=_TEXT
    ),
}  # fmt: skip
#: Said wherever an imported checkpoint is described.
LEAK = (
    "the released weights were trained on 90 % of the whole cleaned Ekman-6: if these are they, scores on its usual "
    "test split are of videos they were trained on"
)
_SHOWN = 5


def feature_space(name: str, width: int) -> str | None:
    """The space of an imported feature: the published one, or for another width one that fits imports of it alone."""
    published = FEATURES[name]
    return published.space if width == published.width else f"imported/{name}-{width}"


@dataclass
class Imported:
    """A checkpoint made of the authors' files.

    Attributes:
        warnings: what a user should decide about.
        notes: what was assumed, and what to know before trusting it.
    """

    checkpoint: Checkpoint
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_checkpoint(
    model: str | Path, config: str | Path | None = None, stats: str | Path | None = None, heads: int = HEADS
) -> Imported:
    """Read ``model.pt`` and, where given, ``model_config.pt`` and ``stats.pt``; runs no code of theirs.

    Args:
        model: a plain state_dict.
        config: the released configuration; without it, dimensions come from the weights' shapes, sequences have
            16 items and the labels are the published ones in their published order.
        stats: feature → minimum and maximum over the training set; without it, the released values.
        heads: attention heads. The weights fit any number that divides their width, so nothing can check it: the paper
            and the released program say 4, the released configuration 8.

    Raises:
        ConfigError: with every mistake found in the files.
    """
    mistakes: list[str] = []
    state = _read(model, mistakes)
    settings = _read(config, mistakes) if config is not None else None
    measured = _read(stats, mistakes) if stats is not None else None
    if mistakes:
        raise ConfigError(mistakes)
    weights = _weights(model, state, mistakes)
    given = _Configuration.of(config, settings, mistakes)
    if mistakes:
        raise ConfigError(mistakes)
    features = _features(weights, given, measured, stats, mistakes)
    spec = _spec(model, weights, features, given, heads, mistakes)
    if spec is None or mistakes:
        raise ConfigError(mistakes)
    result = Imported(Checkpoint(_classifier(model, spec, weights)))
    _explain(result, given, heads, stats)
    result.checkpoint.card = {
        "imported_from": Path(model).name,
        "sha256": hashlib.sha256(Path(model).read_bytes()).hexdigest(),
        "notes": result.warnings + result.notes,
        "leaks": LEAK,
    }
    return result


def _read(path: str | Path, mistakes: list[str]) -> Any:
    try:
        return load(path)
    except FileNotFoundError:
        mistakes.append(f"{str(path)!r}: no such file")
    except ValueError as error:
        mistakes.append(str(error))
    return None


# ---- model.pt


def _weights(path: str | Path, state: Any, mistakes: list[str]) -> dict[str, np.ndarray]:
    """The parameters as float32, or a mistake that says what the file holds instead."""
    is_state = isinstance(state, dict) and state and all(isinstance(x, np.ndarray) for x in state.values())
    if not is_state:
        found = f"a {type(state).__name__}"
        if isinstance(state, dict):
            found += f" with {', '.join(map(str, list(state)[:_SHOWN]))}"
        mistakes.append(f"{str(path)!r}: expected a plain state_dict, parameter → tensor; found {found}")
        return {}
    weights = {}
    for name, array in state.items():
        if not np.issubdtype(array.dtype, np.floating):
            mistakes.append(f"{str(path)!r}: {name} holds {array.dtype}, no real numbers")
            continue
        weights[str(name)] = array.astype(np.float32)
        if not np.isfinite(weights[str(name)]).all():
            mistakes.append(f"{str(path)!r}: {name} holds numbers that are not finite")
    encoders = _encoders(weights)
    unknown = sorted(set(encoders) - set(FEATURES))
    if unknown or not encoders:
        mistakes.append(
            f"{str(path)!r}: encoders of {', '.join(unknown) or 'no feature'}; expected some of {', '.join(FEATURES)}"
        )
    mistakes += [
        f"{str(path)!r}: encoders.{name}.weight has shape {list(array.shape)}, expected [d_model, width]"
        for name, array in encoders.items()
        if array.ndim != 2 or not array.size
    ]
    if "cls_mlp.0.bias" not in weights or not weights["cls_mlp.0.bias"].size:
        mistakes.append(f"{str(path)!r}: no cls_mlp.0.bias")
    return weights


def _encoders(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        name.removeprefix("encoders.").removesuffix(".weight"): array
        for name, array in sorted(weights.items())
        if name.startswith("encoders.") and name.endswith(".weight")
    }


def _classifier(path: str | Path, spec: FusionSpec, weights: Mapping[str, np.ndarray]) -> AttentionClassifier:
    # Without memory of its own until the weights fit: a wrong shape could ask for any amount.
    with torch.device("meta"):
        model = AttentionClassifier(spec)
    expected = {name: list(x.shape) for name, x in model.state_dict().items()}
    found = {name: list(array.shape) for name, array in weights.items()}
    mistakes = [
        f"{str(path)!r}: {what} {_some(names)}"
        for what, names in (
            ("lacks", sorted(expected.keys() - found.keys())),
            ("has parameters that the classifier has not:", sorted(found.keys() - expected.keys())),
        )
        if names
    ]
    mistakes += [
        f"{str(path)!r}: {name} has shape {found[name]}, expected {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    if mistakes:
        raise ConfigError(mistakes)
    model.load_state_dict({name: torch.tensor(array) for name, array in weights.items()}, assign=True)
    return model.eval()


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


# ---- model_config.pt


@dataclass
class _Configuration:
    """The settings of ``model_config.pt`` that shape the classifier; None for what it does not say."""

    name: str = ""
    dims: dict[str, int] | None = None
    lengths: dict[str, int] | None = None
    features: list[str] | None = None
    labels: tuple[str, ...] | None = None
    d_model: int | None = None
    n_labels: int | None = None
    heads: int | None = None
    frames: int | None = None
    dropout: float | None = None
    normalises: bool = True

    @classmethod
    def of(cls, path: str | Path | None, settings: Any, mistakes: list[str]) -> _Configuration:
        if path is None:
            return cls()
        if not isinstance(settings, dict):
            mistakes.append(f"{str(path)!r}: expected a dict of settings, found a {type(settings).__name__}")
            return cls()
        read = _Reader(str(path), settings, mistakes)
        return cls(
            name=str(path),
            dims=read("feature_dims", "feature → width", lambda x: {str(k): _count(v) for k, v in x.items()}),
            lengths=read("feature_lengths", "feature → items", lambda x: {str(k): _count(v) for k, v in x.items()}),
            features=read("features", "a list of names", lambda x: sorted(_names(x))),
            labels=read("labels", "a list of names", lambda x: tuple(name.lower() for name in _names(x))),
            d_model=read("d_model", "a number", _count),
            n_labels=read("n_labels", "a number", _count),
            heads=read("n_heads", "a number", _count),
            frames=read("n_frames", "a number", _count),
            dropout=read("dropout", "a number", float),
            normalises=read("normalize_data", "true or false", bool) is not False,
        )


class _Reader:
    def __init__(self, name: str, settings: Mapping[str, Any], mistakes: list[str]) -> None:
        self.name, self.settings, self.mistakes = name, settings, mistakes

    def __call__(self, key: str, expected: str, convert: Any) -> Any:
        if self.settings.get(key) is None:
            return None
        try:
            return convert(self.settings[key])
        except (TypeError, ValueError, AttributeError):
            self.mistakes.append(f"{self.name!r}: {key} = {self.settings[key]!r}: expected {expected}")
            return None


def _count(value: Any) -> int:
    if int(value) != value or value < 1:
        raise ValueError
    return int(value)


def _names(value: Any) -> list[str]:
    """A list of names; a mapping index → name counts as one."""
    if isinstance(value, dict):
        value = [value[index] for index in sorted(value, key=int)]
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError
    return [str(name) for name in value]


# ---- what they say together


def _features(
    weights: Mapping[str, np.ndarray], given: _Configuration, measured: Any, stats: str | Path | None,
    mistakes: list[str],
) -> dict[str, FeatureSpec]:  # fmt: skip
    encoders = _encoders(weights)
    for key, names in (("feature_dims", given.dims), ("feature_lengths", given.lengths), ("features", given.features)):
        if names is not None and set(names) != set(encoders):
            told, have = ", ".join(sorted(names)), ", ".join(encoders)
            mistakes.append(f"{given.name!r}: {key} names {told}; the weights have {have}")
    features = {}
    for name, array in encoders.items():
        width, published = array.shape[1], FEATURES[name]
        if given.dims and given.dims.get(name, width) != width:
            mistakes.append(f"{given.name!r}: feature_dims of {name} is {given.dims[name]}; the weights take {width}")
        length = given.frames or FRAMES if published.sequence else 1
        length = (given.lengths or {}).get(name, length)
        if length > 1 and not published.sequence:
            mistakes.append(f"{given.name!r}: feature_lengths of {name} is {length}; it is a single vector")
        low, high = (published.minimum, published.maximum) if given.normalises else (0.0, 1.0)
        if stats is not None:
            low, high = _range(str(stats), measured, name, mistakes)
        features[name] = FeatureSpec(
            width=width, length=length, sequence=published.sequence, minimum=low, maximum=high,
            space=feature_space(name, width),
        )  # fmt: skip
    return features


def _range(path: str, measured: Any, name: str, mistakes: list[str]) -> tuple[float, float]:
    """The minimum and maximum of one feature in ``stats.pt``."""
    try:
        low, high = (float(np.asarray(measured[name][key]).item()) for key in ("min", "max"))
    except (KeyError, TypeError, ValueError, IndexError):
        mistakes.append(f"{path!r}: no min and max of {name!r} (one number each)")
        return 0.0, 1.0
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        mistakes.append(f"{path!r}: {name} has min {low} and max {high}; expected numbers, the first one smaller")
    return low, high


def _spec(
    path: str | Path, weights: Mapping[str, np.ndarray], features: dict[str, FeatureSpec], given: _Configuration,
    heads: int, mistakes: list[str],
) -> FusionSpec | None:  # fmt: skip
    d_model, n_labels = next(iter(_encoders(weights).values())).shape[0], len(weights["cls_mlp.0.bias"])
    for key, said, found in (("d_model", given.d_model, d_model), ("n_labels", given.n_labels, n_labels)):
        if said is not None and said != found:
            mistakes.append(f"{given.name!r}: {key} is {said}; the weights have {found}")
    labels = given.labels or LABELS
    if len(labels) != n_labels:
        source = repr(given.name) if given.labels else f"{str(path)!r} without --config"
        mistakes.append(f"{source}: {len(labels)} labels ({', '.join(labels)}); the weights have {n_labels}")
    if len(set(labels)) != len(labels) or not set(labels) <= set(LABELS):
        mistakes.append(f"{given.name!r}: labels {', '.join(labels)}; expected each of {', '.join(LABELS)} once")
    if mistakes:
        return None
    dropout = DROPOUT if given.dropout is None else given.dropout
    try:
        return FusionSpec(features=features, labels=labels, d_model=d_model, heads=heads, dropout=dropout)
    except ValidationError as error:
        source = given.name or str(path)
        for item in error.errors():
            setting = ".".join(map(str, item["loc"])) or f"--heads {heads}"
            mistakes.append(f"{source!r}: {setting}: {item['msg'].removeprefix('Value error, ')}")
        return None


def _explain(result: Imported, given: _Configuration, heads: int, stats: str | Path | None) -> None:
    if given.heads is not None and given.heads != heads:
        result.warnings.append(
            f"{heads} attention heads, though the configuration says {given.heads}: the weights fit both, and the "
            f"paper and the released program have {HEADS}; --heads {given.heads} follows the configuration"
        )
    odd = [name for name, x in result.checkpoint.spec.features.items() if x.width != FEATURES[name].width]
    if odd:
        result.warnings.append(
            f"{', '.join(odd)}: not of the published width, so only imported features of the same width fit"
        )
    if stats is not None:
        result.notes.append(f"normalisation from {Path(stats).name}")
    elif given.normalises:
        result.notes.append("normalisation with the released classifier's minimum and maximum of each feature")
    else:
        result.notes.append("no normalisation, as the configuration says (normalize_data)")
    result.notes.append(LEAK)
