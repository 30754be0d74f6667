"""The lite fusion checkpoint: one modality a set, put together so that any subset of features predicts sensibly.

Each training example draws some modalities and a label, then real items of that label for each from its own set.
Such pairs teach the fusion to weigh the modalities; scores on them would say nothing about videos, so the scores are
of each modality alone, the others missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from lite.sets import FACES, SOUND, TEXT, Items, lite_specs
from vemoclap_batch.config import LABELS
from vemoclap_batch.fusion.checkpoint import Checkpoint
from vemoclap_batch.fusion.data import Examples, keyed_rng
from vemoclap_batch.fusion.evaluation import evaluate
from vemoclap_batch.fusion.selection import selected_from
from vemoclap_batch.fusion.spec import FusionSpec
from vemoclap_batch.fusion.training import TrainSettings, classifier_spec, train

#: The features that enter the prediction. The whole-frame embedding (clip) has no set that trains it, so it stays out.
FEATURES = ("face_emotion", "beats", "asr_sentiment", "ocr_sentiment")
LENGTH = 16
EPOCH = 4096
SETTINGS = TrainSettings(lr=1e-3, batch=64, max_steps=6_000, evaluate_every=500, patience=3_000, label_smoothing=0.05)
#: How often each modality is in a training example, before one with none draws again.
PRESENCE = {"face_emotion": 0.25, "beats": 0.25, "asr_sentiment": 0.5, "ocr_sentiment": 0.25}
#: Alone, a set's labels are drawn as often as they occur in it, to this power: 1 keeps its imbalance, 0 removes it.
#: GoEmotions has 28 comments of joy for one of fear: balanced, its rare labels are seen everywhere (docs/lite.md).
PRIOR = 0.75
#: Items of each modality that choose the step and the temperature.
VALIDATION = 900


@dataclass
class Sets:
    """The items of one split, by the feature they are of."""

    faces: Items
    sound: Items
    text: Items

    def of(self, feature: str) -> Items:
        """The set behind a feature; recognised and heard text share one."""
        return {FACES: self.faces, SOUND: self.sound}.get(feature, self.text)


def shape(d_model: int = 128) -> FusionSpec:
    """The classifier's shape, its widths and spaces those of the lite extractors."""
    return classifier_spec(selected_from(lite_specs(), FEATURES), LENGTH, d_model=d_model, heads=4, dropout=0.3)


def compose(sets: Sets, epoch: int, size: int = EPOCH, seed: int = 1) -> Examples:
    """Examples of one epoch: random modalities, labels as :data:`PRIOR` says, sequences as long as real videos give."""
    rng = keyed_rng(seed, "compose", epoch)
    labels = np.zeros(size, np.int64)
    rows = {name: _by_label(sets.of(name)) for name in FEATURES}
    priors = {name: _prior(sets.of(name)) for name in FEATURES}
    features: dict[str, list[np.ndarray]] = {name: [] for name in FEATURES}
    for at in range(size):
        present = _modalities(rng)
        label = labels[at] = rng.choice(len(LABELS), p=_common_prior([priors[name] for name in sorted(present)]))
        for name in FEATURES:
            items = sets.of(name)
            if name in present:
                features[name].append(_draw(name, items, rows[name][int(label)], rng))
            else:
                features[name].append(np.zeros((0, items.features[0].shape[1]), np.float32))
    return Examples([f"{epoch}-{at}" for at in range(size)], features, labels)


def _by_label(items: Items) -> list[np.ndarray]:
    return [np.flatnonzero(items.labels == at) for at in range(len(LABELS))]


def _prior(items: Items) -> np.ndarray:
    counts = np.bincount(items.labels, minlength=len(LABELS)) ** PRIOR
    return counts / counts.sum()


def _common_prior(priors: list[np.ndarray]) -> np.ndarray:
    """That of the one set that is there; sets that meet know nothing of how often a label occurs in videos."""
    if all(prior is priors[0] or np.array_equal(prior, priors[0]) for prior in priors):
        return priors[0]
    return np.full(len(LABELS), 1 / len(LABELS))


def _modalities(rng: np.random.Generator) -> set[str]:
    while True:
        present = {name for name, share in PRESENCE.items() if rng.random() < share}
        if present:
            return present


