"""Which addresses may be read: schemes, roots, and where a redirect may lead."""

from __future__ import annotations

import ipaddress
import os
import posixpath
import socket
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from vemoclap_batch.errors import PASSWORD_REFUSED, without_password

#: Schemes that are read by default; a path without a scheme is ``file``.
SCHEMES = ("file", "s3", "gs", "gcs", "az", "abfs", "abfss", "hdfs", "http", "https")


@dataclass(frozen=True)
class Policy:
    """What a manifest may name.

    Attributes:
        schemes: allowed ones; empty for all.
        roots: folders and prefixes that everything must lie below, links resolved; empty for anywhere.
    """

    schemes: tuple[str, ...] = SCHEMES
    roots: tuple[str, ...] = ()

    def refusal(self, address: str) -> str | None:
        """Say why an absolute, normalised address may not be read; None when it may."""
        if without_password(address) != address:
            return PASSWORD_REFUSED
        scheme, remote, rest = address.partition("://")
        scheme = scheme if remote else "file"
        if self.schemes and scheme not in self.schemes:
            return f"scheme {scheme!r} is not one of {', '.join(self.schemes)}"
        is_file = scheme == "file"
        if scheme in {"http", "https"}:
            rest = rest.partition("?")[0].partition("#")[0]
            address = f"{scheme}://{rest}"
            # A server decodes it, and may take backslashes for slashes.
            rest = unquote(rest).replace("\\", "/")
        # A store may resolve dots, whatever the prefix says.
        if not is_file and posixpath.normpath(f"/{rest}") != f"/{rest.rstrip('/')}":
            return "it is not normalised"
        if not self.roots:
            return None
        below = _is_below_folder if is_file else _is_below
        place = rest if is_file and remote else address
        inside = any(below(place, root) for root in self.roots if ("://" in root) != is_file)
        return None if inside else f"it lies outside {', '.join(self.roots)}"

    def refusal_of_redirect(self, origin: str, target: str) -> str | None:
        """Say why a redirect from one address to another may not be followed; None when it may.

        It may lead to wherever a manifest may, but from another host not to an address that only this machine or its
        network sees, such as a cloud's metadata service.
        """
        # What follows is often a signature.
        shown = without_password(target.partition("?")[0])
        if urlsplit(target).scheme not in {"http", "https"}:
            return f"a redirect to {shown!r} leaves http"
        if (refusal := self.refusal(target)) is not None:
            return f"a redirect to {shown!r}: {refusal}"
        here, there = urlsplit(origin).hostname, urlsplit(target).hostname
        if there != here and not is_public(there or ""):
            return f"a redirect to {shown!r}, a host of the inner network"
        return None


#: In a program, whoever names an address is trusted; the commands have a setting.
ANYWHERE = Policy(schemes=())
#: NAT64: the IPv6 addresses under which a network without IPv4 reaches IPv4 hosts (RFC 6052).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def _is_below(address: str, root: str) -> bool:
    return address == root.rstrip("/") or address.startswith(root.rstrip("/") + "/")


def _is_below_folder(path: str, root: str) -> bool:
    real, top = os.path.realpath(path), os.path.realpath(root)
    return os.path.commonpath([real, top]) == top


def is_public(host: str) -> bool:
    """Tell whether every address of a host is one of the public internet."""
    try:
        addresses = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return bool(addresses) and all(map(is_global, addresses))


def is_global(address: str) -> bool:
    """Tell whether an IP address is one of the public internet; an IPv6 address that embeds IPv4 is what that is."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv4Address):
        return ip.is_global
    embedded = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
    if ip in _NAT64:
        embedded.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    known = [each for each in embedded if each is not None]
    return all(each.is_global for each in known) if known else ip.is_global


#: Azure's virtual machines reach their host's metadata service under this address, which is no private one.
_WIRE_SERVER = ipaddress.ip_address("168.63.129.16")


def is_open_internet(address: str) -> bool:
    """Tell whether an IP address is one that a stranger's link may lead to: stricter than :func:`is_global`.

    IPv6 addresses that stand for IPv4 ones are refused whatever they embed, and so are multicast and reserved ones.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if not ip.is_global or ip.is_multicast or ip.is_reserved or ip == _WIRE_SERVER:
        return False
    return isinstance(ip, ipaddress.IPv4Address) or not (ip.ipv4_mapped or ip.sixtofour or ip.teredo or ip in _NAT64)
