"""How long a report takes and how large it is: of made-up videos that lie in a few real clips."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.memory import highest_memory
from bench.outputs import lite_output
from bench.report import Report
from vemoclap_batch.policy import ANYWHERE
from vemoclap_batch.report.html.page import PICTURES_S, write_report
from vemoclap_batch.report.html.source import open_source
from vemoclap_batch.sources.demo_clips import make_clips
from vemoclap_batch.store.folder import Folder
from vemoclap_batch.upkeep.gc import newest_predictions


def measure(videos: int = 1000) -> Report:
    """Write a report of so many videos three times: without pictures, decoding some, and until all have theirs."""
    with TemporaryDirectory(prefix="vemoclap-bench-") as name:
        folder = Path(name)
        store = lite_output(folder / "out", videos, make_clips(folder / "clips"))
        target, rows = Folder(folder / "report"), []
        for what, pictures_s in (("without pictures", 0.0), ("first", PICTURES_S), ("again", PICTURES_S)):
            began = time.perf_counter()
            source = open_source(store, newest_predictions(store))
            done = write_report(source, target, "index.html", target, ANYWHERE, pictures_s)
            seconds = round(time.perf_counter() - began, 1)
            row = {"report": what, "seconds": seconds, "mb": round(done["bytes"] / 1e6, 1)}
            rows.append(row | {"shown": done["shown"], "with_pictures": done["with_pictures"]})
    figures = {"seconds": rows[1]["seconds"], "mb": rows[-1]["mb"], "memory_gb": round(highest_memory() / 1e9, 2)}
    return Report("report", {"videos": videos, "files": 5}, rows, figures)
