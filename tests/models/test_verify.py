"""models list and verify, and what is put into the models folder by hand."""

import hashlib
import json
import subprocess
import sys
import threading

import pytest
from typer.testing import CliRunner

from tests.models.conftest import FILES, REFERENCE, WEIGHTS
from tests.models.server import COMMIT
from tests.waiting import wait_for
from vemoclap_batch.cli.app import app
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.extractors.registry import WeightsError
from vemoclap_batch.models.download import locked
from vemoclap_batch.models.hashes import NotAccepted, require_accepted
from vemoclap_batch.models.references import MissingWeights, locate, split


@pytest.fixture
def pulled(hub, lab):
    """The models folder after a pull, accepted."""
    assert lab("pull", "--accept").status == 0
    hub.log.clear()
    return lab.folder / "lab/faces"


def by_hand(lab, name="lab/hand"):
    folder = lab.folder / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.pt").write_bytes(b"a pickle")
    return folder


def test_a_whole_folder_is_verified(hub, lab, pulled):
    done = lab("verify")
    assert done.status == 0
    assert done.last == {"models_dir": str(lab.folder), "files": 2, "problems": []}
    assert hub.log == []


def test_a_folder_that_version_0_1_filled_is_found_and_verified(hub, lab):
    files = {"config.json": FILES["config.json"], "model.safetensors": WEIGHTS}
    for name, content in files.items():
        path = lab.folder / "lab/faces" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    hashes = {name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in files.items()}
    accepted = "2026-11-01T12:00:00+00:00"
    record = {"accepted": accepted, "files": hashes, "licence": "mit", "repo": "lab/faces", "revision": COMMIT}
    (lab.folder / "models.json").write_text(json.dumps({"models": {REFERENCE: record}, "version": 1}))
    assert lab("list").last["models"][0]["state"] == "pinned"
    assert lab("pull").last["models"][0]["state"] == "there"
    assert lab("verify").last == {"models_dir": str(lab.folder), "files": 2, "problems": []}
    assert hub.log == []


