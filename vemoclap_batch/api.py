"""The Python interface: what the commands do, as functions, and the tables of an output folder.

::

    from vemoclap_batch import Output, evaluate, extract, label, predict, train

    summary = label(["videos/"], "out", profile="lite")
    print(summary["counts"])  # {'videos': 24, 'done': 24, 'skipped': 0, 'failed': 0}

    output = Output("out")
    print(output.predictions().to_pandas()[["uri", "label", "confidence"]])
    print(output.features("clip")["feature"][0])  # one row a frame
    print(output.errors().num_rows, output.videos().num_rows, len(output.runs()))

    # A classifier of your own: labels.csv has the columns video_id or uri, label and, if you like, split.
    extract(["videos/"], "out", profile="lite")
    card = train("out", "labels.csv", "classifier", profile="lite", preset="quick")
    print(evaluate("out", "classifier", "labels.csv", profile="lite")["accuracy"])
    predict("out", "classifier", profile="lite")

The commands call these functions. What ``from vemoclap_batch import …`` gives is public; everything else may change.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from vemoclap_batch.config import Config, load_config
from vemoclap_batch.errors import ConfigError, RunEnded
from vemoclap_batch.extractors.registry import resolvable
from vemoclap_batch.pipeline.pending import features_table
from vemoclap_batch.report.digest import digest
from vemoclap_batch.report.failures import describe_ignored, latest_failures
from vemoclap_batch.request import Address, Request, Settings, request, run_config, window_of
from vemoclap_batch.store.store import Store, new_run_id
from vemoclap_batch.upkeep.gc import newest_predictions

if TYPE_CHECKING:
    from ray.data import Dataset

    from vemoclap_batch.pipeline.run import Run

__all__ = [
    "ConfigError",
    "Output",
    "RunEnded",
    "build_processor",
    "evaluate",
    "extract",
    "label",
    "load_config",
    "predict",
    "train",
]

#: Videos and failures that a summary lists one by one.
LISTED = 40

log = logging.getLogger(__name__)


def label(
    sources: Address | Iterable[Address], out: Address, *, model: Address | None = None, profile: str = "lite",
    settings: Settings = None, frames: int | None = None, window: float | None = None, hop: float | None = None,
    models_dir: Address | None = None, wait: bool = True, address: str | None = None, verbose: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Extract the features that videos lack, predict their emotions and write all of it to an output folder.

    Features and predictions that are there are not computed again. A video that fails becomes a row of the table
    ``errors`` and does not stop the others.

    Args:
        sources: videos, folders, globs and manifests (``.csv``, ``.jsonl`` or ``.parquet`` with a column ``uri``).
        out: the output folder, on any filesystem that pyarrow or fsspec knows.
        model: folder of a fusion checkpoint; without it the profile's own.
        profile: ``lite``, ``paper`` or the path of a YAML file.
        settings: changes of the profile: ``{"extractors.asr.beam_size": 1}`` or ``["extractors.asr.beam_size=1"]``.
        frames: frames of each video, evenly spaced; without it the profile's, 16.
        window: label windows of so many seconds instead of whole videos.
        hop: seconds from window to window; without it ``window``.
        models_dir: folder of the weights; without it ``$VEMOCLAP_MODELS``, else the cache.
        wait: whether to wait while another run writes to the folder.
        address: of a Ray cluster; without it ``$RAY_ADDRESS``, else this machine.
        verbose: show the logs of Ray and the models.

    Returns:
        What ``OUT/runs/<run id>.json`` says of the run: ``counts`` (``videos``, ``done``, ``skipped``, ``failed``),
        ``plan``, ``stages``, ``wall_s`` and so on; with ``out``, ``rows`` (what was found in the first 40 videos),
        ``failures`` (how many of each type) and ``failed`` (the first 40 failures).

    Raises:
        ConfigError: wrong arguments or settings; nothing was started.
        RunEnded: the run ended early; what was committed is kept, and the same call goes on from there.
    """
    asked = request(sources, profile, settings, frames, models_dir, window, hop, model=model, predicts=True)
    return _run(asked, out, wait=wait, address=address, verbose=verbose)


