"""The whole paper profile as a user runs it, on tiny models and with no network in any of its processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import torch

from tests.extractors.paper_models import WIDTHS, overrides, paper
from vemoclap_batch.fusion import published
from vemoclap_batch.fusion.checkpoint import Checkpoint
from vemoclap_batch.fusion.data import Examples
from vemoclap_batch.fusion.model import AttentionClassifier
from vemoclap_batch.fusion.spec import FusionSpec

pytestmark = pytest.mark.numeric

#: Loaded by every Python process that has its folder in PYTHONPATH, Ray's own included.
GUARD = """
import os, sys

NOTES, LOCAL = os.environ["GUARD_NOTES"], set(os.environ["GUARD_LOCAL"].split())

def note(line):
    with open(NOTES, "a") as notes:
        notes.write(line + "\\n")

def guard(event, arguments):
    if event in {"socket.connect", "socket.sendto"}:
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else ""  # else a path or a number: no network
    elif event in {"socket.getaddrinfo", "socket.gethostbyname"}:
        host = arguments[0] or ""
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host and host not in LOCAL:
        note(f"called {host} by {os.path.basename(sys.argv[0])}")
        raise PermissionError(f"no network here: {event} {host}")

note("guarded")
sys.addaudithook(guard)
"""
PROGRAM = """
import socket, sys

from vemoclap_batch.cli.app import main

def command(*arguments):
    try:
        main([*arguments, "--profile", "paper", *settings])
    except SystemExit as end:
        assert not end.code, end.code

clips, out, checkpoint, *settings = sys.argv[1:]
try:
    socket.create_connection(("192.0.2.1", 9))
except PermissionError:
    command("extract", clips, "-o", out)
    command("predict", out, "--model", checkpoint)
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return paper(tmp_path_factory)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A classifier with the published features, spaces and normalisation, but for the widths."""
    features = {name: published.FEATURES[name].model_copy(update={"width": width}) for name, width in WIDTHS.items()}
    torch.manual_seed(0)
    made = Checkpoint(AttentionClassifier(FusionSpec(features=features, d_model=16)).eval())
    folder = tmp_path_factory.mktemp("checkpoint")
    made.save(folder)
    return made, folder


@pytest.fixture(scope="module")
def out(small, checkpoint, tmp_path_factory):
    """The output of an extraction and a prediction."""
    top = tmp_path_factory.mktemp("run")
    (top / "sitecustomize.py").write_text(GUARD)
    own = {address.address for found in psutil.net_if_addrs().values() for address in found}
    local = {"127.0.0.1", "::1", "localhost", "0.0.0.0", "::", socket.gethostname(), *own}
    environment = os.environ | {
        "PYTHONPATH": f"{top}{os.pathsep}{os.environ['PYTHONPATH']}",
        "GUARD_NOTES": str(top / "notes"),
        "GUARD_LOCAL": " ".join(local),
        "HOME": str(top),
    }
    small_memory = [f"extractors.{name}.resources.memory_gb=0.2" for name in small.specs]
    settings = [*overrides(small.models), *small_memory, "pipeline.cpu_chains=1"]
    options = [option for setting in settings for option in ("--set", setting)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(small.videos), str(top / "out"), str(checkpoint[1]), *options],
        env=environment, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return top / "out"


def read(folder):
    """The rows of a table, in the order of the videos' names; plain pyarrow, as any user reads them."""
    found = ds.dataset([str(path) for path in folder.rglob("part-*.parquet")]).to_table()
    return found.sort_by("video_id").to_pylist()


def same(found, expected):
    """Equal but for the last digits of numbers, however nested."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[name], expected[name]) for name in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    return found == (pytest.approx(expected, rel=1e-4, abs=1e-3) if isinstance(expected, float) else expected)


def test_nothing_touched_the_network(out):
    notes = (out.parent / "notes").read_text().splitlines()
    # The driver, the chain, its decoder and Ray's own, at least.
    assert notes.count("guarded") > 4
    # Ray's dashboard asks its own network whose cloud it is in, whatever it is told; nothing else was asked for.
    ray = {"called 169.254.169.254 by dashboard.py", "called metadata.google.internal by dashboard.py"}
    assert set(notes) - ray == {"guarded", "called 192.0.2.1 by -c"}


def test_every_table_has_what_its_extractor_makes(out, small):
    for name, spec in small.specs.items():
        rows = read(out / "features" / name / spec.fingerprint)
        assert [row["video_id"].rsplit("-", 1)[0] for row in rows] == [clip.video_id for clip in small.clips]
        for row, result in zip(rows, small.results[name], strict=True):
            feature = np.array(row["feature"], np.float32).reshape(result.feature.shape)
            if feature.size:
                assert np.abs(feature - result.feature).max() < 1e-4 * np.abs(result.feature).max(), name
            if spec.cls.sequence:
                assert (row["start_s"], row["end_s"]) == (result.start_s.tolist(), result.end_s.tolist())
            for column, kind in spec.cls.columns.items():
                [expected] = pa.array([result.extras[column]], kind).to_pylist()
                assert same(row[column], expected), (name, column)
    assert not (out / "errors").exists()


def test_captions_come_after_what_tells_them_the_frame_and_texts_come_last(out):
    [summary] = [json.loads(path.read_text()) for path in (out / "runs").iterdir()]
    [stage] = summary["plan"]["stages"]
    names = stage["extractors"]
    assert (stage["name"], names[0]) == ("cpu chain", "decode")
    assert names.index("caption") > max(names.index("face_emotion"), names.index("ocr"))
    assert names[-2:] == ["asr_sentiment", "ocr_sentiment"]


def test_predictions_are_those_of_the_classifier_on_what_was_extracted(out, small, checkpoint):
    features = {name: [result.feature for result in small.results[name]] for name in WIDTHS}
    names = [clip.video_id for clip in small.clips]
    expected = checkpoint[0].probabilities(Examples(names, features, np.full(len(names), -1)))
    rows = read(out / "predictions")
    found = np.array([[row[f"p_{label}"] for label in checkpoint[0].spec.labels] for row in rows], float)
    # The second is a still picture without a face, a text and sound.
    assert [row["label"] is None for row in rows] == [False, True, False]
    assert np.abs(found[[0, 2]] - expected[[0, 2]]).max() < 1e-5
    assert np.ptp(expected, axis=0).max() > 1e-3
    assert [row["missing"] for row in rows] == [[], sorted(WIDTHS), []]
