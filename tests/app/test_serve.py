"""The server as users meet it: a process of its own, real chains on the session's Ray, requests over a socket."""

import io
import json
import signal
import socket
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import httpx
import pyarrow.compute as pc
import pytest

from tests.browser import launched
from tests.clips import make_clip
from tests.commands import here
from tests.conftest import ROOT
from tests.serving import serving, site
from tests.tiny import PROFILE, tiny_checkpoint
from tests.waiting import wait_for
from vemoclap_batch.api import Output, label
from vemoclap_batch.app.jobs import Jobs, State
from vemoclap_batch.cli.app import main

MAX_MB, MAX_QUEUE = 2, 6


@pytest.fixture(scope="module")
def there():
    with site() as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cluster):
    folder = tmp_path_factory.mktemp("serve")
    tiny_checkpoint(folder / "model")
    (folder / "tiny.yaml").write_text(PROFILE.replace("TinySound", f'TinySound", calls: "{folder}/calls'))
    make_clip(folder / "a.mp4", seconds=1)
    # A batch run comes first: once the server has its chains, this Ray has no CPU left for another run.
    assert batch(folder, make_clip(folder / "b.mp4", seconds=1.2))["done"] == 1
    return folder


def batch(folder, clip):
    options = {"profile": str(folder / "tiny.yaml"), "model": folder / "model"}
    return label([clip], folder / "out", **options)["counts"]


