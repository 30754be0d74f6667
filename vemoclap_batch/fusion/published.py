"""What the authors of VEMOCLAP (arXiv 2410.21303) released: the features' facts, and their checkpoint's files."""

from __future__ import annotations

import hashlib
import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from vemoclap_batch.config import LABELS
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.fusion.checkpoint import Checkpoint
from vemoclap_batch.fusion.model import AttentionClassifier
from vemoclap_batch.fusion.safe_pickle import load
from vemoclap_batch.fusion.spec import FeatureSpec, FusionSpec

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
        config: the released configuration; without it, sequences have 16 items and the labels the published order.
        stats: feature → minimum and maximum over the training set; without it, the released values.
        heads: attention heads; the weights fit any number that divides their width. The paper and the released
            program say 4, the released configuration 8.

    Raises:
        ConfigError: with every mistake found in the files.
    """
    state, settings, ranges = read_files(model, config, stats)
    weights = _weights(str(model), state)
    released = _Configuration.read(str(config), {} if config is None else settings)
    mistakes: list[str] = []
    features = _features(weights, released, str(config), mistakes)
    if stats is not None:
        features = {name: _with_range(name, x, str(stats), ranges, mistakes) for name, x in features.items()}
    labels = _labels(weights, released, str(model), str(config), mistakes)
    d_model = next(iter(_encoders(weights).values())).shape[0]
    if released.d_model not in {None, d_model}:
        mistakes.append(f"{str(config)!r}: d_model is {released.d_model}; the weights have {d_model}")
    if mistakes:
        raise ConfigError(mistakes)
    try:
        spec = FusionSpec(features=features, labels=labels, d_model=d_model, heads=heads, dropout=released.dropout)
    except ValidationError as error:
        messages = [item["msg"].removeprefix("Value error, ") for item in error.errors()]
        raise ConfigError([f"{str(model)!r}: --heads {heads}: {message}" for message in messages]) from error
    result = Imported(Checkpoint(_classifier(str(model), spec, weights)))
    _explain(result, released, heads, stats)
    result.checkpoint.card = {
        "imported_from": Path(model).name,
        "sha256": hashlib.sha256(Path(model).read_bytes()).hexdigest(),
        "notes": result.warnings + result.notes,
        "leaks": LEAK,
    }
    return result


def read_files(*paths: str | Path | None) -> list[Any]:
    """The content of the authors' files, None for no path (see :func:`load`).

    Raises:
        ConfigError: files are missing, broken or refused.
    """
    contents, mistakes = [], []
    for path in paths:
        try:
            contents.append(None if path is None else load(path))
        except FileNotFoundError:
            mistakes.append(f"{str(path)!r}: no such file")
        except ValueError as error:
            mistakes.append(str(error))
    if mistakes:
        raise ConfigError(mistakes)
    return contents


def brief(value: Any) -> str:
    """A value for a message, cut short: what a foreign file holds may be of any size once unfolded."""
    return reprlib.repr(value)[:300]


# ---- model.pt


def _weights(path: str, state: Any) -> dict[str, np.ndarray]:
    """The parameters as float32; ConfigError if it is no state_dict of this classifier."""
    is_state = isinstance(state, dict) and state and all(isinstance(name, str) for name in state)
    if not is_state or not all(isinstance(array, np.ndarray) for array in state.values()):
        content = f"a {type(state).__name__}, {brief(state)}"
        raise ConfigError([f"{path!r}: expected a plain state_dict, parameter → tensor; found {content}"])
    mistakes, weights = [], {}
    for name, array in state.items():
        if not np.issubdtype(array.dtype, np.floating):
            mistakes.append(f"{path!r}: {name} holds {array.dtype}, no real numbers")
            continue
        weights[name] = array.astype(np.float32)
        if not np.isfinite(weights[name]).all():
            mistakes.append(f"{path!r}: {name} holds numbers that are not finite")
    encoders = _encoders(weights)
    unknown = sorted(set(encoders) - set(FEATURES))
    if unknown or not encoders:
        names = ", ".join(unknown) or "no feature"
        mistakes.append(f"{path!r}: encoders of {names}; expected some of {', '.join(FEATURES)}")
    mistakes += [
        f"{path!r}: encoders.{name}.weight has shape {list(array.shape)}, expected [d_model, width]"
        for name, array in encoders.items()
        if array.ndim != 2 or not array.size
    ]
    bias = weights.get("cls_mlp.0.bias")
    if bias is None or bias.ndim != 1 or not bias.size:
        mistakes.append(f"{path!r}: no cls_mlp.0.bias of shape [labels]")
    if mistakes:
        raise ConfigError(mistakes)
    return weights


def _encoders(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        name.removeprefix("encoders.").removesuffix(".weight"): array
        for name, array in sorted(weights.items())
        if name.startswith("encoders.") and name.endswith(".weight")
    }


def _classifier(path: str, spec: FusionSpec, weights: Mapping[str, np.ndarray]) -> AttentionClassifier:
    # Without memory of its own until the weights fit: a wrong shape could ask for any amount.
    with torch.device("meta"):
        model = AttentionClassifier(spec)
    try:
        model.load_state_dict({name: torch.tensor(array) for name, array in weights.items()}, assign=True)
    except RuntimeError as error:  # Its first line names the class, each further one a mistake.
        raise ConfigError([f"{path!r}: {line.strip()}" for line in str(error).splitlines()[1:]]) from error
    return model.eval()


# ---- model_config.pt and stats.pt


def _names(value: Any) -> list[str]:
    """A list of names; a mapping index → name counts as one."""
    try:
        if isinstance(value, dict):
            value = [value[index] for index in sorted(value, key=int)]
        names = [] if isinstance(value, str) else list(value)
    except TypeError:
        names = []
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError("expected a list of names")
    return names


_Count = Annotated[int, Field(ge=1)]
_Names = Annotated[list[str], BeforeValidator(_names)]


class _Configuration(BaseModel):
    """The settings of ``model_config.pt`` that shape the classifier; None for what it does not say."""

    feature_dims: dict[str, _Count] | None = None
    feature_lengths: dict[str, _Count] | None = None
    features: _Names | None = None
    labels: _Names | None = None
    d_model: _Count | None = None
    n_labels: _Count | None = None
    n_heads: _Count | None = None
    n_frames: _Count = FRAMES
    dropout: float = Field(DROPOUT, ge=0, lt=1)
    normalize_data: bool = True

    @classmethod
    def read(cls, path: str, settings: Any) -> _Configuration:
        if not isinstance(settings, dict):
            raise ConfigError([f"{path!r}: expected a dict of settings, found a {type(settings).__name__}"])
        try:
            return cls.model_validate({name: value for name, value in settings.items() if value is not None})
        except ValidationError as error:
            mistakes = [f"{'.'.join(map(str, x['loc']))} = {brief(x['input'])}: {x['msg']}" for x in error.errors()]
        raise ConfigError([f"{path!r}: {mistake}" for mistake in mistakes])


def _features(
    weights: Mapping[str, np.ndarray], released: _Configuration, path: str, mistakes: list[str]
) -> dict[str, FeatureSpec]:
    encoders = _encoders(weights)
    for key in ("feature_dims", "feature_lengths", "features"):
        names = getattr(released, key)
        if names is not None and set(names) != set(encoders):
            mistakes.append(f"{path!r}: {key} names {', '.join(sorted(names))}; the weights have {', '.join(encoders)}")
    features = {}
    for name, array in encoders.items():
        width, published = array.shape[1], FEATURES[name]
        if (expected := (released.feature_dims or {}).get(name, width)) != width:
            mistakes.append(f"{path!r}: feature_dims of {name} is {expected}; the weights take {width}")
        length = (released.feature_lengths or {}).get(name, released.n_frames if published.sequence else 1)
        if length > 1 and not published.sequence:
            mistakes.append(f"{path!r}: feature_lengths of {name} is {length}; it is a single vector")
        shape = {"width": width, "length": length, "space": feature_space(name, width)}
        features[name] = published.model_copy(
            update=shape if released.normalize_data else shape | {"minimum": 0.0, "maximum": 1.0}
        )
    return features


def _with_range(name: str, feature: FeatureSpec, path: str, ranges: Any, mistakes: list[str]) -> FeatureSpec:
    """The feature with its minimum and maximum in ``stats.pt``."""
    try:
        low, high = (float(ranges[name][key]) for key in ("min", "max"))
    except (KeyError, TypeError, ValueError, IndexError):
        mistakes.append(f"{path!r}: no min and max of {name!r} (one number each)")
        return feature
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        mistakes.append(f"{path!r}: {name} has min {low} and max {high}; expected numbers, the first one smaller")
    return feature.model_copy(update={"minimum": low, "maximum": high})


def _labels(
    weights: Mapping[str, np.ndarray], released: _Configuration, model: str, config: str, mistakes: list[str]
) -> tuple[str, ...]:
    count, labels = len(weights["cls_mlp.0.bias"]), tuple(name.lower() for name in released.labels or LABELS)
    if released.n_labels not in {None, count}:
        mistakes.append(f"{config!r}: n_labels is {released.n_labels}; the weights have {count}")
    if len(labels) != count:
        source = repr(config) if released.labels else f"{model!r} without labels in --config"
        mistakes.append(f"{source}: {len(labels)} labels ({', '.join(labels)}); the weights have {count}")
    if len(set(labels)) != len(labels) or not set(labels) <= set(LABELS):
        mistakes.append(f"{config!r}: labels {', '.join(labels)}; expected each of {', '.join(LABELS)} once")
    return labels


def _explain(result: Imported, released: _Configuration, heads: int, stats: str | Path | None) -> None:
    if released.n_heads not in {None, heads}:
        result.warnings.append(
            f"{heads} attention heads, though the configuration says {released.n_heads}: the weights fit both, and the "
            f"paper and the released program have {HEADS}; --heads {released.n_heads} follows the configuration"
        )
    odd = [name for name, x in result.checkpoint.spec.features.items() if x.width != FEATURES[name].width]
    if odd:
        result.warnings.append(
            f"{', '.join(odd)}: not of the published width, so only imported features of the same width fit"
        )
    if stats is not None:
        result.notes.append(f"normalisation from {Path(stats).name}")
    elif released.normalize_data:
        result.notes.append("normalisation with the released classifier's minimum and maximum of each feature")
    else:
        result.notes.append("no normalisation, as the configuration says (normalize_data)")
    result.notes.append(LEAK)
