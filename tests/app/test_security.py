import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from vemoclap_batch.app.jobs import Job, Jobs, State, new_id
from vemoclap_batch.app.pace import Pace
from vemoclap_batch.app.security import COOKIE, Gate, RateLimit, client_of
from vemoclap_batch.app.settings import ServeSettings
from vemoclap_batch.app.taken import shown_name
from vemoclap_batch.config import load_config
from vemoclap_batch.errors import ConfigError

TOKEN = "a token that nobody can guess"


def gate(**settings):
    async def hello(request):
        return PlainTextResponse("hello")

    routes = [Route(path, hello, methods=["GET", "POST"]) for path in ("/", "/healthz", "/v1/videos", "/other")]
    given = ServeSettings("out", **settings)
    return TestClient(Gate(Starlette(routes=routes), given), base_url="http://localhost:8000", follow_redirects=False)


def test_on_the_loopback_other_names_are_refused():
    client = gate()
    assert client.get("/").status_code == 200
    assert client.get("/", headers={"host": "127.0.0.1:8000"}).status_code == 200
    assert client.get("/", headers={"host": "[::1]:8000"}).status_code == 200
    assert client.get("/", headers={"host": "rebound.example"}).status_code == 421
    assert gate(host="0.0.0.0", public=True).get("/", headers={"host": "videos.example"}).status_code == 200


