"""All extractors of a profile in one process, as in a chain: whichever is loaded first, none disturbs another."""

import os
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from tests.extractors.conftest import frames_clip, spoken, written
from tests.extractors.paper_models import overrides, paper
from tests.tolerance import assert_near

#: Loads the extractors of a profile in a process of their own, forwards or backwards, and writes what they make of a
#: clip. No library may set the threads of torch, the GPUs that Ray gave the process or the variables of its threads.
LOAD = """
import os, pickle, sys

profile, backwards, clip, out, *settings = sys.argv[1:]
from vemoclap_batch.config import load_config
from vemoclap_batch.extractors.base import Resources, Result
from vemoclap_batch.extractors.registry import resolve

specs = resolve(load_config(profile, settings))
THREADS = 3

def check(name):
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5,7", name
    if "torch" in sys.modules:
        import torch
        assert torch.get_num_threads() == THREADS, f"{name}: torch has {torch.get_num_threads()} threads"

extractors = {}
for name, spec in sorted(specs.items(), key=lambda item: list(specs).index(item[0]), reverse=backwards == "True"):
    extractors[name] = spec.cls(spec.settings, Resources(THREADS, "cpu", spec.models))
    check(name)
with open(clip, "rb") as file:
    clip = pickle.load(file)
results = {}
for name, spec in specs.items():
    [results[name]] = extractors[name].extract([results[spec.source].extras["text"] if spec.source else clip])
    assert isinstance(results[name], Result), results[name]
    check(name)
with open(out, "wb") as file:
    pickle.dump(results, file)
"""


@pytest.fixture(scope="module")
def lite(astronaut):
    """The settings of the lite profile, and a clip with a face, a line of text and speech."""
    clip = frames_clip(written("Hello World 2024", size=(512, 512)), astronaut)
    return [], replace(clip, waveform=spoken("beckett.wav", seconds=6))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The settings of the paper profile in small, and a clip with the same."""
    made = paper(tmp_path_factory)
    return overrides(made.models), made.clips[2]


@pytest.mark.numeric
@pytest.mark.parametrize(("profile", "inputs"), [("lite", "lite"), ("paper", "small")])
def test_the_order_in_which_extractors_are_loaded_does_not_matter(profile, inputs, request, tmp_path):
    settings, clip = request.getfixturevalue(inputs)
    (tmp_path / "clip").write_bytes(pickle.dumps(clip))
    found = []
    for backwards in (False, True):
        out = tmp_path / f"results-{backwards}"
        command = [sys.executable, "-c", LOAD, profile, str(backwards), str(tmp_path / "clip"), str(out), *settings]
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "5,7"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found.append(pickle.loads(out.read_bytes()))
    forwards, backwards = found
    assert forwards.keys() == backwards.keys()
    for name, result in forwards.items():
        assert_near(backwards[name].feature, result.feature)
        assert backwards[name].extras.get("text") == result.extras.get("text")
    assert all(forwards[name].extras["text"] for name in ("asr", "ocr"))
    assert np.abs(forwards["asr_sentiment"].feature).max() > 0
