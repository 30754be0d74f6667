"""A server of the application as a process of its own, and a small web server that links may lead to."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

from tests.waiting import wait_for


class Served:
    """A running server: its address, its process and what it printed."""

    def __init__(self, process, url, log):
        self.process, self.url, self.log = process, url, log
        self.client = httpx.Client(base_url=url, timeout=60)

    def upload(self, path, name=None, **options):
        with open(path, "rb") as stream:
            return self.client.post("/v1/videos", files={"file": (name or path.name, stream)}, **options)

    def link(self, url):
        return self.client.post("/v1/videos", json={"url": url})

    def status(self, job):
        return self.client.get(f"/v1/videos/{job}").json()

    def over(self, answer, seconds=60):
        """What a job that was taken came to."""
        assert answer.status_code == 202, answer.text
        job = answer.json()["id"]
        wait_for(lambda: self.status(job)["state"] in {"done", "failed"}, seconds, every=0.05)
        return self.status(job)

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(60)


@contextmanager
def serving(folder, *arguments, name="server", environment=None):
    """Run ``vemoclap-batch serve`` with some arguments until the context ends."""
    log = folder / f"{name}.log"
    command = [sys.executable, "-m", "vemoclap_batch", "serve", "--port", "0", *map(str, arguments)]
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, cwd=folder, env={**os.environ, **(environment or {})}
        )
    try:
        listening = re.compile(r"listening on (http://\S+)")

        def found():
            assert process.poll() is None, log.read_text()
            return listening.search(log.read_text())

        yield Served(process, wait_for(found, 240)[1], log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


class Site(ThreadingHTTPServer):
    """Answers as ``pages`` says: path → (status, headers, body); a body of None comes once :attr:`go` is set."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages, self.asked, self.go = {}, [], threading.Event()
        self.host = f"127.0.0.1:{self.server_address[1]}"
        self.url = f"http://{self.host}"

    def handle_error(self, *_):
        pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append(self.path)
        status, headers, body = self.server.pages.get(self.path, (404, {}, b""))
        if body is None:
            self.server.go.wait(120)
            status, headers, body = self.server.pages["/after"]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if callable(body):
            self.end_headers()
            while True:  # Until the other side has enough.
                self.wfile.write(body())
                time.sleep(0.001)
        self.send_header("Content-Length", headers.get("Content-Length", str(len(body))))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@contextmanager
def site():
    """A web server on this machine for as long as the context lasts."""
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.go.set()
            server.shutdown()
