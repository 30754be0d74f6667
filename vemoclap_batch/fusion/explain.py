"""Why a video was labelled so: the share of each feature in a prediction, and the items that it hangs on.

The shares are exact Shapley values (Shapley, 1953; as Lundberg & Lee, 2017, arXiv 1705.07874, use them) of the game
whose players are the features and whose value is the probability of a label. They sum to the difference between the
prediction and that of a video without any feature.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import factorial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from vemoclap_batch.errors import ConfigError
from vemoclap_batch.fusion.data import Examples, chunks, to_tensors
from vemoclap_batch.fusion.dataset import Timed, load_features
from vemoclap_batch.fusion.selection import Selected, complete_mask
from vemoclap_batch.fusion.spans import Media, media_of, spans_of
from vemoclap_batch.fusion.spans import chunks as video_chunks
from vemoclap_batch.media.windows import Window, evenly_spaced
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import KEY, Table, keys

if TYPE_CHECKING:
    from vemoclap_batch.fusion.checkpoint import Checkpoint
    from vemoclap_batch.fusion.predict import Loadable

#: Examples in memory at a time; the items left out of each take some megabytes.
_BATCH = 32


@dataclass
class Explained:
    """What was explained of some examples.

    Attributes:
        names: the features, sorted.
        empty: probabilities without any feature, float64 [n, labels].
        whole: probabilities, float64 [n, labels].
        shapley: float64 [n, features, labels].
        without: per sequence the probabilities without each item that is taken of it, float64 [n, length, labels].
    """

    names: list[str]
    empty: np.ndarray
    whole: np.ndarray
    shapley: np.ndarray
    without: dict[str, np.ndarray]


@dataclass
class Done:
    """What a run of explanations did: new videos, those that had some, those that lack a feature.

    Attributes:
        nothing: predictions with nothing to go by, which have no explanation.
        shares: mean size of each feature's share in the new explanations.
    """

    table: Table
    new: int = 0
    skipped: int = 0
    incomplete: int = 0
    nothing: int = 0
    explained: int = 0
    sums: Counter[str] = field(default_factory=Counter)

    @property
    def shares(self) -> dict[str, float]:
        """Feature → mean absolute contribution to the label's probability."""
        return {name: total / self.explained for name, total in sorted(self.sums.items())} if self.explained else {}


def find_predictions(store: Store, model: str, window: Window | None, asked: bool, newest: Sequence[str]) -> str:
    """Choose the predictions to explain: the newest that a model made.

    Args:
        store: the output folder.
        model: the model's digest.
        window: of the predictions wanted.
        asked: whether the user asked for that window; otherwise any will do.
        newest: fingerprints of all predictions, the newest at the end.

    Raises:
        ConfigError: there are none; what there is is named.
    """
    made = {name: store.read_json(f"predictions/{name}/model.json") or {} for name in newest}
    own = [name for name, description in made.items() if description.get("model") == model]
    fitting = [name for name in own if not asked or _window(made[name]) == window]
    if fitting:
        return fitting[-1]
    if not made:
        raise ConfigError([f"{store.address!r} has no predictions yet: label or predict first"])
    if own:
        windows = ", ".join(str(made[name].get("window") or "whole videos") for name in own)
        raise ConfigError([f"{store.address!r} has no predictions of such windows by this model, only of {windows}"])
    models = ", ".join(sorted({str(description.get("model")) for description in made.values()}))
    raise ConfigError(
        [
            f"{store.address!r} has no predictions of model {model}, only of {models}: give the --model that "
            "predicted, or predict with this one first"
        ]
    )


def selection(store: Store, fingerprint: str) -> tuple[dict[str, str], Window | None]:
    """Feature → fingerprint, and the windows, that predictions were made of."""
    made = store.read_json(f"predictions/{fingerprint}/model.json") or {}
    return made["features"], _window(made)


def _window(description: Mapping[str, Any]) -> Window | None:
    return Window(**description["window"]) if description.get("window") else None


def explain(
    store: Store, videos: pa.Table, model: Loadable, selected: Mapping[str, Selected], fingerprint: str, run_id: str,
    window: Window | None = None, report: Callable[[int, int], None] | None = None,
) -> Done:  # fmt: skip
    """Explain every prediction that has no explanation yet; as many rows as predictions with a label.

    Args:
        store: the output folder, held for writing; some videos are committed at a time, all windows of each together.
        videos: ``video_id`` and ``content_key`` of the videos wanted.
        model: the classifier, loaded if there is something to explain.
        selected: the features table that serves each feature.
        fingerprint: of the predictions.
        run_id: of this run.
        window: of the predictions.
        report: called with the videos explained so far and in all.
    """
    table = store.explanations(fingerprint)
    table.unique = window is None
    is_done = table.committed(keys(videos))
    complete = complete_mask(store, selected, videos)
    done = Done(table, skipped=int(is_done.sum()), incomplete=int((~is_done & ~complete).sum()))
    pending = videos.filter(pa.array(complete & ~is_done))
    media = media_of(store, pending)
    for at, count in video_chunks([of.duration_s for of in media]):
        some, part = pending.slice(at, count), media[at : at + count]
        rows = _rows(store, some, model.checkpoint, selected, part, window, done)
        if rows:
            for row in rows:
                row["run_id"] = run_id
            table.append(pa.Table.from_pylist(rows, schema=table.schema))
        done.new += count
        if report:
            report(done.new, pending.num_rows)
    return done


