"""HTTP/1.1 on a Unix socket, for small requests of a trusted caller: h11's state machine on asyncio's streams."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable

import h11

log = logging.getLogger(__name__)

BODY_LIMIT = 1 << 20
"""Bytes of a request's body."""

_CHUNK = 1 << 16

Handler = Callable[[str, bytes], Awaitable[tuple[int, bytes]]]
"""Answers a POST: path and body in, status and body out. Must not raise."""


class HttpServer:
    """Serves a listening socket from start() to stop(). Everything runs in the loop."""

    def __init__(self, listener: socket.socket, handler: Handler, content_type: str) -> None:
        self._listener = listener
        self._handler = handler
        self._content_type = content_type
        self._server: asyncio.Server | None = None
        self._idle: set[asyncio.StreamWriter] = set()
        self._busy = 0
        self._stopped: asyncio.Event | None = None

    async def start(self) -> None:
        """Begins to accept."""
        self._server = await asyncio.start_unix_server(self._connected, sock=self._listener)

    async def stop(self, grace: float) -> None:
        """Takes nobody in any more, closes idle connections, and lets calls finish (within grace seconds)."""
        if self._server is None:
            return
        self._server.close()
        self._stopped = asyncio.Event()
        for writer in self._idle:
            writer.close()
        if self._busy:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), grace)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, request after request."""
        connection = h11.Connection(h11.SERVER)
        try:
            while await self._serve_one(connection, reader, writer):
                connection.start_next_cycle()
        except (h11.RemoteProtocolError, h11.LocalProtocolError) as error:
            await self._refuse(connection, writer, error)
        except OSError as error:
            log.warning("a caller went away: %s", error)
        finally:
            self._idle.discard(writer)
            writer.close()

    async def _serve_one(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Read a request and answer it; whether another may follow."""
        self._idle.add(writer)
        request = await _next(connection, reader)
        if not isinstance(request, h11.Request):
            return False
        self._idle.discard(writer)
        self._busy += 1
        try:
            body = bytearray()
            while isinstance(part := await _next(connection, reader), h11.Data):
                body += part.data
                if len(body) > BODY_LIMIT:
                    raise h11.RemoteProtocolError("the body is too large", error_status_hint=413)
            if not isinstance(part, h11.EndOfMessage):
                return False
            status, answer = 405, b""
            if request.method == b"POST":
                status, answer = await self._handler(request.target.decode("ascii", "replace"), bytes(body))
            await self._send(connection, writer, status, answer)
            return connection.our_state is h11.DONE and connection.their_state is h11.DONE and self._stopped is None
        finally:
            self._busy -= 1
            if self._stopped is not None and not self._busy:
                self._stopped.set()

    async def _send(self, connection: h11.Connection, writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
        headers = [("Content-Type", self._content_type), ("Content-Length", str(len(body)))]
        for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            writer.write(connection.send(event) or b"")
        await writer.drain()

    async def _refuse(self, connection: h11.Connection, writer: asyncio.StreamWriter, error: h11.ProtocolError) -> None:
        if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            with contextlib.suppress(h11.ProtocolError, OSError):
                await self._send(connection, writer, error.error_status_hint, str(error).encode())


async def _next(connection: h11.Connection, reader: asyncio.StreamReader) -> object:
    """The caller's next event."""
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await reader.read(_CHUNK))
    return event
