"""The report: what it counts, and what a real browser makes of it."""

import json
import shutil
import signal
import subprocess
import sys

import pytest

from tests.browser import browsing
from tests.clips import make_clip
from tests.commands import here
from tests.report.made_output import made_output
from vemoclap_batch.cli.app import main
from vemoclap_batch.config import LABELS
from vemoclap_batch.report.html.page import json_for_script
from vemoclap_batch.report.html.thumbnails import frames_of
from vemoclap_batch.store.store import new_run_id

#: What runs if any of it is taken for markup, in the ways that pages are attacked.
RUNS = "window.attacked=1"
HOSTILE = [
    f"<script>{RUNS}</script>",
    f'"><img src=x onerror="{RUNS}">',
    f"</script><script>{RUNS}</script>",
    f"<!--<script>{RUNS}",
    f"\u2028{RUNS}\u2029",
    f"<svg onload={RUNS}>",
    f"'}};{RUNS};//{{{{ 7*7 }}}}",
]


def data_of(path):
    """The data in a report, read as a browser reads them."""
    text = path.read_text()
    return json.loads(text.split('id="data">')[1].split("</script>")[0])


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", seconds=2)


def test_a_report_counts_and_shows_what_the_tables_hold(tmp_path, clip):
    made_output(tmp_path / "out", {"a": str(clip), "b": "s3://bucket/b.mp4", "c": "https://example.org/c.mp4"})
    (tmp_path / "labels.csv").write_text(f"video_id,label\na,{LABELS[0]}\nb,{LABELS[0]}\n")
    ended = here(main, "report", tmp_path / "out", "--labels", tmp_path / "labels.csv", "--json")
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout.splitlines()[-1])
    assert (said["videos"], said["shown"], said["with_pictures"]) == (3, 3, 1)
    found = data_of(tmp_path / "out" / "report" / "index.html")
    overview = found["overview"]
    assert overview["labels"] == dict(zip(LABELS, [1, 1, 1, 0, 0, 0], strict=True))
    assert overview["coverage"] == dict.fromkeys(("asr", "beats", "caption", "clip", "face_emotion", "ocr"), 1.0)
    assert overview["failures"] == {"model": 1}
    assert overview["runs"] == [{"run": "20260102T030405-abc", "videos": 3, "labels": [1, 1, 1, 0, 0, 0]}]
    assert overview["quality"]["accuracy"] == 0.5
    assert overview["quality"]["matrix"][0][:2] == [1, 1]
    first, second, third = found["videos"]
    assert first["label"] == LABELS[0]
    assert first["given"] == LABELS[0]
    assert len(first["windows"]) == 2
    assert first["windows"][1]["p"] is None
    assert first["faces"] == [[0.8, 0.25, 0.25, 0.5, 0.5, "so it goes", 0.7]]
    assert first["why"]["items"] == [["beats", 0.8, 0.8, 0.3]]
    # The clip's frames at the times of the stored ones, so that boxes lie where faces are.
    assert [time for time, _ in first["pictures"]] == pytest.approx([0.0, 0.475, 0.95, 1.425, 1.9], abs=0.06)
    assert (second["link"], second["media"], second["pictures"]) == (None, None, [])
    assert (third["link"], third["media"]) == ("https://example.org/c.mp4", None)
    # Pictures are kept: the next report opens no video.
    moved = shutil.move(clip, tmp_path / "moved.mp4")
    again = here(main, "report", tmp_path / "out", "-o", tmp_path / "again.html", "--json")
    shutil.move(moved, clip)
    assert json.loads(again.stdout.splitlines()[-1])["with_pictures"] == 1


def test_no_markup_from_a_video_runs_in_a_browser_and_nothing_is_fetched(tmp_path, clip):
    names = [f"{number} {text}" for number, text in enumerate(HOSTILE)]
    folder = tmp_path / "videos"
    folder.mkdir()
    videos = {name: str(folder / name.replace("/", "∕")) + ".mp4" for name in names}
    for uri in videos.values():
        shutil.copy(clip, uri)
    videos["js"] = f"javascript:{RUNS}"
    made_output(tmp_path / "out", videos, said="".join(HOSTILE), written=HOSTILE[2])
    page_file = tmp_path / 'r"<b>&.html'
    ended = here(main, "report", tmp_path / "out", "-o", page_file)
    assert ended.returncode == 0, ended.stderr
    with browsing(viewport={"width": 1280, "height": 900}) as page:
        dialogs = []
        page.on("dialog", lambda dialog: dialogs.append(dialog.message))
        page.goto(page_file.as_uri())
        page.wait_for_selector("html[data-ready]")
        assert page.locator("tbody tr").count() == len(videos)
        assert page.locator(".chart svg.main-svg").count() > 0
        for number in range(len(videos)):
            page.locator("tbody tr").nth(number).click()
            page.wait_for_selector(".timeline svg.main-svg")
            assert page.evaluate("document.querySelectorAll('main script, main iframe, main [onerror]').length") == 0
            # As text it is there to read.
            assert RUNS in page.locator("ul.lines").first.inner_text()
            page.go_back()
        assert page.evaluate("window.attacked") is None
        assert dialogs == []
        assert [url[:60] for url in page.requests if not url.startswith(("file:", "data:", "blob:"))] == []
        links = page.evaluate("JSON.parse(document.getElementById('data').textContent).videos.map(v => v.link)")
        assert all(link.startswith("file:") or not link.startswith("javascript:") for link in links if link)
        # The policy of the page itself: nothing is loaded, and no program but its own runs.
        refused = page.evaluate(
            """async () => {
                const seen = [];
                addEventListener('securitypolicyviolation', event => seen.push(event.effectiveDirective));
                await fetch('http://127.0.0.1:9/').catch(() => {});
                const image = new Image(); image.src = 'http://127.0.0.1:9/x.png';
                const script = document.createElement('script'); script.textContent = 'window.attacked = 2';
                document.body.append(script, image);
                await new Promise(resolve => setTimeout(resolve, 300));
                return seen.sort();
            }"""
        )
        assert [name for name in ("connect-src", "img-src", "script-src-elem") if name not in refused] == []
        assert page.evaluate("window.attacked") is None