def _rows(
    store: Store, videos: pa.Table, checkpoint: Checkpoint, selected: Mapping[str, Selected], media: Sequence[Media],
    window: Window | None, done: Done,
) -> list[dict[str, Any]]:  # fmt: skip
    timed = load_features(store, selected, videos, with_times=window is not None, times_if_any=True)
    texts = {name for name, feature in checkpoint.spec.features.items() if not feature.sequence}
    named, rows = videos.select(KEY).to_pylist(), []
    for some in spans_of(videos, timed, texts, media, window):
        told = [row for row, nothing in enumerate(some.nothing) if not nothing]
        done.nothing += len(some.spans) - len(told)
        done.explained += len(told)
        features = {name: [of[row].feature for row in told] for name, of in some.features.items()}
        found = explain_examples(checkpoint, Examples([""] * len(told), features, np.full(len(told), -1)))
        for at, row in enumerate(told):
            described = _described(found, at, {name: of[row] for name, of in some.features.items()}, checkpoint)
            done.sums.update({part["feature"]: abs(part["value"]) for part in described["contributions"]})
            span = some.spans[row]
            times = {"window_start_s": span.start_s, "window_end_s": span.end_s}
            rows.append(named[span.row] | times | described)
    return rows


def _described(found: Explained, at: int, features: Mapping[str, Timed], checkpoint: Checkpoint) -> dict[str, Any]:
    """The columns of one explanation."""
    spec, label = checkpoint.spec, int(found.whole[at].argmax())
    contributions = [
        {
            "feature": name,
            "present": len(features[name].feature) > 0,
            "value": float(found.shapley[at, number, label]),
            "values": found.shapley[at, number].tolist(),
        }
        for number, name in enumerate(found.names)
    ]
    items = []
    for name, without in found.without.items():
        timed = features[name]
        kept = evenly_spaced(len(timed.feature), spec.features[name].length)
        has_times = len(timed.start_s) == len(timed.feature)
        for place, item in enumerate(kept):
            times = (float(timed.start_s[item]), float(timed.end_s[item])) if has_times else (None, None)
            drop = float(found.whole[at, label] - without[at, place, label])
            items.append({"feature": name, "start_s": times[0], "end_s": times[1], "drop": drop})
    return {
        "label": spec.labels[label],
        "probability": float(found.whole[at, label]),
        "empty_probability": float(found.empty[at, label]),
        "contributions": contributions,
        "items": items,
    }


def explain_examples(checkpoint: Checkpoint, examples: Examples) -> Explained:
    """Explain what a classifier says of some examples; see :class:`Explained`."""
    import torch

    from vemoclap_batch.fusion.left_out import leave_out

    model, spec = checkpoint.model.eval(), checkpoint.spec
    names = sorted(spec.features)
    parts: list[Explained] = []
    for rows in chunks(len(examples), _BATCH):
        some = examples.subset(rows)
        with torch.inference_mode():
            of_subsets, of_items = leave_out(model, to_tensors(some, spec))
            probabilities = _calibrated(of_subsets, checkpoint.temperature)
            without = {name: _calibrated(logits, checkpoint.temperature) for name, logits in of_items.items()}
        present = np.array([[len(some.features[name][row]) > 0 for name in names] for row in range(len(some))])
        values = _of_present(probabilities, present)
        parts.append(Explained(names, values[:, 0], values[:, -1], shapley_values(values), without))
    count = len(spec.labels)
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts]) if parts else np.zeros((0, count))
        for name in ("empty", "whole", "shapley")
    }
    items = {name: np.concatenate([part.without[name] for part in parts]) for name in spec.sequences} if parts else {}
    return Explained(names, without=items, **joined)


def _calibrated(logits: Any, temperature: float) -> np.ndarray:
    return (logits.double() / temperature).softmax(-1).numpy()


def _of_present(probabilities: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Of every subset what the present ones of its features say: an absent feature changes nothing at all."""
    masks = (present * 2 ** np.arange(present.shape[1])).sum(1)  # [n]
    numbers = np.arange(probabilities.shape[1])[None] & masks[:, None]  # [n, subsets]
    return np.take_along_axis(probabilities, numbers[..., None], 1)


def shapley_values(values: np.ndarray) -> np.ndarray:
    """The exact Shapley values of games, from what every coalition is worth.

    Args:
        values: float64 [n, 2**players, outcomes]; player i is in the coalition whose number has bit i.

    Returns:
        float64 [n, players, outcomes], whose sum over the players is ``values[:, -1] - values[:, 0]``.
    """
    players = int(values.shape[1]).bit_length() - 1
    numbers = np.arange(values.shape[1])
    sizes = np.array([number.bit_count() for number in numbers.tolist()])
    weights = np.array(
        [factorial(size) * factorial(players - size - 1) / factorial(players) for size in range(players)]
    )
    shares = []
    for player in range(players):
        lacking = numbers[(numbers >> player) % 2 == 0]
        gains = values[:, lacking | (1 << player)] - values[:, lacking]  # [n, coalitions, outcomes]
        shares.append(np.einsum("c,nco->no", weights[sizes[lacking]], gains))
    return np.stack(shares, 1)