def test_pages_of_other_sites_may_not_send():
    client = gate()
    assert client.post("/v1/videos", headers={"origin": "http://localhost:8000"}).status_code == 200
    assert client.post("/v1/videos", headers={"origin": "http://elsewhere.example"}).status_code == 403
    assert client.post("/v1/videos", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert client.post("/v1/videos", headers={"origin": "null"}).status_code == 403


def test_a_proxy_in_front_may_have_a_name_of_its_own():
    client = gate(names=("videos.example", "*.proxied.example"))
    assert client.get("/", headers={"host": "a.proxied.example"}).status_code == 200
    assert client.get("/", headers={"host": "elsewhere.example"}).status_code == 421
    assert client.post("/v1/videos", headers={"origin": "https://videos.example"}).status_code == 200
    assert client.post("/v1/videos", headers={"origin": "https://videos.example.evil.example"}).status_code == 403


def test_without_the_token_there_is_nothing_to_see():
    client = gate(token=TOKEN)
    assert client.get("/healthz").status_code == 200
    assert client.get("/v1/videos").status_code == 401
    assert client.get("/v1/videos", headers={"authorization": f"Bearer {TOKEN}x"}).status_code == 401
    assert client.get("/v1/videos", headers={"authorization": "Bearer ünicode".encode()}).status_code == 401
    assert client.get("/v1/videos", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    page = client.get("/", headers={"accept": "text/html"})
    assert (page.status_code, page.headers["location"]) == (303, "/login")


def test_signing_in_sets_a_cookie_that_is_not_the_token():
    client = gate(token=TOKEN)
    assert "Access token" in client.get("/login").text
    assert client.post("/login", data={"token": "wrong"}).status_code == 401
    answer = client.post("/login", data={"token": TOKEN})
    assert answer.status_code == 303
    assert "httponly" in answer.headers["set-cookie"].lower()
    assert TOKEN not in answer.headers["set-cookie"]
    assert client.get("/").status_code == 200
    client.cookies.clear()
    client.cookies.set(COOKIE, "0" * 64)
    assert client.get("/v1/videos").status_code == 401


def test_tokens_cannot_be_tried_without_end():
    client = gate(token=TOKEN)
    assert [client.post("/login", data={"token": "wrong"}).status_code for _ in range(15)][-1] == 429


def test_a_client_that_sends_too_much_waits():
    client = gate(per_minute=6)
    codes = [client.post("/v1/videos") for _ in range(4)]
    assert [code.status_code for code in codes] == [200, 200, 429, 429]
    assert 1 <= int(codes[-1].headers["retry-after"]) <= 11
    assert client.get("/v1/videos").status_code == 200
    assert gate(per_minute=0).post("/v1/videos").status_code == 200


def test_rate_limit_over_time():
    limit = RateLimit(60)
    assert [limit.wait_s("a", 0.0) for _ in range(21)].count(0.0) == 20
    assert limit.wait_s("b", 0.0) == 0
    assert 0 < limit.wait_s("a", 0.0) <= 1
    assert limit.wait_s("a", 1.5) == 0


def test_clients_of_ipv6_are_their_network():
    assert client_of("2001:db8:1:2:3::4") == client_of("2001:db8:1:2:ffff::1") != client_of("2001:db8:1:3::1")
    assert client_of("192.0.2.1") == "192.0.2.1"


def test_answers_are_taken_for_what_they_say():
    headers = gate().get("/").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'self'" in headers["content-security-policy"]


def test_all_mistakes_of_the_settings_at_once():
    with pytest.raises(ConfigError) as wrong:
        ServeSettings("s3://bucket/out", host="0.0.0.0", port=99_999, max_mb=0, workers=0).check()
    text = str(wrong.value)
    assert all(name in text for name in ("--auth-token", "--public", "--port", "--max-mb", "--workers", "--state"))
    ServeSettings("out", host="0.0.0.0", token=TOKEN).check()
    ServeSettings("out", host="::", public=True).check()
    ServeSettings("out", host="::1").check()
    with pytest.raises(ConfigError, match="16 characters"):
        ServeSettings("out", token="short").check()


@pytest.mark.parametrize(
    ("name", "shown"),
    [("../../etc/passwd", "passwd"), ("C:\\clips\\a.mp4", "a.mp4"), ("a\nb\x00c.mp4", "a b c.mp4"), ("/", "video"),
     ("..", ".."), ("x" * 300, "x" * 119 + "…"), ("<b>.mp4", "<b>.mp4")],
)  # fmt: skip
def test_names_are_for_reading(name, shown):
    assert shown_name(name) == shown


def test_jobs_survive_and_are_begun_twice_at_most(tmp_path):
    jobs = Jobs(tmp_path)
    first, second, waiting = (Job(new_id(), f"{number}", float(number)) for number in range(3))
    for job in (waiting, second, first):
        jobs.add(job)
    jobs.change(first, state=State.RUNNING, begun=1)
    jobs.change(second, state=State.RUNNING, begun=2)
    (tmp_path / "uploads" / "part-of-nobody").write_bytes(b"half")
    jobs.close()

    jobs = Jobs(tmp_path)
    assert [job.id for job in jobs.recover()] == [second.id]
    assert [job.id for job in jobs.of(State.QUEUED)] == [first.id, waiting.id]
    assert list((tmp_path / "uploads").iterdir()) == []
    jobs.close()


def test_files_go_with_the_last_job_that_has_them_and_no_others_do(tmp_path):
    jobs = Jobs(tmp_path / "state")
    upload, sample = jobs.folder / "uploads" / "abc.mp4", tmp_path / "sample.mp4"
    preview = jobs.preview_of(upload)
    for path in (upload, sample, preview):
        path.write_bytes(b"video")
    several = [Job(new_id(), "a", 1.0, path=str(path)) for path in (upload, upload, sample)]
    for job in several:
        jobs.add(job)
    jobs.delete(several[0])
    assert upload.exists()
    jobs.change(several[1], state=State.DONE, finished=10.0)
    assert jobs.forget_older(5.0) == 0
    assert jobs.forget_older(11.0) == 1
    jobs.delete(several[2])
    assert (upload.exists(), preview.exists(), sample.exists()) == (False, False, True)
    jobs.close()


def test_the_pace_is_learnt_and_kept(tmp_path):
    jobs, config = Jobs(tmp_path), load_config("lite")
    pace = Pace(config, jobs)
    before = pace.expected(10.0)
    pace.learn(10.0, 3 * before)
    assert pace.expected(10.0) == pytest.approx(3 * before)
    assert Pace(config, jobs).expected(20.0) == pytest.approx(pace.expected(20.0))
    job = Job(new_id(), "a", 0.0, duration_s=10.0)
    assert pace.seconds([job] * 4, 2) == pytest.approx(2 * pace.seconds([job], 2))
    jobs.close()
