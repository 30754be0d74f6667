"""The process that runs yt-dlp: it can open connections to one proxy only, and start no program.

It reads one JSON object from standard input: ``url``, ``folder``, ``proxy`` (port on this machine), ``size`` (bytes).
It writes one to standard output: ``file`` and ``title``, or ``error``.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

#: No program is needed to fetch a file; a site's player code would be run by one.
_FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pty.spawn")


def only_through(port: int) -> None:
    """From now on this process connects to one port of this machine and nowhere else; that cannot be undone."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in {"socket.connect", "socket.sendto", "socket.sendmsg"}:
            if tuple(arguments[1][:2]) != ("127.0.0.1", port):
                raise PermissionError(f"{arguments[1]!r}: connections go through the guard alone")
        elif event == "socket.getaddrinfo":
            if arguments[0] not in {"127.0.0.1", None}:
                raise PermissionError(f"{arguments[0]!r}: names are looked up by the guard alone")
        elif event in {"socket.gethostbyname", "socket.gethostbyaddr"} or event in _FORBIDDEN:
            raise PermissionError(event)

    sys.addaudithook(hook)


def _download(request: dict[str, Any]) -> dict[str, Any]:
    import yt_dlp

    folder, size = Path(request["folder"]), request["size"]

    def bounded(status: dict[str, Any]) -> None:
        if (status.get("downloaded_bytes") or 0) > size or (status.get("total_bytes") or 0) > size:
            raise yt_dlp.utils.DownloadCancelled(f"the video has more than {size / 1e6:.0f} MB")

    options = {
        "proxy": f"http://127.0.0.1:{request['proxy']}",
        "outtmpl": {"default": str(folder / "video.%(ext)s")},
        # One file with sound and pictures, of a height that models take anyway: nothing here can join two.
        "format": "best[height<=720]/best",
        # Without the second a page with several videos gives them all.
        "noplaylist": True, "playlist_items": "1",
        "socket_timeout": 20, "retries": 1, "fragment_retries": 1, "extractor_retries": 1,
        "hls_prefer_native": True, "fixup": "never", "updatetime": False, "cachedir": False,
        "quiet": True, "no_warnings": True, "noprogress": True, "ignoreconfig": True,
        "enable_file_urls": False, "progress_hooks": [bounded],
    }  # fmt: skip
    with yt_dlp.YoutubeDL(options) as downloader:
        info = downloader.extract_info(request["url"])
    files = [path for path in folder.iterdir() if path.is_file() and path.suffix not in {".part", ".ytdl"}]
    if len(files) != 1:
        return {"error": "the site gave no video that can be fetched as one file"}
    return {"file": files[0].name, "title": str((info or {}).get("title") or "")}


def main() -> None:
    """Answer one request."""
    parent = os.getppid()
    request = json.loads(sys.stdin.read())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (request["size"] + 1,) * 2)
    import yt_dlp  # noqa: F401 - before the hook, which its import's look for programs would trip over.

    only_through(request["proxy"])
    try:
        answer = _download(request)
    except Exception as error:
        answer = {"error": str(error).removeprefix("ERROR: ").splitlines()[0] if str(error) else type(error).__name__}
    if os.getppid() == parent:
        answers.write(json.dumps(answer))
        answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
