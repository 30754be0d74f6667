"""Where an output folder lies, as pyarrow, Delta and obstore name it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import pyarrow.fs as pafs

from vemoclap_batch.errors import ConfigError
from vemoclap_batch.store.filesystem import is_remote, resolve
from vemoclap_batch.store.retry import is_local

_SCHEMES = ("s3", "gs", "az", "abfs", "abfss")


@dataclass(frozen=True)
class Location:
    """A folder.

    Attributes:
        filesystem: of pyarrow, where it is.
        path: its path there.
        uri: what Delta and obstore take for its address; locally the path.
        connection: what the address says of the connection, as object stores' options are named.
    """

    filesystem: pafs.FileSystem
    path: str
    uri: str
    connection: dict[str, str]

    def __truediv__(self, name: str) -> Location:
        """A folder in this one."""
        below = quote(name) if self.remote else name
        return Location(self.filesystem, f"{self.path}/{name}", f"{self.uri}/{below}", self.connection)

    @property
    def remote(self) -> bool:
        """Whether it is on another machine."""
        return not is_local(self.filesystem)

    @property
    def options(self) -> dict[str, str]:
        """Storage options for Delta; credentials among them, if any, are those of this moment."""
        if not self.remote:
            return {}
        # These clients try for seconds; the retry around them says how long a store is waited for.
        tries = {"max_retries": "3", "retry_timeout": "10s", "allow_http": "true"}
        return {**tries, **self.connection, **self.credentials()}

    def credentials(self) -> dict[str, str]:
        """For S3, found by botocore, which unlike Delta's and obstore's clients reads profiles; else empty."""
        found = _s3_credentials().get_frozen_credentials() if self.filesystem.type_name == "s3" else None
        named = {
            "aws_access_key_id": found and found.access_key,
            "aws_secret_access_key": found and found.secret_key,
            "aws_session_token": found and found.token,
        }
        return {name: value for name, value in named.items() if value}


def location(address: str) -> Location:
    """Where an output folder lies.

    Raises:
        ConfigError: no package knows the address's scheme, it holds a password, or no Delta table can be written there.
    """
    filesystem, path = resolve(address)
    path = path.rstrip("/")
    if not is_remote(address):
        if re.search("%[0-9A-Fa-f]{2}", path):
            raise ConfigError([f"{path!r}: no folder for Delta tables, which take %41 and the like in a name for an A"])
        return Location(filesystem, path, path, {})
    scheme = address.partition("://")[0]
    if scheme not in _SCHEMES:
        schemes = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        raise ConfigError([f"{address!r}: tables can be written to a local folder and to {schemes} only"])
    if scheme != "s3":
        return Location(filesystem, path, address.partition("?")[0].rstrip("/"), {})
    query = urlsplit(address).query
    # What pyarrow does not take for settings is part of the name.
    said = {} if path.endswith(f"?{query}") else dict(parse_qsl(query))
    connection = {"aws_region": filesystem.region}
    if endpoint := said.get("endpoint_override"):
        connection["aws_endpoint_url"] = (
            endpoint if "://" in endpoint else f"{said.get('scheme', 'https')}://{endpoint}"
        )
    return Location(filesystem, path, f"s3://{quote(path)}", connection)


@cache
def _s3_credentials() -> Any:
    import botocore.credentials
    import botocore.session

    # Those of a machine's or container's role, too; they are renewed by themselves.
    return botocore.session.Session().get_credentials() or botocore.credentials.Credentials("", "")
