"""models pull: what is fetched, recorded, accepted and refused, against a hub on this machine."""

import hashlib
import signal
import subprocess
import sys

import pytest

from tests.models.conftest import FILES, REFERENCE, WEIGHTS
from tests.models.server import COMMIT, Hub, Repo
from tests.waiting import wait_for
from vemoclap_batch.config import load_config
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.extractors.registry import WeightsError, resolve
from vemoclap_batch.models.references import locate

SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
#: Large enough to arrive in several pieces: the library writes 10 MiB at a time.
LARGE = bytes(range(256)) * 100_000
HALF, PIECE = len(LARGE) // 2, 10 << 20


def resolved(lab):
    return resolve(load_config(str(lab.profile), [f"models_dir={lab.folder}"]))


def test_the_first_pull_records_hashes_that_have_to_be_accepted(hub, lab):
    with pytest.raises(WeightsError, match="models pull"):
        resolved(lab)
    first = lab("pull")
    assert first.status == 3, first.err
    assert f"sha256 {SHA256}" in first.out
    assert "--accept" in first.out
    kept = sorted(path.name for path in (lab.folder / "lab/faces").rglob("*"))
    assert kept == ["config.json", "model.safetensors"]  # safetensors, no pickle, no other framework's
    record = lab.manifest[REFERENCE]
    assert record["revision"] == COMMIT
    assert record["licence"] == "mit"
    assert record["files"]["model.safetensors"] == {"sha256": SHA256, "size": len(WEIGHTS)}
    assert record["accepted"] is None
    with pytest.raises(WeightsError, match=r"not accepted.*models pull --accept"):
        resolved(lab)

    asked = len(hub.log)
    second = lab("pull", "--accept")
    assert second.status == 0, second.err
    assert second.last["models"][0]["accepted"] is True
    assert len(hub.log) == asked
    assert resolved(lab)["faces"].models["model"] == lab.folder / "lab/faces"
    assert lab("pull").status == 0
    assert len(hub.log) == asked


def test_what_changed_on_the_disk_before_it_was_accepted_is_refused(hub, lab):
    lab("pull")
    flip(lab.folder / "lab/faces/model.safetensors")
    done = lab("pull", "--accept")
    assert done.status == 3
    assert SHA256 in done.err
    assert lab.manifest[REFERENCE]["accepted"] is None


def test_pickles_are_fetched_where_there_is_nothing_else(hub, lab):
    hub.repos["lab/faces"].files.pop("model.safetensors")
    lab("pull", "--accept")
    kept = sorted(path.name for path in (lab.folder / "lab/faces").iterdir())
    assert kept == ["config.json", "pytorch_model.bin"]


def test_one_file_of_a_repository_is_no_copy_of_it(hub, lab):
    lab.use(faces={"model": f"{REFERENCE}/onnx/model.onnx"})
    assert lab("pull", "--accept").status == 0
    assert hub.fetched() == [("onnx/model.onnx", None)]
    assert locate(f"{REFERENCE}/onnx/model.onnx", lab.folder).read_bytes() == b"another format"
    lab.use(faces={"model": REFERENCE})
    assert lab("list").last["models"][0]["state"] == "incomplete"
    with pytest.raises(WeightsError, match="only some of its files"):
        resolved(lab)
    assert lab("pull", "--accept").status == 0
    assert locate(REFERENCE, lab.folder) == lab.folder / "lab/faces"
    assert (lab.folder / "lab/faces/onnx/model.onnx").exists()
    # And the other way round, nothing is left to fetch.
    asked = len(hub.log)
    lab.use(faces={"model": f"{REFERENCE}/model.safetensors"})
    assert lab("pull").status == 0
    assert len(hub.log) == asked


def test_a_lost_file_is_fetched_again_at_the_recorded_revision_and_alone(hub, lab):
    lab("pull", "--accept")
    (lab.folder / "lab/faces/config.json").unlink()
    with pytest.raises(WeightsError, match=r"config\.json is missing"):
        resolved(lab)
    before = len(hub.fetched())
    assert lab("pull").status == 0  # the hashes are those that were accepted
    assert hub.fetched()[before:] == [("config.json", None)]
    assert any(path.endswith(f"/revision/{COMMIT}") for _, path, *_ in hub.log)
    resolved(lab)


