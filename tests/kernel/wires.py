"""Sockets in namespaces, for tests that look at real packets without a second process or thread.

A socket stays in the namespace it was made in; the test speaks for both ends.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from tests.lab import Namespace

WAIT = 3.0
REFUSED = 0.3
"""Seconds to wait for what must come, and for what must not."""

Address = tuple[str, int]


def any_address(family: int) -> str:
    """The address that means every address."""
    return "::" if family == 6 else "0.0.0.0"


@contextmanager
def bound(place: Namespace, kind: int, address: str, port: int = 0) -> Iterator[socket.socket]:
    """A socket in a namespace, bound to an address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with place.entered():
        made = socket.socket(family, kind)
    with made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
        made.settimeout(WAIT)
        yield made


@contextmanager
def server(place: Namespace, address: str, port: int, protocol: str = "tcp") -> Iterator[socket.socket]:
    """A server's socket; its answers are given by ``talk``."""
    with bound(place, _kind(protocol), address, port) as made:
        if protocol == "tcp":
            made.listen()
        yield made


def talk(client: Namespace, to: Address, at: socket.socket, protocol: str = "tcp", source: Address = ("", 0)) -> str:
    """Send a question to ``to`` and have the answer of the server ``at`` back.

    The address that the server saw the client by. TimeoutError or OSError where nothing comes.
    """
    family = 6 if ":" in to[0] else 4
    with bound(client, _kind(protocol), source[0] or any_address(family), source[1]) as asking:
        asking.connect(to)
        asking.send(b"question")
        if protocol == "udp":
            question, peer = at.recvfrom(100)
            at.sendto(b"answer to " + question, peer)
        else:
            answering, peer = at.accept()
            with answering:
                answering.settimeout(WAIT)
                answering.send(b"answer to " + answering.recv(100))
        assert asking.recv(100) == b"answer to question"
        return str(peer[0])


def reaches(client: Namespace, to: Address, seconds: float = WAIT) -> bool:
    """Whether a TCP connection opens in time. ConnectionRefusedError where nobody listens."""
    with bound(client, socket.SOCK_STREAM, any_address(6 if ":" in to[0] else 4)) as asking:
        asking.settimeout(seconds)
        try:
            asking.connect(to)
        except TimeoutError:
            return False
        return True


def arrives(at: socket.socket, seconds: float = WAIT) -> bool:
    """Whether anything comes to a socket in time."""
    at.settimeout(seconds)
    try:
        at.recv(2000)
    except TimeoutError:
        return False
    return True


def sctp_init(port: int) -> bytes:
    """An SCTP packet that opens an association (RFC 9260, 3.3.2), for kernels that have no SCTP sockets."""
    chunk = struct.pack(">BBHIIHHI", 1, 0, 20, 7, 65536, 1, 1, 1)
    bare = struct.pack(">HHII", 40000, port, 0, 0) + chunk
    return bare[:8] + struct.pack("<I", _crc32c(bare)) + bare[12:]


def _kind(protocol: str) -> int:
    return socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM


def _crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF
