"""One TCP port of [::1], carried to a container: half-closes kept, memory bounded by the streams' limits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct

log = logging.getLogger(__name__)

CHUNK = 1 << 16
"""Bytes read at a time, and the most that a direction buffers before it stops reading."""

CONNECT_LIMIT = 10.0
CONNECTIONS = 512
"""Connections that one port carries at a time; the next ones are reset."""

PAUSE = 0.1
"""Seconds until the next try when a connection could not be accepted."""

_RESET = struct.pack("ii", 1, 0)  # linger(2): closing sends RST


class TcpPort:
    """Listens from construction (OSError if it cannot) to close(), which also ends its connections."""

    def __init__(self, port: int, target: tuple[str, int]) -> None:
        self.target = target
        self._loop = asyncio.get_running_loop()
        self._relays: set[asyncio.Task[None]] = set()
        self._listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        try:
            self._listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.setblocking(False)
            self._listener.bind(("::1", port))
            self._listener.listen(128)
        except OSError:
            self._listener.close()
            raise
        self._timer: asyncio.TimerHandle | None = None
        self._resume()

    def close(self) -> None:
        """Stops listening, and resets what is connected."""
        self._pause()
        if self._timer:
            self._timer.cancel()
        self._listener.close()
        for relay in self._relays:
            relay.cancel()

    def _resume(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _pause(self) -> None:
        self._loop.remove_reader(self._listener)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # no descriptors, most likely
            log.warning("cannot accept on [::1]: %s; trying again in %s s", error.strerror, PAUSE)
            self._pause()
            self._timer = self._loop.call_later(PAUSE, self._resume)
            return
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if len(self._relays) >= CONNECTIONS:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            client.close()
            return
        relay = self._loop.create_task(self._relay(client))
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)

    async def _relay(self, client: socket.socket) -> None:
        """Carries one connection until both directions have ended, or one has failed."""
        writers = []
        try:
            near_reader, near = await asyncio.open_connection(sock=client, limit=CHUNK)
            writers.append(near)
            async with asyncio.timeout(CONNECT_LIMIT):
                far_reader, far = await asyncio.open_connection(*self.target, limit=CHUNK)
            writers.append(far)
            async with asyncio.TaskGroup() as both:
                both.create_task(_pump(near_reader, far))
                both.create_task(_pump(far_reader, near))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            # The other end learns of a failure as it would without us: by a reset.
            for writer in writers:
                with contextlib.suppress(OSError):
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()
        finally:
            for writer in writers:
                writer.close()
            if not writers:
                client.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One direction, to its end; then the other side is told that no more will come."""
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    writer.write_eof()