def test_a_cut_connection_is_gone_on_with(hub, lab):
    hub.repos["lab/faces"].files["model.safetensors"] = LARGE
    hub.cuts["model.safetensors"] = HALF
    assert lab("pull", "--accept").status == 0
    assert hub.fetched()[1:] == [("model.safetensors", None), ("model.safetensors", f"bytes={PIECE}-")]
    assert (lab.folder / "lab/faces/model.safetensors").read_bytes() == LARGE


def test_a_killed_pull_goes_on_where_it_was_and_shows_nothing_before(hub, lab):
    hub.repos["lab/faces"].files["model.safetensors"] = LARGE
    hub.hangs["model.safetensors"] = HALF
    arguments = ["pull", "--profile", str(lab.profile), "--models-dir", str(lab.folder), "--accept"]
    code = "import sys; from vemoclap_batch.cli.models import app; app(sys.argv[1:])"
    with subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.DEVNULL) as child:
        assert hub.hanging.wait(120)
        wait_for_part(lab.folder / ".partial/lab/faces")
        child.send_signal(signal.SIGKILL)
    assert not (lab.folder / "lab").exists()
    before = len(hub.fetched())
    done = lab("pull", "--accept")
    assert done.status == 0, done.err
    assert hub.fetched()[before:] == [("model.safetensors", f"bytes={PIECE}-")]
    assert (lab.folder / "lab/faces/model.safetensors").read_bytes() == LARGE


@pytest.mark.parametrize(
    ("content", "asked"),
    [(WEIGHTS[:1000], "bytes=1000-"), (b"", None), (WEIGHTS + b"x", None)],
    ids=["begun", "empty", "too long"],
)
def test_a_part_that_version_0_1_left_is_continued_if_it_can_be(hub, lab, content, asked):
    part = lab.folder / f".partial/lab/faces/model.safetensors.{SHA256[:12]}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(content)
    assert lab("pull", "--accept").status == 0
    assert hub.fetched() == [("config.json", None), ("model.safetensors", asked)]
    assert (lab.folder / "lab/faces/model.safetensors").read_bytes() == WEIGHTS
    assert not list((lab.folder / ".partial").rglob("*.part"))


def wait_for_part(folder):
    """Until the first piece is on the disk: the client reads in its own time."""
    wait_for(lambda: any(path.stat().st_size == PIECE for path in folder.glob("*.part")))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_other_content_under_a_pinned_revision_is_refused(hub, lab, name):
    lab("pull", "--accept")
    (lab.folder / "lab/faces").rename(lab.folder.parent / "moved away")
    hub.repos["lab/faces"].files[name] = b"x" * len(FILES[name])
    done = lab("pull", "--accept")
    assert done.status == 3
    assert name in done.err
    assert hashlib.sha256(FILES[name]).hexdigest() in done.err
    assert hashlib.sha256(b"x" * len(FILES[name])).hexdigest() in done.err
    assert not (lab.folder / "lab/faces").exists()
    fetched_again = [item for item, _ in hub.fetched()].count(name) == 2
    assert fetched_again is (name == "config.json")  # of a large file the hub says the hash before


def test_a_file_that_is_not_the_one_known_to_the_project_is_refused_unfetched(hub, lab):
    name = "BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt"
    hub.repos["WeiChihChen/BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2"] = Repo({name: b"something else"})
    lab.use(beats={"model": f"hf:WeiChihChen/BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2/{name}"})
    done = lab("pull", "--accept")
    assert done.status == 3
    assert "e5815275a04b6885e7b8af63d120b29bffae2cd2225cf4915e1ec6d819d3022c" in done.err
    assert hub.fetched() == []


@pytest.mark.parametrize("name", ["../evil.json", "a/../../evil.json", "/evil.json", "..\\evil.json", "C:evil.json"])
def test_names_that_leave_the_folder_are_refused(hub, lab, tmp_path, name):
    hub.repos["lab/faces"].files[name] = b"{}"
    done = lab("pull", "--accept")
    assert done.status == 1
    assert "lab/faces: refused" in done.err
    assert hub.fetched() == []
    assert not list(tmp_path.rglob("*evil*"))


def test_content_that_is_not_the_announced_one_is_not_kept(hub, lab):
    hub.repos["lab/faces"].sent["model.safetensors"] = b"y" * len(WEIGHTS)
    done = lab("pull", "--accept")
    assert done.status == 1
    assert "lab/faces: model.safetensors arrived damaged" in done.err
    assert not list(lab.folder.rglob("*.safetensors*"))


