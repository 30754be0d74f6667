"""``vemoclap-batch search``: frames by a text or an example."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from vemoclap_batch.cli import options as opt
from vemoclap_batch.cli.common import print_json


def search(
    out: opt.OutArgument,
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="What to find, with --profile paper.")] = None,
    like: Annotated[str | None, typer.Option("--like", metavar="FILE", help="Video or picture to find alike.")] = None,
    top: Annotated[int, typer.Option(help="Frames that are shown.")] = 20,
    html: Annotated[str | None, typer.Option("--html", help="HTML file to write, with pictures.")] = None,
    profile: opt.Profile = "lite", settings: opt.Settings = None, frames: opt.Frames = None,
    window: opt.WindowS = None, hop: opt.HopS = None, models_dir: opt.ModelsDir = None, as_json: opt.Json = False,
) -> None:  # fmt: skip
    """Find the frames of OUT that a text describes, or that are like those of a file, by their stored embeddings.

    The profile, --set, --frames, --window and --hop are those that the features were made with: the same model embeds
    what is looked for. A text needs the text tower of a CLIP model (profile paper); --like works with any profile.
    """
    from vemoclap_batch.api import open_store
    from vemoclap_batch.errors import ConfigError, Mistakes
    from vemoclap_batch.report.html.search_page import search_page
    from vemoclap_batch.report.progress import tracking
    from vemoclap_batch.request import run_config
    from vemoclap_batch.store.folder import Folder
    from vemoclap_batch.studies import search as studies
    from vemoclap_batch.upkeep.gc import newest_predictions

    mistakes, store, config, spec = Mistakes(), None, None, None
    if (text is None) == (like is None):
        mistakes.add(["expected either a TEXT or --like FILE"])
    if top < 1:
        mistakes.add([f"--top {top}: expected at least 1"])
    if like is not None and "://" not in like and not os.path.isfile(like):
        mistakes.add([f"--like {like!r}: no such file"])
    if html is not None and not html.lower().endswith((".html", ".htm")):
        mistakes.add([f"--html {html!r}: expected the name of an .html file"])
    with mistakes.gathered():
        config = run_config(profile, settings, frames, models_dir, window, hop)
    with mistakes.gathered():
        store = open_store(out)
    with mistakes.gathered():
        spec = studies.searched(store, config, by_text=text is not None) if store and config else None
    mistakes.refuse()
    assert store is not None
    assert config is not None
    assert spec is not None
    query = studies.embed_text(spec, text) if text is not None else studies.embed_file(spec, config, str(like))
    table, videos = store.stored_features(spec.name, spec.fingerprint), store.current_videos()
    if table is None or not videos.num_rows:
        raise ConfigError([f"{out!r} has no row of features {spec.name}/{spec.fingerprint} yet"])
    with tracking("videos searched", videos.num_rows) as tracker:
        hits = studies.search(table, videos, query, spec.width, top, tracker.update)
    found = studies.describe(store, hits, newest_predictions(store), config, pictures=html is not None or as_json)
    for hit in found:
        print(_line(hit))
    if html is not None:
        folder, _, name = html.rpartition("/")
        target = Folder(folder or ("/" if html.startswith("/") else "."))
        target.write(name, search_page(text or f"{like}", out, found))
        print(f"the page is {html}")
    for hit in found:
        hit["thumbnail"] = base64.b64encode(hit["thumbnail"]).decode() if hit["thumbnail"] else None
    looked = {"text": text, "like": like, "table": f"{spec.name}/{spec.fingerprint}"}
    print_json({"out": out, **looked, "hits": found}, as_json)


def _line(hit: Mapping[str, Any]) -> str:
    from vemoclap_batch.report.digest import clock, shorten

    when = "" if hit["time_s"] is None else clock(hit["time_s"])
    emotion = f"{hit['label']} {hit['confidence']:.0%}" if hit["label"] else ""
    return f"{hit['score']:.3f}  {when:>8}  {emotion:<14}  {shorten(hit['uri'] or hit['video_id'], 120)}"