def _draw(name: str, items: Items, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if name == FACES:
        # A video shows a face in some of its frames, often the same one: few pictures, each seen several times.
        count = int(rng.choice([1, 1, 2, 4, 8, LENGTH]))
        pictures = rng.choice(rows, min(count, int(rng.integers(1, 4))))
        order = np.sort(rng.integers(0, len(pictures), count))
        return np.concatenate([items.features[pictures[at]] for at in order])
    if name == SOUND:
        utterances = rng.choice(rows, int(rng.choice([1, 1, 1, 2, 4])))
        return np.concatenate([items.features[at] for at in utterances])[:LENGTH]
    return items.features[rng.choice(rows)]


def alone(items: Items, feature: str, widths: Mapping[str, int]) -> Examples:
    """A set's items as videos that have this feature and nothing else."""
    features = {
        name: items.features if name == feature else [np.zeros((0, width), np.float32)] * len(items)
        for name, width in widths.items()
    }
    return Examples([f"{feature}-{at}" for at in range(len(items))], features, items.labels)


def train_lite_fusion(
    training: Sets, validation: Sets, settings: TrainSettings = SETTINGS, say: Callable[[str], None] = print
) -> Checkpoint:
    """Train, choose the best step by the accuracy of each modality alone, and calibrate.

    Args:
        training: items to learn from.
        validation: items of other people, pictures and comments; they choose the step and the temperature.
        settings: hyper-parameters.
        say: told how it goes.
    """
    spec = standardised(shape(), training)
    widths = {name: feature.width for name, feature in spec.features.items()}
    held = _each_alone(validation, widths, settings.seed)
    checkpoint, history = train(
        spec, lambda epoch: compose(training, epoch, seed=settings.seed), held, settings,
        report=lambda step, loss, accuracy: say(f"step {step}: loss {loss:.4f}, accuracy alone {accuracy:.4f}"),
    )  # fmt: skip
    checkpoint.temperature = fit_temperature(checkpoint, held)
    specs = lite_specs()
    checkpoint.fingerprints = {name: [specs[name].fingerprint] for name in FEATURES}
    checkpoint.card = {"best_step": history.best_step, "settings": settings.model_dump(), "scores": {}}
    for feature, name in ((FACES, "faces"), (SOUND, "sound"), (TEXT, "text")):
        checkpoint.card["scores"][name] = score_alone(checkpoint, validation.of(feature), feature)
    return checkpoint


def score_alone(checkpoint: Checkpoint, items: Items, feature: str) -> dict[str, Any]:
    """Scores of one modality through the fused model, the others missing."""
    widths = {name: shape.width for name, shape in checkpoint.spec.features.items()}
    return evaluate(checkpoint.probabilities(alone(items, feature, widths)), items.labels, LABELS)


def standardised(spec: FusionSpec, sets: Sets) -> FusionSpec:
    """The same shape, its features normalised to mean 0 and deviation 1 over a training set.

    The published minimum and maximum leave a text embedding between 0.4 and 0.6, where the offset drowns what differs.
    """
    fitted = {}
    for name, feature in spec.features.items():
        rows = np.concatenate(sets.of(name).features)
        low, spread = float(rows.mean()), float(rows.std())
        fitted[name] = feature.model_copy(update={"minimum": low, "maximum": low + spread})
    return spec.model_copy(update={"features": fitted})


def _each_alone(sets: Sets, widths: Mapping[str, int], seed: int) -> Examples:
    """As many items of every modality, each by itself."""
    parts = []
    for feature in (FACES, SOUND, TEXT):
        items = sets.of(feature)
        rows = keyed_rng(seed, "held", feature).choice(len(items), VALIDATION, replace=len(items) < VALIDATION)
        chosen = Items([items.features[row] for row in rows], items.labels[rows])
        parts.append(alone(chosen, feature, widths))
    joined = {name: [array for part in parts for array in part.features[name]] for name in widths}
    labels = np.concatenate([part.labels for part in parts])
    return Examples([video for part in parts for video in part.ids], joined, labels)


def fit_temperature(checkpoint: Checkpoint, examples: Examples) -> float:
    """The temperature with the least negative log-likelihood (Guo et al., 2017, arXiv 1706.04599)."""
    logits = np.log(np.maximum(checkpoint.probabilities(examples), 1e-12)) * checkpoint.temperature

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        scaled -= np.log(np.exp(scaled).sum(1, keepdims=True))
        return float(-scaled[np.arange(len(scaled)), examples.labels].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-2, 2), method="bounded").x))
