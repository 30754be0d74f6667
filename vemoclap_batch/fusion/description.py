"""What the folder of a checkpoint says of its classifier, read without torch and without loading the weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, deserialize

from vemoclap_batch.errors import ConfigError
from vemoclap_batch.fusion.prediction_sets import PredictionSets
from vemoclap_batch.fusion.spec import FusionSpec
from vemoclap_batch.store.folder import Folder

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


@dataclass(frozen=True)
class Description:
    """A classifier as its folder describes it; the attributes are those of a checkpoint."""

    spec: FusionSpec
    temperature: float
    fingerprints: Mapping[str, list[str]]
    card: Mapping[str, Any]
    sets: PredictionSets | None = None


def describe(folder: str | Path) -> Description:
    """Read the description of a checkpoint, and check that its weights are whole.

    Raises:
        ConfigError: the folder holds no checkpoint, or a broken one.
    """
    try:
        place = Folder(folder)
        content = json.loads(place.read(DESCRIPTION))
        deserialize(place.read(WEIGHTS))
        spec = FusionSpec.model_validate(content["spec"])
        sets = PredictionSets.model_validate(content["sets"]) if content.get("sets") else None
        return Description(spec, content["temperature"], content["fingerprints"], content.get("card", {}), sets)
    except FileNotFoundError as error:
        raise ConfigError([f"model {str(folder)!r}: {error.filename} does not exist"]) from error
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ConfigError([f"model {str(folder)!r} is not a checkpoint: {error}"]) from error


def digest(folder: str | Path) -> str:
    """A hash of the checkpoint's weights and shape: two with the same digest predict the same."""
    place = Folder(folder)
    description = json.loads(place.read(DESCRIPTION))
    content = [description["spec"], description["temperature"]]
    if sets := description.get("sets"):
        content.append(sets["thresholds"])
    shape = json.dumps(content, sort_keys=True)
    return hashlib.sha256(place.read(WEIGHTS) + shape.encode()).hexdigest()[:12]


def check_spaces(spec: FusionSpec, spaces: Mapping[str, str | None]) -> None:
    """Check that the features' spaces are those that the classifier was trained on.

    Raises:
        ConfigError: a feature is missing, or lies in another space than the classifier's; both are named.
    """
    mistakes = []
    for name, feature in sorted(spec.features.items()):
        wanted = feature.space
        if name not in spaces:
            mistakes.append(f"feature {name!r}: the model needs it (space {wanted}); it is missing")
        elif wanted is not None and spaces[name] != wanted:
            mistakes.append(f"feature {name!r}: the model was trained on space {wanted}, this is {spaces[name]}")
    if mistakes:
        raise ConfigError(mistakes)
