"""``vemoclap-batch explain``: why each video was labelled so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from vemoclap_batch.cli import options as opt
from vemoclap_batch.cli.common import DONE, FAILED, print_json

#: Explanations that are printed one by one.
_LISTED = 40


def explain(
    out: opt.OutArgument, model: opt.Model = None, profile: opt.Profile = "lite", settings: opt.Settings = None,
    window: opt.WindowS = None, hop: opt.HopS = None, no_wait: opt.NoWait = False, as_json: opt.Json = False,
) -> None:  # fmt: skip
    """Say how much each modality contributed to each prediction, and which seconds it hangs on.

    The newest predictions of the model are explained, of windows if those are the newest; --window and --hop ask for
    others. OUT/explanations gets a row for each prediction that has a label.
    """
    from vemoclap_batch.api import open_store
    from vemoclap_batch.config import load_config
    from vemoclap_batch.errors import Mistakes
    from vemoclap_batch.fusion.explain import explain as explain_videos
    from vemoclap_batch.fusion.explain import find_predictions, selection
    from vemoclap_batch.fusion.selection import select
    from vemoclap_batch.report.progress import tracking
    from vemoclap_batch.request import load_classifier, window_of
    from vemoclap_batch.store.store import new_run_id
    from vemoclap_batch.upkeep.gc import predictions_by_age

    mistakes = Mistakes()
    store = classifier = windows = None
    with mistakes.gathered():
        windows = window_of(window, hop)
    with mistakes.gathered():
        classifier = load_classifier(load_config(profile, settings), model)
    with mistakes.gathered():
        store = open_store(out)
    mistakes.refuse()
    assert store is not None
    assert classifier is not None
    asked = window is not None
    fingerprint = find_predictions(store, classifier.digest, windows, asked, predictions_by_age(store))
    features, windows = selection(store, fingerprint)
    spaces = {name: feature.space for name, feature in classifier.description.spec.features.items()}
    selected = select(store, spaces, features, window=windows)
    run_id = new_run_id()
    with store.writing(run_id, wait=not no_wait):
        videos = store.current_videos()
        with tracking("explanations", videos.num_rows) as tracker:
            done = explain_videos(
                store, videos, classifier, selected, fingerprint, run_id, windows, lambda at, _: tracker.update(at)
            )  # fmt: skip
    rows = done.table.read().slice(0, _LISTED).to_pylist()
    for row in rows[:10]:
        print(_line(row))
    for name, share in done.shares.items():
        print(f"{name:<14} changes the label's probability by {share:.3f} on average")
    counts = {name: getattr(done, name) for name in ("new", "skipped", "incomplete", "nothing")}
    print(f"explanations are in {out}/explanations/{fingerprint}")
    print(
        f"{done.new} done, {done.skipped} skipped, {done.incomplete} without all features; "
        f"{done.nothing} predictions with nothing to go by have no explanation"
    )
    result = {"out": out, "table": fingerprint, "counts": counts, "shares": done.shares, "explanations": rows}
    print_json(result, as_json)
    raise typer.Exit(FAILED if done.incomplete else DONE)


def _line(row: Mapping[str, Any]) -> str:
    from vemoclap_batch.report.digest import clock, shorten

    parts = sorted(row["contributions"], key=lambda part: -abs(part["value"]))
    shares = ", ".join(f"{part['feature']} {part['value']:+.2f}" for part in parts if part["present"])
    window = f" at {clock(row['window_start_s'])}" if row["window_start_s"] else ""
    name = shorten(row["video_id"], 40) + window
    telling = max(row["items"], key=lambda item: item["drop"], default=None)
    seconds = ""
    if telling and telling["drop"] > 0 and telling["start_s"] is not None:
        seconds = f"; without {telling['feature']} at {clock(telling['start_s'])} {-telling['drop']:.2f}"
    return (
        f"{name}{window}: {row['label']} {row['probability']:.2f} = {row['empty_probability']:.2f}, {shares}{seconds}"
    )
