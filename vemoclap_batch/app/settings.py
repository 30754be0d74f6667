"""How the server is to run: checked as a whole, before anything starts."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from vemoclap_batch.errors import Mistakes
from vemoclap_batch.store.filesystem import is_remote, local_path

#: Below so many characters a token can be guessed.
_TOKEN_LENGTH = 16


@dataclass(frozen=True)
class ServeSettings:
    """What an operator chooses.

    Attributes:
        out: the output folder, as of any run.
        state: folder of jobs, uploads and previews, on this machine.
        token: who does not know it is refused; None for a server without.
        public: whether everybody who reaches the server may use it.
        max_mb: megabytes of an upload or a fetched file.
        max_minutes: length of a video.
        max_queue: jobs that may wait.
        per_minute: videos that one client may send in a minute, on average; 0 for any number.
        keep_hours: how long uploads and results can be asked for once a job is over.
        workers: chains on CPUs; None: as many as a batch run has.
        link_hosts: hosts of the inner network that links may name, ``host`` or ``host:port``.
        names: other host names under which pages reach the server, such as a proxy's; ``*`` stands for anything.
        trusted_proxy: address of a reverse proxy that says in ``X-Forwarded-For`` who the client is.
    """

    out: str
    state: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    public: bool = False
    max_mb: float = 512.0
    max_minutes: float = 30.0
    max_queue: int = 100
    per_minute: float = 30.0
    keep_hours: float = 24.0
    workers: int | None = None
    link_hosts: tuple[str, ...] = ()
    trusted_proxy: str | None = None
    names: tuple[str, ...] = ()

    @property
    def max_bytes(self) -> int:
        """Bytes of an upload."""
        return int(self.max_mb * 1e6)

    @property
    def folder(self) -> Path:
        """Folder of jobs, uploads and previews: next to OUT unless said otherwise."""
        return Path(os.path.abspath(self.state or local_path(self.out).rstrip("/") + ".serve"))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the server."""
        return is_loopback(self.host)

    def check(self) -> None:
        """See that it can be run like this.

        Raises:
            ConfigError: with every mistake.
        """
        mistakes = Mistakes()
        if not self.is_loopback and self.token is None and not self.public:
            mistakes.add(
                [
                    f"--host {self.host}: others can reach this address, and anybody who does could send videos; "
                    "give --auth-token (or VEMOCLAP_AUTH_TOKEN) to keep strangers out, or --public to let everybody in"
                ]
            )
        if self.token is not None and len(self.token) < _TOKEN_LENGTH:
            mistakes.add([f"--auth-token: expected at least {_TOKEN_LENGTH} characters"])
        if not 0 <= self.port < 65_536:
            mistakes.add([f"--port {self.port}: expected 0 to 65535"])
        if is_remote(self.out) and self.state is None:
            mistakes.add([f"-o {self.out}: with an output folder that is not on this machine give --state FOLDER"])
        for name in ("max_mb", "max_minutes", "keep_hours", "max_queue"):
            if not getattr(self, name) > 0:
                mistakes.add([f"--{name.replace('_', '-')} {getattr(self, name):g}: expected more than 0"])
        if self.per_minute < 0:
            mistakes.add([f"--per-minute {self.per_minute:g}: expected 0 (any number) or more"])
        if self.workers is not None and self.workers < 1:
            mistakes.add([f"--workers {self.workers}: expected at least 1"])
        mistakes.refuse()


def is_loopback(host: str) -> bool:
    """Tell whether an address to bind to is one of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