def extract(
    sources: Address | Iterable[Address], out: Address, *, profile: str = "lite", settings: Settings = None,
    frames: int | None = None, window: float | None = None, hop: float | None = None,
    models_dir: Address | None = None, wait: bool = True, address: str | None = None, verbose: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Extract the features that videos lack and write them to an output folder: the first half of :func:`label`.

    Arguments, result and errors are those of :func:`label`.
    """
    asked = request(sources, profile, settings, frames, models_dir, window, hop)
    return _run(asked, out, wait=wait, address=address, verbose=verbose)


def predict(
    out: Address, model: Address, *, features: Mapping[str, str] | None = None, profile: str = "lite",
    settings: Settings = None, window: float | None = None, hop: float | None = None, wait: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Predict every video of an output folder that has the features of a model: the second half of :func:`label`.

    Where an extractor has several tables, ``features`` says which to use (extractor → fingerprint), else the profile.
    The other arguments are those of :func:`label`.

    Returns:
        ``out``, ``table`` (the fingerprint of the predictions), ``counts`` (``new``, ``skipped``, ``incomplete``: those
        without all features) and ``notes``.
    """
    from vemoclap_batch.fusion.predict import predict as predict_videos
    from vemoclap_batch.fusion.selection import fingerprint_notes, select
    from vemoclap_batch.pipeline.run import Classifier

    classifier = Classifier.load(os.fspath(model))
    spaces = {name: feature.space for name, feature in classifier.description.spec.features.items()}
    store, windows = open_store(out), window_of(window, hop)
    selected = select(store, spaces, features, own_fingerprints(store, profile, settings, window, hop), windows)
    run_id = new_run_id()
    with store.writing(run_id, wait=wait):
        videos = store.current_videos()
        done = predict_videos(store, videos, classifier, selected, run_id, window=windows)
    counts = {"new": done.new, "skipped": done.skipped, "incomplete": done.incomplete}
    notes = fingerprint_notes(classifier.description.fingerprints, selected)
    return {"out": os.fspath(out), "table": done.fingerprint, "counts": counts, "notes": notes}


def train(
    out: Address, labels: Address, checkpoint: Address, *, profile: str = "lite", settings: Settings = None,
    features: Mapping[str, str] | None = None, use: Sequence[str] | None = None, preset: str = "published",
    hyper: Mapping[str, Any] | None = None, d_model: int = 512, heads: int = 4, dropout: float = 0.5, seed: int = 1,
    seeds: Sequence[int] | None = None, workers: int = 1, stream: bool | None = None, save_every_s: float = 30.0,
    address: str | None = None, verbose: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Train a fusion classifier on the features of an output folder and given labels; the split ``train`` is used.

    ``labels`` is a file with ``video_id`` or ``uri``, ``label`` and maybe ``split`` (``.csv``, ``.jsonl``,
    ``.parquet``); ``use`` names the features to train on, else all that the profile has and the folder holds. The
    ``preset`` is ``published`` (200,000 steps at 1e-5) or ``quick`` (2,000 at 1e-3), changed by ``hyper``, such as
    ``{"max_steps": 1000}``. ``seeds`` trains a checkpoint for each seed in ``checkpoint/seed-N``; ``workers`` above 1
    train together on Ray. ``stream`` reads features from disk, not memory (None: from 2 GiB on). A training that was
    killed goes on from its state, which is saved every ``save_every_s`` seconds.

    Returns:
        The card of the checkpoint: ``accuracy`` on the validation videos, ``n_train``, ``preset``, ``split`` and so on.
    """
    from vemoclap_batch.training.fit import fit

    return fit(
        open_store(out), os.fspath(labels), os.fspath(checkpoint), load_config(profile, settings), preset=preset,
        chosen=features, names=use, d_model=d_model, heads=heads, dropout=dropout, seed=seed, seeds=seeds, hyper=hyper,
        workers=workers, stream=stream, save_every_s=save_every_s, address=address, verbose=verbose,
    )  # fmt: skip


def evaluate(
    out: Address, model: Address, labels: Address, *, folder: Address | None = None, split: str = "test",
    features: Mapping[str, str] | None = None, profile: str = "lite", settings: Settings = None,
    stream: bool | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Score a checkpoint on labelled videos.

    ``model`` is a checkpoint, or a folder of one a seed; ``split`` says which videos, ``all`` for every labelled one.
    ``metrics.json``, ``confusion.png`` and ``reliability.png`` are written to ``folder``, if it is given.

    Returns:
        ``accuracy``, ``macro_f1``, ``per_class``, ``confusion``, ``calibration_error`` and what they were made from.
    """
    from vemoclap_batch.fusion.evaluation import score

    store = open_store(out)
    return score(
        store, os.fspath(model), os.fspath(labels), split=split, chosen=features, stream=stream,
        preferred=own_fingerprints(store, profile, settings), folder=os.fspath(folder) if folder else None,
    )  # fmt: skip


class Output:
    """The tables of an output folder, each as a pyarrow table (``.to_pandas()`` makes a data frame)."""

    def __init__(self, out: Address) -> None:
        """Open a folder that :func:`label` or :func:`extract` wrote.

        Raises:
            ConfigError: there is no such folder.
        """
        self._store = open_store(out)

    def videos(self) -> pa.Table:
        """Read what decoding found: one row a video."""
        return self._store.videos().read()

    def predictions(self, table: str | None = None) -> pa.Table:
        """Read predictions: one row a video, or a window.

        Args:
            table: a fingerprint below ``OUT/predictions``; without it the newest.

        Raises:
            ConfigError: nothing was predicted yet, or there is no such table.
        """
        fingerprint = table or newest_predictions(self._store)
        described = self._store.read_json(f"predictions/{fingerprint}/model.json") if fingerprint else None
        if fingerprint is None or described is None:
            raise ConfigError([f"{self._store.address!r} has no predictions {table or 'yet'}"])
        return self._store.predictions(fingerprint, described["labels"]).read()

    def features(self, extractor: str, fingerprint: str | None = None) -> pa.Table:
        """Read the features of one extractor: one row a video, ``feature`` is [length, width].

        Args:
            extractor: such as ``clip`` or ``asr``.
            fingerprint: which table, where there are several.

        Raises:
            ConfigError: no table, or several and no fingerprint; those there are are named.
        """
        there = self._store.fingerprints(extractor)
        if fingerprint is None and len(there) == 1:
            [fingerprint] = there
        if fingerprint not in there:
            wanted = f"{extractor}/{fingerprint}" if fingerprint else extractor
            known = f"expected one fingerprint of {', '.join(there)}" if there else "there are none"
            raise ConfigError([f"{self._store.address!r}: features {wanted}: {known}"])
        table = self._store.stored_features(extractor, fingerprint)
        if table is None:
            raise ConfigError([f"{self._store.address!r} has no row of features {extractor}/{fingerprint} yet"])
        return table.read()

    def errors(self) -> pa.Table:
        """Read the log of failures: one row a failure, of all runs."""
        return self._store.errors().read()

    def runs(self) -> list[dict[str, Any]]:
        """Read the summaries of all runs, oldest first."""
        return self._store.runs()


def build_processor(config: Config) -> Callable[[Dataset], Dataset]:
    """Build a function that adds the features of a configuration (:func:`load_config`) to a Ray Dataset of videos.

    See :func:`vemoclap_batch.pipeline.processor.build_processor` for the columns; ``docs/processor.md`` has an example.
    """
    from vemoclap_batch.pipeline.processor import build_processor as build

    return build(config)


def open_store(out: Address) -> Store:
    """Open an output folder that is there.

    Raises:
        ConfigError: it is not.
    """
    store = Store(os.fspath(out))
    if not store.exists():
        raise ConfigError([f"{os.fspath(out)!r}: no such output folder"])
    return store


def own_fingerprints(
    store: Store, profile: str, settings: Settings = None, window: float | None = None, hop: float | None = None
) -> dict[str, str]:
    """Name the features tables of a profile; none where no extractor has several, so that no package is needed."""
    config = run_config(profile, settings, window=window, hop=hop)
    if all(len(store.fingerprints(name)) < 2 for name in config.extractors):
        return {}
    return {name: spec.fingerprint for name, spec in resolvable(config).items()}


def run_summary(run: Run) -> dict[str, Any]:
    """Make the summary that :func:`label` returns."""
    assert run.pending is not None  # it ended
    tables = {name: features_table(run.store, spec) for name, spec in run.specs.items()}
    predictions = run.predicted.table if run.predicted else None
    labels = [name[2:] for name in predictions.schema.names if name.startswith("p_")] if predictions else []
    failures = latest_failures(run.store, run.pending.incomplete) if run.failed else []
    return run.summary() | {
        "out": run.store.address,
        "rows": digest(run.pending.videos.slice(0, LISTED), predictions, tables, labels),
        "failures": dict(Counter(failure["error_type"] for failure in failures)),
        "failed": failures[:LISTED],
    }


def _run(asked: Request, out: Address, **options: Any) -> dict[str, Any]:
    from vemoclap_batch.pipeline.run import run

    if asked.manifest.ignored:
        log.warning(describe_ignored(asked.manifest.ignored))
    rows, classifier, windows = asked.manifest.rows, asked.classifier, asked.windows
    return run_summary(run(rows, os.fspath(out), asked.config, classifier, window=windows, **options))
