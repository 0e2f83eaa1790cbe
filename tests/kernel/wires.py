"""Network namespaces held by descriptors, and sockets in them, for tests that send real packets from one process.

A socket stays in the namespace it was made in, so a client and a server in two namespaces need no second
process. Everything goes when the descriptors close.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from netdrivers.kernel.namespaces import CLONE_NEWNET, inside

WAIT = 3.0
REFUSED = 0.3
"""Seconds to wait for what must come, and for what must not."""

LOOPBACKS = {4: "127.0.0.1", 6: "::1"}


class Place:
    """A network namespace of the test's own."""

    def __init__(self, name: str) -> None:
        self.name = name
        made: list[int] = []

        def make() -> None:
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) == 0:
                made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        if not made:
            raise PermissionError("cannot make a network namespace")
        self.fd = made[0]

    @property
    def path(self) -> str:
        """Where another process finds the namespace."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def close(self) -> None:
        """Drop the namespace with all in it."""
        os.close(self.fd)

    def ip(self, *lines: str) -> None:
        """Run lines of ip(8)."""
        with inside(self.fd):
            subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)

    def run(self, *command: str, check: bool = True, text: str | None = None) -> str:
        """Run a program and give its output."""
        with inside(self.fd):
            done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def sysctl(self, **values: str) -> None:
        """Write values below /proc/sys/net; "__" in a name is a slash."""
        with inside(self.fd):
            for key, value in values.items():
                with open(f"/proc/sys/net/{key.replace('__', '/')}", "w", encoding="ascii") as file:
                    file.write(value)

    @contextmanager
    def socket(self, kind: int, address: str = "", port: int = 0) -> Iterator[socket.socket]:
        """A socket in this namespace, bound where an address or a port is given."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with inside(self.fd):
            made = socket.socket(family, kind)
        with made:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((address, port))
            made.settimeout(WAIT)
            yield made


def any_address(family: int) -> str:
    """The address that means every address."""
    return "::" if family == 6 else "0.0.0.0"


@contextmanager
def server(place: Place, port: int, protocol: str = "tcp", address: str = "") -> Iterator[socket.socket]:
    """A server's socket; the answers are given by ``talk``."""
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with place.socket(kind, address, port) as made:
        if protocol == "tcp":
            made.listen()
        yield made


def talk(
    client: Place, to: tuple[str, int], at: socket.socket, protocol: str = "tcp", source: tuple[str, int] = ("", 0)
) -> str:
    """Ask the server at ``to`` and have its answer back; the address that the server saw the client by."""
    address = source[0] or any_address(6 if ":" in to[0] else 4)
    if protocol == "udp":
        with client.socket(socket.SOCK_DGRAM, address, source[1]) as asking:
            asking.connect(to)
            asking.send(b"question")
            question, peer = at.recvfrom(100)
            at.sendto(b"answer to " + question, peer)
            assert asking.recv(100) == b"answer to question"
            return str(peer[0])
    with client.socket(socket.SOCK_STREAM, address, source[1]) as asking:
        asking.connect(to)
        asking.send(b"question")
        answering, peer = at.accept()
        with answering:
            answering.settimeout(WAIT)
            answering.send(b"answer to " + answering.recv(100))
            assert asking.recv(100) == b"answer to question"
        return str(peer[0])


def reaches(client: Place, to: tuple[str, int], seconds: float = WAIT) -> bool:
    """Whether a TCP connection opens in time. ConnectionRefusedError where nobody listens."""
    with client.socket(socket.SOCK_STREAM, any_address(6 if ":" in to[0] else 4)) as asking:
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
    """An SCTP packet that opens an association (RFC 9260, 3.3.2), for hosts that have no SCTP sockets."""
    chunk = struct.pack(">BBHIIHHI", 1, 0, 20, 7, 65536, 1, 1, 1)
    bare = struct.pack(">HHII", 40000, port, 0, 0) + chunk
    return bare[:8] + struct.pack("<I", _crc32c(bare)) + bare[12:]


def _crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF
