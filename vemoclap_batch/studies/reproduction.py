"""Ekman-6 from its folder to a table: manifests, features, trainings with and without cleaning, scores, one page.

Every step keeps what it has finished, so the same command goes on after a kill, and has nothing to do when all is done.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vemoclap_batch.config import Config
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.fusion.evaluation import CONFUSION, RELIABILITY, score
from vemoclap_batch.pipeline.run import run
from vemoclap_batch.sources.ekman6 import Ekman6, read_ekman6
from vemoclap_batch.sources.manifest import write_manifest
from vemoclap_batch.store.filesystem import is_remote, local_path
from vemoclap_batch.store.store import Store
from vemoclap_batch.studies.analysis import analyze
from vemoclap_batch.studies.analysis_page import write_analysis
from vemoclap_batch.studies.ekman6_page import write_page
from vemoclap_batch.training.fit import fit, training_settings

#: The data set as it is, and without the videos of the blacklist.
AS_GIVEN, CLEANED = "as given", "cleaned"
FOLDER = "ekman6"


@dataclass(frozen=True)
class Options:
    """What is trained on which videos.

    Attributes:
        split: file of videos and train or test; without it half of each class trains, drawn by ``split_seed``.
        blacklist: text file of videos that cleaning removes; without it nothing is cleaned.
        split_seed: of the drawn split.
        preset: of the hyper-parameters.
        hyper: hyper-parameters that differ from the preset's.
        seeds: of the trainings.
        d_model: width of the classifier.
        heads: its attention heads.
        dropout: its dropout.
        workers: processes that train together.
    """

    split: str | None = None
    blacklist: str | None = None
    split_seed: int = 1
    preset: str = "published"
    hyper: Mapping[str, Any] = field(default_factory=dict)
    seeds: Sequence[int] = (1, 2, 3)
    d_model: int = 512
    heads: int = 4
    dropout: float = 0.5
    workers: int = 1


def reproduce(
    folder: str, out: str, config: Config, options: Options, *, wait: bool = True, address: str | None = None,
    verbose: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Do all of it; ``OUT/ekman6`` gets the manifests, the models, the scores, ``report.html``, ``.md`` and ``.json``.

    ``folder`` is the data set's, as :func:`~vemoclap_batch.sources.ekman6.read_ekman6` takes it, ``out`` a local output
    folder; features that are there are not extracted again.

    Returns:
        What the page shows: ``scores``, one for each training set and test set (``trained_on``, ``scored_on`` and what
        :func:`~vemoclap_batch.fusion.evaluation.score` gives), ``cards`` of the trainings, ``videos`` (by data set,
        class and split), ``failed`` videos, ``split_source``, ``blacklist``, ``about`` and ``notes``.

    Raises:
        ConfigError: mistakes in the folder, the lists or the settings; everything is checked before anything starts.
        RunBroken: a step broke off; what was finished is kept.
    """
    if is_remote(out):
        raise ConfigError([f"-o {out!r}: expected a local folder, since models and pages are written there"])
    called = training_settings(options.preset, options.hyper)[1]
    blacklists = {AS_GIVEN: None} | ({CLEANED: options.blacklist} if options.blacklist else {})
    sets = {name: read_ekman6(folder, options.split, each, options.split_seed) for name, each in blacklists.items()}
    resolve(config)
    top = Path(local_path(out)) / FOLDER
    manifests = _write_manifests(sets, top)
    extracted = run(sets[AS_GIVEN].manifest.rows, out, config, None, wait=wait, address=address, verbose=verbose)
    store = Store(out)
    preferred = {name: spec.fingerprint for name, spec in extracted.specs.items()}
    sizes = {"d_model": options.d_model, "heads": options.heads, "dropout": options.dropout}
    shared: dict[str, Any] = {"seeds": list(options.seeds), **sizes, "workers": options.workers}
    cards = {
        name: fit(
            store, path, str(top / "models" / _file_name(name)), config, preset=options.preset, hyper=options.hyper,
            **shared, address=address, verbose=verbose,
        )
        for name, path in manifests.items()
    }  # fmt: skip
    pairs = [(trained_on, scored_on) for trained_on in sets for scored_on in sets]
    write_analysis(analyze(store, manifests[AS_GIVEN], options.blacklist, preferred), str(top / "analysis"))
    result = {
        "out": out,
        "videos": {name: data_set.counts() for name, data_set in sets.items()},
        "failed": extracted.failed,
        "split_source": sets[AS_GIVEN].split_source,
        "blacklist": options.blacklist and posixpath.basename(options.blacklist),
        "about": {"preset": called, **shared, "profile": config.profile, "frames": config.sampling.frames},
        "cards": cards,
        "scores": [_score(store, top, *pair, manifests[pair[1]], preferred) for pair in pairs],
        "notes": _notes(sets, extracted.failed, options),
    }
    write_page(result, top)
    return result


def _write_manifests(sets: Mapping[str, Ekman6], top: Path) -> dict[str, str]:
    top.mkdir(parents=True, exist_ok=True)
    paths = {name: str(top / f"{_file_name(name)}.parquet") for name in sets}
    for name, path in paths.items():
        write_manifest(sets[name].manifest, path)
    return paths


def _file_name(name: str) -> str:
    return name.replace(" ", "-")


def _score(
    store: Store, top: Path, trained_on: str, scored_on: str, labels: str, preferred: Mapping[str, str]
) -> dict[str, Any]:
    model = top / "models" / _file_name(trained_on)
    pictures = top / "scores" / f"{_file_name(trained_on)}-on-{_file_name(scored_on)}"
    scores = score(store, str(model), labels, preferred=preferred, folder=str(pictures))
    drawn = {kind: str((pictures / kind).relative_to(top)) for kind in (CONFUSION, RELIABILITY)}
    return {"trained_on": trained_on, "scored_on": scored_on, "pictures": drawn, **scores}


def _notes(sets: Mapping[str, Ekman6], failed: int, options: Options) -> list[str]:
    notes = list(dict.fromkeys(note for data_set in sets.values() for note in data_set.notes))
    if options.split is None and sets[AS_GIVEN].split_source.startswith("stratified"):
        notes.append("no split file was given: these scores are of another split than the published ones")
    if failed:
        notes.append(f"{failed} videos lack features, because something of them failed: OUT/errors says what")
    if options.blacklist is None:
        notes.append(
            "nothing was cleaned: the authors' list comes with their data (Zenodo record 17159328), and "
            "suggest-blacklist makes one of your own; --blacklist takes either"
        )
    return notes
