"""One UDP port of [::1], carried to a container: a socket for each client, nothing buffered."""

from __future__ import annotations

import asyncio
import socket

IDLE = 120.0
"""Seconds without a datagram after which a client is forgotten (nf_conntrack_udp_timeout_stream)."""

CLIENTS = 256
"""Clients of one port; the one that was silent longest makes room for the next."""

_BATCH = 64
_LARGEST = 65535
_Address = tuple[str, int, int, int]


class UdpPort:
    """Listens from construction (OSError if it cannot) to close()."""

    def __init__(self, port: int, target: tuple[str, int]) -> None:
        self.target = target
        self._loop = asyncio.get_running_loop()
        self._clients: dict[_Address, tuple[socket.socket, float]] = {}  # longest silent first
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        try:
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self._socket.setblocking(False)
            self._socket.bind(("::1", port))
        except OSError:
            self._socket.close()
            raise
        self._loop.add_reader(self._socket, self._from_clients)
        self._timer = self._loop.call_later(IDLE, self._forget_idle)

    def close(self) -> None:
        """Stops listening and forgets its clients."""
        self._timer.cancel()
        for client in list(self._clients):
            self._forget(client)
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _from_clients(self) -> None:
        for _ in range(_BATCH):
            try:
                data, client = self._socket.recvfrom(_LARGEST)
                self._outward(client).send(data)
            except BlockingIOError:
                return
            except OSError:  # an earlier datagram was refused; datagrams may be lost, so this one is
                continue

    def _outward(self, client: _Address) -> socket.socket:
        """The socket that speaks to the container for this client."""
        known = self._clients.pop(client, None)
        outward = known[0] if known else self._connect(client)
        self._clients[client] = (outward, self._loop.time())
        return outward

    def _connect(self, client: _Address) -> socket.socket:
        if len(self._clients) >= CLIENTS:
            self._forget(next(iter(self._clients)))
        outward = socket.socket(socket.AF_INET6 if ":" in self.target[0] else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            outward.setblocking(False)
            outward.connect(self.target)
        except OSError:
            outward.close()
            raise
        self._loop.add_reader(outward, self._from_container, outward, client)
        return outward

    def _from_container(self, outward: socket.socket, client: _Address) -> None:
        for _ in range(_BATCH):
            try:
                self._socket.sendto(outward.recv(_LARGEST), client)
            except BlockingIOError:
                return
            except OSError:  # as above
                continue

    def _forget_idle(self) -> None:
        before = self._loop.time() - IDLE
        for client in [client for client, (_, used) in self._clients.items() if used < before]:
            self._forget(client)
        self._timer = self._loop.call_later(IDLE, self._forget_idle)

    def _forget(self, client: _Address) -> None:
        outward, _ = self._clients.pop(client)
        self._loop.remove_reader(outward)
        outward.close()
