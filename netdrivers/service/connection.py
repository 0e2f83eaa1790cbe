"""One caller of the service: its request is read without blocking the loop, its answer is written once."""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable

from netdrivers.launcher import wire

READ_LIMIT = 10.0
"""Seconds a caller may take to send its request."""

WRITE_LIMIT = 10.0
"""Seconds a caller may take to read its answer."""

_FIRST_READ = 1 << 16
_DESCRIPTORS = 2
_PEER = struct.Struct("iII")


class Connection:
    """A connected caller. ``received(connection, kind, body)`` is called once, in the loop, with its request;
    a caller that sends something else, or nothing in time, is dropped.

    descriptors: what came with the request; owned by the connection until taken.
    """

    __slots__ = ("_body", "_filled", "_loop", "_received", "_timer", "descriptors", "kind", "sock")

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        received: Callable[[Connection, int, bytes], None],
    ) -> None:
        self.sock = sock
        self.kind = 0
        self.descriptors: list[int] = []
        self._loop = loop
        self._received = received
        self._body = bytearray()
        self._filled = 0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Reads what is there already; most callers have sent everything by the time they are accepted."""
        self.sock.setblocking(False)
        if not self._read():
            self._timer = self._loop.call_later(READ_LIMIT, self.drop)
            self._loop.add_reader(self.sock, self._read)

    def peer_uid(self) -> int:
        """The user at the other end."""
        raw = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        return int(_PEER.unpack(raw)[1])

    def take_descriptor(self) -> int:
        """The next descriptor that came along, now the caller's to close; -1 for none."""
        return self.descriptors.pop(0) if self.descriptors else -1

    def gone(self) -> bool:
        """Whether the other end has hung up."""
        try:
            return not self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def claim(self) -> bool:
        """Tells the caller that its work begins; False when it has hung up, and does it by itself."""
        try:
            self.sock.send(wire.pack_frame(wire.WORKING), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return True  # it has frames to read already
        except OSError:
            return False
        return True

    def hint(self, frame: bytes) -> None:
        """Sends a small frame if there is room for it, without waiting."""
        with contextlib.suppress(OSError):
            self.sock.send(frame, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def finish(self, frame: bytes) -> bool:
        """Sends the last frame (blocking, within WRITE_LIMIT) and closes; whether the caller took it."""
        try:
            self.sock.settimeout(WRITE_LIMIT)
            self.sock.sendall(frame, socket.MSG_NOSIGNAL)
            return True
        except OSError:
            return False
        finally:
            self.close()

    def decline(self, reason: str) -> None:
        """Says why the work is not done here, and closes. Never waits, so it is fit for the loop."""
        self.hint(wire.pack_frame(wire.DECLINED, reason.encode()))
        self.drop()

    def drop(self) -> None:
        """Stops reading and closes; for use in the loop."""
        self._stop_reading()
        self.close()

    def close(self) -> None:
        """Closes the socket and the descriptors that nobody took."""
        while self.descriptors:
            os.close(self.descriptors.pop())
        self.sock.close()

    def _stop_reading(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
            self._loop.remove_reader(self.sock)

    def _read(self) -> bool:
        """Reads on; True when no more is to be read (request complete, or caller dropped)."""
        try:
            complete = self._read_more() if self.kind else self._read_first()
        except BlockingIOError:
            return False
        except (OSError, wire.WireError):
            self.drop()
            return True
        if complete:
            self._stop_reading()
            self._received(self, self.kind, bytes(self._body))
        return complete

    def _read_first(self) -> bool:
        """The header, the descriptors and as much of the body as came with them."""
        room = socket.CMSG_SPACE(_DESCRIPTORS * array.array("i").itemsize)
        data, ancillary, _, _ = self.sock.recvmsg(_FIRST_READ, room, socket.MSG_CMSG_CLOEXEC)
        for level, kind, raw in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self.descriptors += array.array("i", raw[: len(raw) - len(raw) % 4])
        protocol, self.kind, length = wire.unpack_header(data[: wire.HEADER_SIZE])
        if protocol != wire.PROTOCOL or length > wire.BODY_LIMIT or self.kind == 0:
            self.decline(f"it speaks protocol {wire.PROTOCOL} with at most {wire.BODY_LIMIT} bytes")
            raise wire.WireError("not for us")
        self._body = bytearray(length)
        self._filled = len(data) - wire.HEADER_SIZE
        self._body[: self._filled] = data[wire.HEADER_SIZE :]
        if len(self._body) != length:
            raise wire.WireError("more than one request")
        return self._filled == length or self._read_more()

    def _read_more(self) -> bool:
        while self._filled < len(self._body):
            count = self.sock.recv_into(memoryview(self._body)[self._filled :])
            if not count:
                raise wire.WireError("the caller hung up")
            self._filled += count
        return True