def test_every_difference_is_named(lab, pulled):
    changed = bytearray(WEIGHTS)
    changed[1000] ^= 1
    (pulled / "model.safetensors").write_bytes(changed)
    (pulled / "config.json").unlink()
    (pulled / "other.bin").write_bytes(b"extra")
    done = lab("verify")
    assert done.status == 3
    problems = {(problem["kind"], problem["path"]): problem for problem in done.last["problems"]}
    assert set(problems) == {
        ("differs", str(pulled / "model.safetensors")),
        ("missing", str(pulled / "config.json")),
        ("extra", str(pulled / "other.bin")),
    }
    differs = problems["differs", str(pulled / "model.safetensors")]
    assert differs["expected"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert differs["found"] == hashlib.sha256(changed).hexdigest()
    assert differs["found"] in done.err
    # What was fetched is never recorded anew from what lies there.
    assert lab("verify", "--accept").status == 3
    assert lab.manifest[REFERENCE]["files"]["model.safetensors"]["sha256"] == differs["expected"]


def test_what_was_fetched_and_not_accepted_is_no_success(hub, lab):
    lab("pull")
    done = lab("verify")
    assert done.status == 3
    assert done.last["problems"][0]["kind"] == "not accepted"
    weights = lab.folder / "lab/faces/model.safetensors"
    weights.write_bytes(WEIGHTS[::-1])
    assert lab("verify", "--accept").last["problems"][0]["kind"] == "differs"
    assert lab.manifest[REFERENCE]["accepted"] is None
    weights.write_bytes(WEIGHTS)
    assert lab("verify", "--accept").status == 0
    assert locate(REFERENCE, lab.folder).is_dir()


def test_a_copy_made_by_hand_serves_but_for_its_pickles(lab):
    folder = by_hand(lab)
    lab.use(faces={"model": "hf:lab/hand"})
    assert locate("hf:lab/hand", lab.folder) == folder
    assert lab("list").last["models"][0]["state"] == "by hand"
    with pytest.raises(NotAccepted, match=r"model\.pt is refused: it is a pickle.*models verify --accept"):
        require_accepted(folder / "model.pt")
    assert lab("verify").status == 3
    done = lab("verify", "--accept")
    assert done.status == 0, done.err
    assert hashlib.sha256(b"a pickle").hexdigest() in done.out
    require_accepted(folder / "model.pt")
    assert lab("list").last["models"][0]["state"] == "pinned"
    # Another pickle under the same name is another pickle.
    (folder / "model.pt").write_bytes(b"b pickle")
    with pytest.raises(NotAccepted):
        require_accepted(folder / "model.pt")
    assert lab("verify").status == 3
    assert lab("verify", "--accept").status == 0
    require_accepted(folder / "model.pt")


def test_what_was_put_there_by_hand_is_not_replaced(hub, lab):
    folder = by_hand(lab, "lab/faces")
    done = lab("pull")
    assert done.status == 0
    assert done.last["models"][0]["state"] == "by hand"
    lab("verify", "--accept")
    (folder / "model.pt").write_bytes(b"a longer pickle")
    done = lab("pull")
    assert done.status == 3
    assert "put there by hand and has changed" in done.err
    assert hub.log == []


def test_a_path_of_ones_own_is_recorded_where_it_is_looked_for(lab, tmp_path):
    own = tmp_path / "own" / "faces.pt"
    own.parent.mkdir()
    own.write_bytes(b"a pickle")
    lab.use(faces={"model": str(own)})
    assert lab("pull").status == 0
    assert lab("verify").last["problems"] == [
        {"kind": "not recorded", "path": str(own), "expected": None, "found": None}
    ]
    with pytest.raises(NotAccepted, match=str(tmp_path / "default" / "models.json")):
        require_accepted(own)
    assert lab("verify", "--accept").status == 0
    require_accepted(own)
    assert (tmp_path / "default" / "models.json").exists()
    own.write_bytes(b"b pickle")
    done = lab("verify")
    assert done.status == 3
    assert done.last["problems"][0]["kind"] == "differs"
    with pytest.raises(NotAccepted):
        require_accepted(own)


def test_a_pickle_that_was_fetched_has_to_be_accepted(hub, lab):
    hub.repos["lab/faces"].files["model.pt"] = b"a pickle"
    lab.use(faces={"model": f"{REFERENCE}/model.pt"})
    assert lab("pull").status == 3
    with pytest.raises(NotAccepted):
        require_accepted(lab.folder / "lab/faces/model.pt")
    assert lab("pull", "--accept").status == 0
    require_accepted(lab.folder / "lab/faces/model.pt")


def test_list_says_how_each_model_stands(hub, lab, pulled, tmp_path):
    lab.use(
        faces={"model": REFERENCE, "detector": "hf:AdamCodd/YOLOv11n-face-detection/model.pt"},
        texts={"model": REFERENCE},
        own={"model": str(tmp_path / "none")},
    )
    done = lab("list")
    assert done.status == 0
    there, missing, own = done.last["models"]
    assert there["roles"] == ["faces.model", "texts.model"]
    assert (there["state"], there["revision"], there["licence"]) == ("pinned", COMMIT, "mit")
    assert there["bytes"] == len(WEIGHTS) + len(FILES["config.json"])
    assert there["path"] == str(pulled)
    assert (missing["state"], missing["revision"], missing["path"]) == ("missing", "main", None)
    assert missing["bytes"] == 5_500_000
    assert (own["state"], own["path"]) == ("missing", None)
    assert "about 5.5 MB" in done.out
    assert "3 models, 2 not ready" in done.out
    assert "pinned" in done.out
    assert hub.log == []


def test_a_manifest_that_is_none_is_a_mistake_with_its_name(lab, pulled):
    (lab.folder / "models.json").write_text("{")
    with pytest.raises(ConfigError, match=r"models\.json is not a manifest"):
        locate(REFERENCE, lab.folder)
    assert isinstance(lab("list").error, ConfigError)


def test_references_are_split_or_refused(tmp_path):
    assert split("hf:a/b") == ("a/b", None)
    assert split("hf:a/b/c/d.pt") == ("a/b", "c/d.pt")
    for wrong in ("hf:a", "hf:", "hf:a/..", "hf:a/b/../c", "hf:.partial/b", "hf:a//b"):
        with pytest.raises(ValueError, match="expected hf:OWNER/NAME"):
            split(wrong)
    with pytest.raises(MissingWeights, match="is not in"):
        locate("hf:a/b", tmp_path)


OFFLINE = """
import socket, sys
def forbid(event, arguments):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}:
        raise RuntimeError(f"the network was asked for: {event} {arguments}")
sys.addaudithook(forbid)
try:
    socket.create_connection(("127.0.0.1", 9))
except RuntimeError:
    pass
else:
    sys.exit("the hook does not hold")
from vemoclap_batch.config import load_config
from vemoclap_batch.extractors.registry import resolve
for spec in resolve(load_config(sys.argv[1], [f"models_dir={sys.argv[2]}"])).values():
    print(spec.fingerprint, *spec.models.values())
"""


@pytest.mark.usefixtures("pulled")
def test_after_a_pull_nothing_touches_the_network(lab):
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(lab.profile), str(lab.folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1:] == [str(lab.folder / "lab/faces")]


def test_a_missing_model_is_one_error_before_any_video_is_opened(lab, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "nowhere:1")
    (tmp_path / "clip.mp4").write_bytes(b"x")
    arguments = ["extract", tmp_path / "clip.mp4", "-o", tmp_path / "out", "--profile", lab.profile]
    done = CliRunner().invoke(app, [*map(str, arguments), "--models-dir", str(lab.folder)])
    assert isinstance(done.exception, WeightsError)
    missing, remedy = done.exception.mistakes
    assert missing == f"extractors.faces.model: 'hf:lab/faces' is not in {lab.folder}"
    assert "vemoclap-batch models pull" in remedy
    assert not (tmp_path / "out").exists()


def test_one_command_at_a_time_writes_a_models_folder(tmp_path):
    said, entered = [], threading.Event()

    def second():
        with locked(tmp_path, said.append):
            entered.set()

    with locked(tmp_path, said.append):
        thread = threading.Thread(target=second)
        thread.start()
        # It has said so, and is not through.
        wait_for(lambda: said)
        assert not entered.is_set()
    assert entered.wait(60)
    thread.join()
    assert said == [f"another pull is at work in {tmp_path}; waiting for it"]


def test_a_models_folder_that_cannot_be_written_is_a_mistake(hub, lab):
    lab.folder.write_text("a file")
    done = lab("pull")
    assert isinstance(done.error, ConfigError)
    assert str(lab.folder) in str(done.error)
    assert hub.log == []
