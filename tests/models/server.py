"""A hub on this machine: the few addresses of the real one's that fetching needs, and its ways to go wrong."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin", ".pt", ".h5", ".onnx")
COMMIT = "1" * 40


@dataclass
class Repo:
    """A repository: its files by revision, each revision under its commit too."""

    files: dict[str, bytes]
    commit: str = COMMIT
    licence: str = "mit"
    gated: bool = False
    #: Sizes to announce instead of the true ones.
    sizes: dict[str, int] = field(default_factory=dict)
    #: Contents to send instead of the announced ones.
    sent: dict[str, bytes] = field(default_factory=dict)
    #: Where a file is said to lie.
    redirects: dict[str, str] = field(default_factory=dict)


class Hub(ThreadingHTTPServer):
    """The server; ``log`` has (method, path, Range, Authorization) of every request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, Repo] = {}
        self.log: list[tuple[str, str, str | None, str | None]] = []
        #: Files whose first answer breaks off after so many bytes.
        self.cuts: dict[str, int] = {}
        #: Files whose answer stops after so many bytes, with the connection open until ``release`` is set.
        self.hangs: dict[str, int] = {}
        self.hanging, self.release = threading.Event(), threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fetched(self) -> list[tuple[str, str | None]]:
        """The name and Range of every file whose content was asked for."""
        return [
            (path.split("/", 5)[-1], wanted)
            for method, path, wanted, _ in self.log
            if method == "GET" and "/resolve/" in path
        ]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def _answer(self):
        path = unquote(urlsplit(self.path).path)
        self.server.log.append((self.command, path, self.headers.get("Range"), self.headers.get("Authorization")))
        parts = path.strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        owner = parts[2:] if is_api else parts
        repo = self.server.repos.get("/".join(owner[:2]))
        if repo is None:
            self._error(404, "RepoNotFound")
        elif owner[3] not in {"main", repo.commit}:
            self._error(404, "RevisionNotFound")
        elif is_api:
            self._describe("/".join(owner[:2]), repo)
        elif repo.gated:
            self._error(403, "GatedRepo")
        else:
            self._file("/".join(owner[4:]), repo)

    def _error(self, status, code):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _describe(self, name, repo):
        files = []
        for path, content in repo.files.items():
            size = repo.sizes.get(path, len(content))
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            entry = {"rfilename": path, "size": size, "blobId": blob}
            if path.endswith(LARGE):
                entry["lfs"] = {"size": size, "sha256": hashlib.sha256(content).hexdigest(), "pointerSize": 134}
            files.append(entry)
        tags = [f"license:{repo.licence}"]
        body = json.dumps({"id": name, "modelId": name, "sha": repo.commit, "tags": tags, "siblings": files}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, path, repo):
        content = repo.sent.get(path, repo.files[path])
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(302 if path in repo.redirects else 206 if wanted else 200)
        if path in repo.redirects:
            self.send_header("Location", repo.redirects[path])
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("X-Repo-Commit", repo.commit)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", "0" if path in repo.redirects else str(len(content) - start))
        self.end_headers()
        if self.command == "HEAD" or path in repo.redirects:
            return
        hang, cut = self.server.hangs.pop(path, None), self.server.cuts.pop(path, None)
        self.wfile.write(content[start : hang or cut])
        self.wfile.flush()
        if hang is not None:
            self.server.hanging.set()
            self.server.release.wait(300)
        self.close_connection = hang is not None or cut is not None
