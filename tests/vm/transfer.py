"""Bytes through a path that loses, delays and swaps packets: what arrived is told by its digest."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading

from tests.lab import Namespace

TIMEOUT_SECONDS = 120.0


class Receiver:
    """A TCP server in a namespace that answers each connection with the digest of what it was sent."""

    def __init__(self, namespace: Namespace, port: int) -> None:
        with namespace.entered():
            self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("0.0.0.0", port))
        self._socket.listen(8)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(TIMEOUT_SECONDS)
                digest = hashlib.sha256()
                while chunk := connection.recv(65536):
                    digest.update(chunk)
                connection.sendall(digest.digest())

    def close(self) -> None:
        """Stop."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def arrives_whole(namespace: Namespace, address: str, port: int, size: int) -> bool:
    """Whether so many bytes sent to a Receiver arrive as they were."""
    data = hashlib.shake_256(b"netdrivers").digest(size)
    with namespace.entered():
        client = socket.socket()
    with client:
        client.settimeout(TIMEOUT_SECONDS)
        client.connect((address, port))
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return client.recv(64) == hashlib.sha256(data).digest()
