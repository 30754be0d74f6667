"""Ports that nobody else is given for as long as a test wants them."""

import socket


def shared(port: int = 0) -> socket.socket:
    """A socket at a port of this machine's own, by default one that is free.

    While it is open and does not listen, it reserves the port: the system gives it to nobody who asks for a free one,
    refuses whoever connects to it, and lets only sockets of this kind bind it, such as those of gRPC's servers.
    """
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    found.bind(("127.0.0.1", port))
    return found