def break_gated(hub):
    hub.repos["lab/faces"].gated = True


def break_absent(hub):
    del hub.repos["lab/faces"]


def break_revision(hub):
    hub.repos["trpakov/vit-face-expression"] = Repo(dict(FILES))  # whose revision the project knows


def break_room(hub):
    hub.repos["lab/faces"].sizes["model.safetensors"] = 1 << 55


def break_redirect(hub):
    hub.repos["lab/faces"].redirects["model.safetensors"] = "http://store.example/file"


@pytest.mark.parametrize(
    ("breaks", "reference", "said"),
    [
        (break_gated, REFERENCE, "lab/faces: config.json: its owner has to grant access"),
        (break_absent, REFERENCE, "has no such repository, or it needs HF_TOKEN"),
        (break_revision, "hf:trpakov/vit-face-expression", "no such revision"),
        (break_room, REFERENCE, "lab/faces: not enough room: "),
        (break_redirect, REFERENCE, "lab/faces: model.safetensors: refused"),
        (lambda hub: None, f"{REFERENCE}/other.pt", "has no file other.pt"),
    ],
)
def test_what_goes_wrong_is_one_line_and_the_others_are_fetched(hub, lab, breaks, reference, said):
    breaks(hub)
    hub.repos["lab/voices"] = Repo(dict(FILES))
    lab.use(faces={"model": reference}, voices={"model": "hf:lab/voices"})
    done = lab("pull", "--accept")
    assert done.status == 1
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert said in line
    assert reference.removeprefix("hf:").split("/other")[0] in line
    assert locate("hf:lab/voices", lab.folder).is_dir()


def test_no_network_is_one_line(hub, lab, monkeypatch):
    hub.shutdown()
    hub.server_close()
    done = lab("pull")
    assert done.status == 1
    (line,) = done.err.splitlines()
    assert line.startswith(f"error: lab/faces at main: cannot reach {hub.address}")
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    done = lab("pull")
    assert isinstance(done.error, ConfigError)
    assert "expected https" in str(done.error)


def test_the_token_goes_to_the_hub_alone(hub, lab, monkeypatch):
    store = Hub()
    store.repos["lab/faces"] = hub.repos["lab/faces"]
    hub.repos["lab/faces"] = Repo(
        dict(FILES), redirects={"model.safetensors": f"{store.address}/lab/faces/resolve/main/model.safetensors"}
    )
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    done = lab("pull", "--accept")
    assert done.status == 0
    assert "hf_secret" not in done.out + done.err
    assert not [path for path in lab.folder.rglob("*") if path.is_file() and b"hf_secret" in path.read_bytes()]
    store.shutdown()
    store.server_close()
    assert {token for *_, token in hub.log} == {"Bearer hf_secret"}
    assert [(path.split("/")[-1], token) for _, path, _, token in store.log] == [("model.safetensors", None)]


def test_without_a_token_none_is_sent(hub, lab, monkeypatch, tmp_path):
    from huggingface_hub import constants

    (tmp_path / "token").write_text("hf_saved_on_disk")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    assert lab("pull", "--accept").status == 0
    assert {token for *_, token in hub.log} == {None}


def test_offline_mode_asks_nobody(hub, lab, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    done = lab("pull")
    assert done.status == 1
    assert "error: lab/faces at main: not fetched, HF_HUB_OFFLINE is set" in done.err.splitlines()
    assert hub.log == []


def test_mistakes_in_the_profile_are_named_before_anything_is_fetched(hub, lab, tmp_path):
    lab.use(faces={"model": "hf:alone"}, voices={"model": f"{tmp_path}/none.pt"}, texts={})
    done = lab("pull")
    assert isinstance(done.error, ConfigError)
    assert "extractors.faces: 'hf:alone'" in str(done.error)
    assert "extractors.texts.model: missing" in str(done.error)
    lab.use(faces={"model": REFERENCE}, voices={"model": f"{tmp_path}/none.pt"})
    done = lab("pull")
    assert "extractors.voices.model" in str(done.error)
    assert hub.log == []


def flip(path):
    with path.open("r+b") as file:
        byte = file.read(1)
        file.seek(0)
        file.write(bytes([byte[0] ^ 1]))