@pytest.fixture(scope="module")
def arguments(folder, address, there):
    return [
        "-o", folder / "out", "--profile", folder / "tiny.yaml", "--model", folder / "model", "--address", address,
        "--workers", 2, "--max-mb", MAX_MB, "--max-minutes", 0.3, "--max-queue", MAX_QUEUE, "--per-minute", 0,
        "--link-host", there.host,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def served(folder, arguments):
    with serving(folder, *arguments) as server:
        yield server


def calls(folder):
    return (folder / "calls").read_text().splitlines()


def test_health_and_description(served):
    health = served.client.get("/healthz")
    assert health.status_code == 200
    found = {"status": "ok", "model_loaded": True, "workers": 2, "workers_alive": 2}
    assert found.items() <= health.json().items()
    assert {"/v1/videos", "/v1/videos/{id}", "/healthz"} <= served.client.get("/openapi.json").json()["paths"].keys()


def test_an_upload_is_labelled_and_lands_in_the_tables_of_out(served, folder):
    found = served.over(served.upload(folder / "a.mp4"))
    assert (found["state"], found["name"], round(found["duration_s"])) == ("done", "a.mp4", 1)
    prediction, extractors = found["result"]["prediction"], found["result"]["extractors"]
    assert prediction["label"] in prediction["probabilities"]
    assert sum(prediction["probabilities"].values()) == pytest.approx(1)
    assert extractors["asr"]["text"].startswith("level 0.3")
    assert found["result"]["stages"].keys() == {"decode", "clip", "asr", "asr_sentiment"}

    output = Output(folder / "out")
    [video] = output.videos().filter(_of(output.videos(), found)).to_pylist()
    [row] = output.predictions().filter(_of(output.predictions(), found)).to_pylist()
    assert (row["label"], row["label_set"]) == (prediction["label"], prediction["label_set"])
    assert row["uri"] == video["uri"] == str(next((folder / "out.serve" / "uploads").glob("*.mp4")))
    before = calls(folder)
    # The same bytes are the same video, whatever they are called.
    again = served.over(served.upload(folder / "a.mp4", "another name.mp4"))
    assert (again["video_id"], again["name"]) == (found["video_id"], "another name.mp4")
    assert again["result"]["prediction"] == prediction
    assert calls(folder) == before


def test_the_page_and_batch_runs_share_their_work(served, folder):
    before = calls(folder)
    found = served.over(served.upload(folder / "b.mp4", "another.mp4"))
    assert (found["state"], found["video_id"][:2]) == ("done", "b-")
    assert calls(folder) == before
    # The server gives the folder back once it has nothing to do.
    served.over(served.upload(folder / "a.mp4"))
    upload = next(row["uri"] for row in Output(folder / "out").videos().to_pylist() if "/uploads/" in row["uri"])
    assert batch(folder, upload)["skipped"] == 1


def test_nobody_sees_what_is_not_theirs(served, folder):
    answers = [served.upload(folder / "a.mp4").json()["id"] for _ in range(2)]
    assert len(set(answers)) == 2
    assert all(len(each) >= 22 for each in answers)
    for path in (
        "/v1/videos/",
        "/v1/videos",
        "/v1/videos/nobody/preview",
        "/v1/videos/%2e%2e%2fjobs.sqlite",
        "/v1/videos/nobody",
    ):
        assert served.client.get(path).status_code in {404, 405, 422}, path


def test_a_deleted_video_is_forgotten(served, folder):
    clip = make_clip(folder / "deleted.mp4", seconds=0.7)
    job = served.over(served.upload(clip))["id"]
    uploads = folder / "out.serve" / "uploads"
    before = {path.name for path in uploads.iterdir()}
    assert served.client.delete(f"/v1/videos/{job}").status_code == 204
    assert served.client.get(f"/v1/videos/{job}").status_code == 404
    assert len(before - {path.name for path in uploads.iterdir()}) == 1


@pytest.mark.parametrize(
    "name", ["../../../escaped.mp4", "/etc/passwd", "..\\..\\escaped", "<img src=x onerror=1>.mp4"]
)
def test_names_are_never_paths(served, folder, name):
    found = served.over(served.upload(folder / "a.mp4", name))
    assert found["state"] == "done"
    assert "/" not in found["name"]
    uploads = folder / "out.serve" / "uploads"
    assert all(path.stem.isalnum() and path.parent == uploads for path in uploads.rglob("*"))
    assert not list(folder.parent.glob("*escaped*"))


def _body(size, boundary="x"):
    yield f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'.encode()
    for _ in range(size // 2**16):
        yield bytes(2**16)


def test_large_bodies_are_refused_while_they_come(served, folder):
    form = {"content-type": "multipart/form-data; boundary=x"}
    sent = 0

    def endless():
        nonlocal sent
        for piece in _body(2**30):
            sent += len(piece)
            yield piece

    answer = served.client.post("/v1/videos", content=endless(), headers=form)
    assert answer.status_code == 413
    assert "2 MB" in answer.json()["error"]["message"]
    assert sent < 64 * 2**20
    host = served.url.removeprefix("http://")
    head = (
        f"POST /v1/videos HTTP/1.1\r\nHost: {host}\r\nContent-Length: {2**30}\r\nContent-Type: {form['content-type']}"
    )
    with socket.create_connection(host.split(":")) as client:
        client.sendall(f"{head}\r\n\r\n".encode())
        # Before a single byte of it is sent.
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")
    assert not list((folder / "out.serve" / "uploads").glob("part-*"))


JSON, FORM = "application/json", "multipart/form-data; boundary=x"
PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
NOT_WANTED = [
    ("", b"", 415),
    ("text/plain", b"video", 415),
    (JSON, b"{", 400),
    (JSON, b"[]", 400),
    (JSON, b'{"url": 1}', 400),
    (JSON, b"x" * 9000, 413),
    ("multipart/form-data", b"--x--", 400),
    (FORM, b"rubbish", 400),
    (FORM, PART + b"half", 400),
    (FORM, PART + b"\r\n--x--\r\n", 422),
    (FORM, PART.replace(b"file", b"other", 1) + b"1\r\n--x--\r\n", 400),
]


@pytest.mark.parametrize(("kind", "content", "status"), NOT_WANTED)
def test_requests_that_bring_no_video(served, folder, kind, content, status):
    answer = served.client.post("/v1/videos", content=content, headers={"content-type": kind})
    assert (answer.status_code, bool(answer.json()["error"]["message"])) == (status, True)
    assert not list((folder / "out.serve" / "uploads").glob("part-*"))


def _archive(kind):
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("../../escaped.txt", "harmless")
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            archive.addfile(tarfile.TarInfo("../../escaped.txt"))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "error_type"),
    [("a.zip", _archive("zip"), "not_media"), ("a.mp4", _archive("tar"), "not_media"),
     ("a.mp4", b"<!doctype html><html><script>alert(1)</script></html>", "web_page"),
     ("a.m3u8", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/a.ts\n", "playlist"), ("a.mp4", b"\0" * 5000, None)],
)  # fmt: skip
def test_files_that_are_no_video(served, folder, name, content, error_type):
    path = folder / "bad"
    path.write_bytes(content)
    found = served.over(served.upload(path, name))
    assert found["state"] == "failed"
    assert found["error"]["error_type"] == (error_type or found["error"]["error_type"])
    message = found["error"]["message"]
    assert message
    assert str(folder) not in json.dumps(found["result"])
    assert error_type in Output(folder / "out").errors()["error_type"].to_pylist() or error_type is None


def test_a_long_video_is_refused(served, folder):
    found = served.over(served.upload(make_clip(folder / "long.mp4", seconds=20, fps=1)))
    assert (found["state"], found["error"]["error_type"]) == ("failed", "refused")
    assert "0.3" in found["error"]["message"]


def test_links(served, there, folder):
    video = f'<video src="{there.url}/clips/c.mp4"></video>'
    clip = (folder / "a.mp4").read_bytes()
    there.pages |= {
        "/clips/c.mp4": (200, {"Content-Type": "video/mp4"}, clip),
        "/clips/crash.mp4": (200, {"Content-Type": "video/mp4"}, clip),
        "/inside": (302, {"Location": "http://127.0.0.1:1/secret"}, b""),
        "/page": (200, {"Content-Type": "text/html"}, f"<html><title>A page</title>{video}</html>".encode()),
        "/large": (200, {"Content-Length": "1000000000"}, b""),
    }  # fmt: skip
    for url, status in (("file:///etc/passwd", 422), ("http://me:secret@host/a.mp4", 422), ("nothing", 422)):
        assert served.link(url).status_code == status
    paths = ["clips/c.mp4", "clips/crash.mp4", "inside", "page", "large"]
    urls = [f"{there.url}/{path}" for path in paths] + ["http://127.0.0.1:9/", "http://169.254.169.254/latest/"]
    with ThreadPoolExecutor(len(urls)) as pool:
        # Not more at a time than may wait.
        found = dict(zip(urls[:4], pool.map(served.over, map(served.link, urls[:4])), strict=True))
        found |= dict(zip(urls[4:], pool.map(served.over, map(served.link, urls[4:])), strict=True))
    states = {
        url.removeprefix(f"{there.url}/"): (each["state"], each.get("error", {}).get("error_type"))
        for url, each in found.items()
    }
    assert states == {
        "clips/c.mp4": ("done", None), "clips/crash.mp4": ("failed", "worker_died"), "inside": ("failed", "refused"),
        "page": ("done", None), "large": ("failed", "refused"),
        "http://127.0.0.1:9/": ("failed", "refused"), "http://169.254.169.254/latest/": ("failed", "refused"),
    }  # fmt: skip
    assert found[urls[3]]["name"].startswith("A page")
    rows = Output(folder / "out").videos().to_pylist()
    assert urls[0] in [row["uri"] for row in rows]
    # A link that was seen before is not fetched again.
    there.asked.clear()
    assert served.over(served.link(urls[0]))["state"] == "done"
    assert there.asked == []
    assert served.client.get("/healthz").status_code == 200


@pytest.fixture(scope="module")
def browser():
    with launched() as found:
        yield found


def visit(browser, served, width=1100, **options):
    page = browser.new_context(viewport={"width": width, "height": 900}, **options).new_page()
    page.goto(served.url)
    page.wait_for_selector("#vc-drop")
    return page


def result_of(page):
    page.wait_for_selector(".vc-result, .vc-error", timeout=60_000)
    return page.inner_text(".vc-result, .vc-error")


def test_page_a_sample_is_one_click_away(browser, served):
    page = visit(browser, served)
    page.get_by_role("button", name="two cities").click()
    text = result_of(page)
    assert all(
        part in text for part in ("two cities.mp4", "Probabilities", "Valence", "What is said", "level 0.", "JSON")
    )
    page.wait_for_function("document.getElementById('vc-player').readyState >= 1", timeout=60_000)
    assert page.evaluate("document.getElementById('vc-player').duration") == pytest.approx(15, abs=0.5)
    # Who has the address sees the result, also later.
    address = page.url
    page.goto(address)
    assert "two cities.mp4" in result_of(page)
    page.context.close()


def test_page_uploads_of_two_users_and_markup_that_stays_text(browser, served, folder):
    users = [visit(browser, served) for _ in range(2)]
    names = ["<img src=x onerror=document.title=1>.mp4", "second.mp4"]
    for number, (page, name) in enumerate(zip(users, names, strict=True)):
        clip = make_clip(folder / f"user{number}.mkv", seconds=1 + number / 10)
        page.set_input_files("#vc-file", {"name": name, "mimeType": "video/mp4", "buffer": clip.read_bytes()})
    assert [name in result_of(page) for page, name in zip(users, names, strict=True)] == [True, True]
    assert users[0].title() == users[1].title() == "VEMOCLAP"
    assert users[0].url != users[1].url
    # MKV, which the browser plays as the preview.
    users[0].wait_for_function("document.getElementById('vc-player').readyState >= 1", timeout=60_000)
    for page in users:
        page.context.close()


def test_page_says_what_is_wrong(browser, served, there):
    page = visit(browser, served)
    page.set_input_files("#vc-file", {"name": "a.mp4", "mimeType": "video/mp4", "buffer": b"<html>no video</html>"})
    page.wait_for_selector(".vc-error", timeout=60_000)
    assert all(part in page.inner_text(".vc-error") for part in ("a.mp4", "web page", "What works"))
    page.set_input_files("#vc-file", {"name": "b.mp4", "mimeType": "video/mp4", "buffer": bytes(3_000_000)})
    page.wait_for_selector("#vc-message .vc-error")
    assert "at most 2 MB" in page.inner_text("#vc-message")
    page.get_by_label("Link to a video file").fill("http://127.0.0.1:9/a.mp4")
    page.get_by_role("button", name="Label the link").click()
    page.wait_for_selector("text=no host of the public internet", timeout=60_000)
    page.context.close()


def test_page_on_a_phone_by_keyboard(browser, served):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = visit(browser, served, width=400)
    page.get_by_role("button", name="astronaut speaks").focus()
    page.keyboard.press("Enter")
    result_of(page)
    over = "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > 401)"
    wide = page.evaluate(f"{over}.map(e => e.outerHTML.slice(0, 100))")
    assert wide == []
    page.wait_for_function("document.getElementById('vc-player').readyState >= 1", timeout=60_000)
    faults = axe.Axe().run(page).response["violations"]
    assert [fault["id"] for fault in faults if fault["impact"] in {"serious", "critical"}] == []
    page.context.close()


def test_gradio_takes_no_files_and_fetches_none(served):
    for path in ("/gradio_api/upload", "/gradio_api/run/follow", "/gradio_api/call/follow"):
        assert served.client.post(path, files={"files": b"x"}).status_code == 404, path
    for path in ("/gradio_api/file=/etc/passwd", "/gradio_api/proxy=http://127.0.0.1/", "/file=/etc/passwd"):
        assert served.client.get(path).status_code == 404, path
    file = {"path": "http://127.0.0.1:9/", "meta": {"_type": "gradio.FileData"}}
    body = {"data": [[file]], "fn_index": 0, "session_hash": "a"}
    assert served.client.post("/gradio_api/queue/join", json=body).status_code == 413


def test_a_full_queue_says_when_to_come_again(served, there):
    there.pages |= {f"/hangs?{number}": (200, {}, None) for number in [*range(MAX_QUEUE), "more", "kept"]}
    taken = [served.link(f"{there.url}/hangs?{number}") for number in range(MAX_QUEUE)]
    assert [each.status_code for each in taken] == [202] * MAX_QUEUE
    assert served.status(taken[3].json()["id"])["place"] == 4
    refused = served.link(f"{there.url}/hangs?more")
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    for each in taken[2:]:
        served.client.delete(f"/v1/videos/{each.json()['id']}")
    assert served.link(f"{there.url}/hangs?more").status_code == 202


def test_jobs_survive_a_server_that_is_killed_and_sigterm_drains(served, there, folder, arguments):
    """The last test of this server: three links are being fetched."""
    job = served.link(f"{there.url}/hangs?kept").json()["id"]
    served.stop(signal.SIGKILL)
    there.pages["/after"] = (200, {"Content-Type": "video/mp4"}, (folder / "a.mp4").read_bytes())
    there.go.set()
    with serving(folder, *arguments, name="second") as second:
        wait_for(lambda: second.status(job)["state"] == "done", 60)
        last = second.upload(make_clip(folder / "drained.mp4", seconds=1.5)).json()["id"]
        wait_for(lambda: second.status(last)["state"] != "queued", 60)
        assert second.stop() == 143
        assert "stopped" in second.log.read_text()
    jobs = Jobs(folder / "out.serve")
    assert jobs.get(last).state is State.DONE
    jobs.close()


def test_the_notebook_starts_a_server(folder, arguments, served):
    """Its cells one after another, but for the installation and Colab's window; the server above has ended."""
    cells = json.loads((ROOT / "docs" / "colab.ipynb").read_text())["cells"]
    code = {cell["id"]: "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"}
    assert list(code) == ["install", "parameters", "serve", "drain_log", "page"]
    names = {}
    for name in ("parameters", "serve", "drain_log"):
        exec(code[name], names)
        if name == "parameters":
            assert set(names["ARGUMENTS"]) >= {"--profile", "lite", "-o"}
            names["ARGUMENTS"] = [str(each) for each in arguments]
    try:
        assert httpx.get(f"{names['address']}/healthz").json()["status"] == "ok"
        assert "VEMOCLAP" in httpx.get(names["address"], headers={"host": "localhost"}).text
    finally:
        names["server"].kill()
        names["server"].wait()


def test_wrong_usage_names_every_mistake(tmp_path):
    ended = here(main, "serve", "--host", "0.0.0.0", "--max-mb", 0, "--profile", "nothing", "-o", tmp_path / "out")
    assert ended.returncode == 2
    assert all(name in ended.stderr for name in ("--auth-token", "--public", "--max-mb", "nothing"))
    assert list(tmp_path.iterdir()) == []


def _of(table, found):
    return pc.equal(table["video_id"], found["video_id"])
