"""Training and scoring on a store's features."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vemoclap_batch.config import LABELS, Config, ConfigError
from vemoclap_batch.extractors.catalog import resolve
from vemoclap_batch.fusion.checkpoint import Checkpoint
from vemoclap_batch.fusion.evaluation import draw_confusion
from vemoclap_batch.fusion.evaluation import evaluate as score_predictions
from vemoclap_batch.fusion.model import FeatureSpec, FusionSpec
from vemoclap_batch.fusion.selection import Selected, select
from vemoclap_batch.fusion.training import PRESETS, fit_statistics, split_validation, train
from vemoclap_batch.pipeline.labelled import load_labelled
from vemoclap_batch.store.store import Store

_VALIDATION_SHARE = 0.1


def fit(
    store: Store, labels: str, checkpoint: str, config: Config, *, preset: str = "quick",
    chosen: Mapping[str, str] | None = None, names: Sequence[str] | None = None, d_model: int = 512, heads: int = 4,
    seed: int = 1, say: Callable[[str], None] = print,
) -> dict[str, Any]:  # fmt: skip
    """Train a classifier on the videos of the split ``train`` and save it.

    The best step is chosen on a tenth of the training videos; those of other splits are never looked at.

    Args:
        store: the output folder with the features.
        labels: the labels file.
        checkpoint: where the classifier goes.
        config: its profile names the features and prefers its own fingerprints.
        preset: a name in :data:`~vemoclap_batch.fusion.training.PRESETS`.
        chosen: the user's choice of fingerprints.
        names: features to train on; without it all that the profile has and the store holds.
        d_model: width of the classifier.
        heads: its attention heads.
        seed: the same seed gives the same weights.
        say: told how it goes.

    Raises:
        ConfigError: wrong names or labels, or nothing to train on.
    """
    if preset not in PRESETS:
        raise ConfigError([f"--preset {preset!r}: expected one of {', '.join(PRESETS)}"])
    selected = _selected_for_training(store, config, names, chosen or {})
    labelled = load_labelled(store, labels, selected, LABELS, seed)
    training, validation = split_validation(labelled.split("train"), _VALIDATION_SHARE, seed)
    try:
        shape = FusionSpec(features=_shape(selected, config), d_model=d_model, heads=heads)
    except ValueError as error:
        raise ConfigError([f"--d-model, --heads: {error}"]) from error
    settings = PRESETS[preset].model_copy(update={"seed": seed})
    result, history = train(
        fit_statistics(shape, training), training, validation, settings,
        report=lambda step, loss, accuracy: say(f"step {step}: loss {loss:.4f}, validation accuracy {accuracy:.3f}"),
    )  # fmt: skip
    result.fingerprints = {name: [feature.fingerprint] for name, feature in selected.items()}
    result.card = {
        "preset": preset, "settings": settings.model_dump(), "n_train": len(training), "n_validation": len(validation),
        "split": labelled.source, "best_step": history.best_step, "accuracy": history.best_accuracy,
    }  # fmt: skip
    result.save(checkpoint)
    return {**result.card, "checkpoint": checkpoint, "features": sorted(selected)}


def score(
    store: Store, model: str, labels: str, *, split: str = "test", chosen: Mapping[str, str] | None = None,
    preferred: Mapping[str, str] | None = None, folder: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Score a checkpoint on the labelled videos of one split (``all`` for every one).

    With a ``folder``, ``metrics.json`` and ``confusion.png`` are written there.
    """
    checkpoint = Checkpoint.load(model)
    spaces = {name: feature.space for name, feature in checkpoint.spec.features.items()}
    selected = select(store, spaces, chosen, preferred)
    labelled = load_labelled(store, labels, selected, checkpoint.spec.labels)
    examples = labelled.examples if split == "all" else labelled.split(split)
    result = score_predictions(checkpoint.probabilities(examples), examples.labels, checkpoint.spec.labels)
    result |= {
        "split": split,
        "split_source": labelled.source,
        "fingerprints": {name: feature.fingerprint for name, feature in selected.items()},
        "model_notes": checkpoint.card.get("notes", []),
        "without_video": labelled.without_video,
        "without_features": labelled.without_features,
        "labels": list(checkpoint.spec.labels),
    }
    if folder:
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        (target / "metrics.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
        draw_confusion(result, checkpoint.spec.labels, target / "confusion.png")
    return result


def _selected_for_training(
    store: Store, config: Config, names: Sequence[str] | None, chosen: Mapping[str, str]
) -> dict[str, Selected]:
    specs = {name: spec for name, spec in resolve(config).items() if spec.space is not None}
    if unknown := sorted(set(names or []) - set(specs)):
        raise ConfigError([f"--use {name!r}: expected one of {', '.join(specs)}" for name in unknown])
    wanted = names or [name for name in specs if store.fingerprints(name)]
    if not wanted:
        raise ConfigError([f"{store.address} holds no features of profile {config.profile!r}"])
    preferred = {name: specs[name].fingerprint for name in wanted}
    return select(store, {name: specs[name].space for name in wanted}, chosen, preferred)


def _shape(selected: Mapping[str, Selected], config: Config) -> dict[str, FeatureSpec]:
    return {
        name: FeatureSpec(
            width=feature.width,
            length=config.sampling.frames if feature.sequence else 1,
            sequence=feature.sequence,
            space=feature.space,
        )
        for name, feature in selected.items()
    }