def test_a_browser_sorts_filters_pages_and_seeks(tmp_path, clip):
    made_output(tmp_path / "out", {f"v{number:04d}": str(clip) for number in range(120)})
    ended = here(main, "report", tmp_path / "out", "-o", tmp_path / "r.html", "--pictures", 0)
    assert ended.returncode == 0, ended.stderr
    with browsing(viewport={"width": 400, "height": 900}) as page:
        page.goto((tmp_path / "r.html").as_uri())
        page.wait_for_selector("html[data-ready]")
        assert page.locator("tbody tr").count() == 50
        page.get_by_role("button", name="next").click()
        assert "page 2 of 3" in page.locator(".pager").inner_text()
        page.get_by_label("emotion", exact=True).select_option(LABELS[1])
        assert "20 of 120 videos" in page.locator(".pager").inner_text()
        page.fill("#search", "no such words")
        assert page.locator("tbody tr").count() == 0
        page.fill("#search", "exit")
        page.locator("tbody tr").first.click()
        page.wait_for_function("document.querySelector('video').readyState >= 1")
        page.locator(".lines .seek.t").first.click()
        assert page.evaluate("document.querySelector('video').currentTime") == pytest.approx(0.5, abs=0.01)
        chart = page.locator(".timeline .chart")
        box = page.evaluate(
            "(() => {const c = document.querySelector('.timeline .chart'), a = c._fullLayout.xaxis; "
            "return [a._offset + a.d2p(1.6), c.clientHeight / 4]})()"
        )
        chart.click(position={"x": box[0], "y": box[1]})
        assert page.evaluate("document.querySelector('video').currentTime") == pytest.approx(1.6, abs=0.1)
        # Nothing is wider than the screen of a phone.
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        assert page.errors == []


def test_of_many_videos_a_sample_is_shown_and_that_is_said(tmp_path):
    made_output(tmp_path / "out", {f"v{number}": f"/gone/{number}.mp4" for number in range(30)})
    ended = here(main, "report", tmp_path / "out", "--limit", 10)
    assert ended.returncode == 0, ended.stderr
    assert "random sample of 10 of the 30 videos" in ended.stdout
    found = data_of(tmp_path / "out" / "report" / "index.html")
    assert len(found["videos"]) == 10
    assert found["overview"]["videos"] == 30
    assert any("random sample" in note for note in found["notes"])


def test_mistakes_are_named_together_and_nothing_is_written(tmp_path):
    ended = here(main, "report", tmp_path / "none", "-o", tmp_path / "r.pdf", "--pictures", -1)
    assert ended.returncode == 2
    assert [word for word in ("r.pdf", "--pictures", "no such output folder") if word not in ended.stderr] == []
    (tmp_path / "empty").mkdir()
    (tmp_path / "labels.csv").write_text("video_id,label\nnobody,joy\n")
    ended = here(main, "report", tmp_path / "empty", "--labels", tmp_path / "labels.csv", "--limit", 0)
    assert ended.returncode == 2
    assert [w for w in ("no video yet", "--limit 0", "nobody") if w not in ended.stderr] == []
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "labels.csv"]


def test_a_report_of_a_folder_that_another_run_writes(tmp_path, clip):
    store = made_output(tmp_path / "out", {"a": str(clip)})
    with store.writing(new_run_id()):
        ended = here(main, "report", tmp_path / "out", "-o", tmp_path / "r.html")
    assert ended.returncode == 0, ended.stderr
    assert len(data_of(tmp_path / "r.html")["videos"]) == 1


def test_ctrl_c_leaves_no_half_report(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", seconds=20, size=(640, 480))
    made_output(tmp_path / "out", {f"v{number}": str(clip) for number in range(200)})
    command = [sys.executable, "-m", "vemoclap_batch", "report", tmp_path / "out", "-o", tmp_path / "r.html"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        for line in running.stderr:
            if line.startswith("pictures:"):
                break
        running.send_signal(signal.SIGINT)
        said = running.stderr.read()
        assert running.wait(60) == 130, said
    assert not list(tmp_path.glob("*.html"))
    assert not list(tmp_path.glob(".r.html*"))


def test_json_in_a_script_element_ends_nothing():
    text = json_for_script(HOSTILE)
    assert json.loads(text) == HOSTILE
    assert [char for char in "<>&\u2028\u2029" if char in text] == []


def test_frames_of_pictures_are_among_those_sampled():
    assert [frames_of(count) for count in (0, 1, 2, 5, 16, 17, 31)] == [6, 1, 2, 5, 6, 5, 6]
