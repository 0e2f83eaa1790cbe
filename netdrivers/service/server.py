"""The server: takes callers in, sends away those that are not its own, has workers do the rest."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence

import msgspec

from netdrivers import __version__
from netdrivers.frontends.request import Handler, Request
from netdrivers.launcher import wire
from netdrivers.service.background import BackgroundTask
from netdrivers.service.connection import Connection
from netdrivers.service.pool import FairPool
from netdrivers.service.status import Status, resident_bytes

log = logging.getLogger(__name__)

BEAT = 1.0
"""Seconds between two WORKING frames to a caller that waits."""

ACCEPT_BATCH = 16
ACCEPT_PAUSE = 0.1
_NS_GET_NSTYPE = 0xB703  # linux/nsfs.h
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_KEY_LIMIT = 1 << 16


class _Named(msgspec.Struct):
    """The little of a request that says which network it is about (CNI: name; netavark: network.name)."""

    name: str = ""
    network: dict[str, msgspec.Raw] = {}


_named = msgspec.json.Decoder(_Named)


def queue_key(request: Request) -> str:
    """What a request queues by: its network where that is cheap to tell, else its front end."""
    if not 0 < len(request.stdin) <= _KEY_LIMIT:
        return request.program
    try:
        named = _named.decode(request.stdin)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return request.program
    return named.name or bytes(named.network.get("name", b"")).decode("utf-8", "replace") or request.program


class Server:
    """Serves calls from a listening socket until stop(). Everything but handlers runs in the loop.

    workers: threads; queue_limit: calls that may wait for one; grace: seconds that calls in
    flight get at stop; warm is called in each worker before all else; stopped_by_caller is called
    (in the loop) on a STOP.
    """

    def __init__(
        self,
        listener: socket.socket,
        handler: Handler,
        *,
        workers: int = 16,
        queue_limit: int = 1024,
        grace: float = 30.0,
        warm: Callable[[], object] = lambda: None,
        tasks: Sequence[BackgroundTask] = (),
        stopped_by_caller: Callable[[], None] = lambda: None,
    ) -> None:
        self.pool = FairPool(workers, queue_limit, warm)
        self._listener = listener
        self._handler = handler
        self._grace = grace
        self._tasks = tuple(tasks)
        self._stopped_by_caller = stopped_by_caller
        self._loop = asyncio.get_running_loop()
        self._own_space = _identity(os.stat("/proc/self/ns/net"))
        self._own_uid = os.geteuid()
        self._started = time.monotonic()
        self._served = self._declined = 0
        self._lock = threading.Lock()  # guards what workers change too: the next three, _served, _nudged
        self._open = 0
        self._in_suspense: set[Connection] = set()
        self._nudged = False
        self._stopping: asyncio.Event | None = None
        self._beating = False

    async def start(self) -> None:
        """Begins to accept, then starts the background tasks."""
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept)
        for task in self._tasks:
            await task.start()

    async def stop(self) -> None:
        """Takes nobody in any more, sends away those who wait, lets those in a worker finish (within grace)."""
        self._loop.remove_reader(self._listener)
        emptied = asyncio.Event()
        self._stopping = emptied
        for job in self.pool.drain():
            job()  # finds the server stopping, and declines
        with self._lock:
            if not self._open:
                emptied.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(emptied.wait(), self._grace)
        for task in reversed(self._tasks):
            await task.stop()

    def status(self) -> Status:
        """How the service is."""
        return Status(
            pid=os.getpid(),
            version=__version__,
            uptime=time.monotonic() - self._started,
            rss=resident_bytes(),
            workers=self.pool.workers,
            served=self._served,
            declined=self._declined,
            running=self.pool.running,
            waiting=self.pool.waiting,
            tasks={task.name: task.report() for task in self._tasks},
        )

    def _accept(self) -> None:
        for _ in range(ACCEPT_BATCH):
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.warning("cannot accept: %s; trying again in %s s", error.strerror, ACCEPT_PAUSE)
                self._loop.remove_reader(self._listener)
                self._loop.call_later(ACCEPT_PAUSE, self._resume)
                return
            connection = Connection(sock, self._loop, self._received)
            uid = connection.peer_uid()
            if uid in (0, self._own_uid):
                connection.begin()
            else:
                self._decline(connection, f"user {uid} may not use it")

    def _resume(self) -> None:
        if not self._stopping:
            self._loop.add_reader(self._listener, self._accept)

    def _received(self, connection: Connection, kind: int, body: bytes) -> None:
        if kind == wire.RUN:
            try:
                call = wire.unpack_run(body)
            except wire.WireError as error:
                self._decline(connection, str(error))
            else:
                self._run(connection, *call)
        elif kind in (wire.STATUS, wire.STOP):
            connection.hint(wire.pack_answer(0, msgspec.json.encode(self.status()), b""))
            connection.drop()
            if kind == wire.STOP:
                self._stopped_by_caller()
        else:
            self._decline(connection, f"it knows no call {kind}")

    def _run(
        self,
        connection: Connection,
        version: str,
        program: str,
        args: tuple[str, ...],
        env: dict[str, str],
        stdin: bytes,
    ) -> None:
        """Queues a call, if it is for us."""
        if self._stopping:
            return self._decline(connection, "it is stopping")
        if version != __version__:
            return self._decline(connection, f"it is version {__version__}, the executable {version}")
        space = connection.take_descriptor()
        if space < 0:
            return self._decline(connection, "no network namespace came with the call")
        identity = _identity(os.fstat(space))
        os.close(space)
        if identity != self._own_space:
            return self._decline(connection, "it serves another network namespace")
        container = connection.take_descriptor()
        if container >= 0 and not _is_network_namespace(container):
            os.close(container)  # the front end finds by the path what is wrong with it, and says so
            container = -1
        request = Request(program, args, env, stdin, container, identity[1])
        with self._lock:
            self._open += 1
            self._in_suspense.add(connection)
        if not self.pool.submit(queue_key(request), lambda: self._work(connection, request)):
            self._close(connection, request, served=False)
            return self._decline(connection, f"it is busy: {self.pool.waiting} calls wait")
        if not self._beating:
            self._beating = True
            self._loop.call_later(BEAT, self._beat)
        return None

    def _work(self, connection: Connection, request: Request) -> None:
        """One call, in a worker; while the server stops, also in the loop."""
        answer = b""
        try:
            answer = self._answer(connection, request)
            with self._lock:
                self._in_suspense.discard(connection)  # from here on nobody but us writes to this caller
            if answer and not connection.finish(answer):
                log.warning("%s: the caller went away before its answer", request.program)
            connection.close()
        finally:
            self._close(connection, request, served=bool(answer))

    def _answer(self, connection: Connection, request: Request) -> bytes:
        """The frame for the caller; empty when it has hung up before we began."""
        if self._stopping:
            return wire.pack_frame(wire.DECLINED, b"it is stopping")
        # Who waited for the service to start may be about to give it up before the first beat.
        young = time.monotonic() - self._started < wire.SILENCE
        if connection.gone() or (young and not connection.claim()):
            return b""
        try:
            response = self._handler(request)
        except BaseException:
            log.exception("%s %s failed; the caller does it in-process", request.program, " ".join(request.args))
            return wire.pack_frame(wire.DECLINED, b"its handler failed (see the service's log)")
        return wire.pack_answer(response.exit_code, response.stdout, response.stderr)

    def _close(self, connection: Connection, request: Request, *, served: bool) -> None:
        """Ends the bookkeeping of a call that was queued, or nearly so."""
        if request.netns_fd >= 0:
            os.close(request.netns_fd)
        with self._lock:
            self._in_suspense.discard(connection)
            self._open -= 1
            self._served += served
            last = self._stopping if not self._open else None
            nudge = served and bool(self._tasks) and not self._nudged
            self._nudged = self._nudged or nudge
        if last:
            self._loop.call_soon_threadsafe(last.set)
        if nudge:
            self._loop.call_soon_threadsafe(self._nudge)

    def _decline(self, connection: Connection, reason: str) -> None:
        self._declined += 1
        connection.decline(reason)

    def _nudge(self) -> None:
        self._nudged = False
        for task in self._tasks:
            task.nudge()

    def _beat(self) -> None:
        frame = wire.pack_frame(wire.WORKING)
        with self._lock:
            for connection in self._in_suspense:
                connection.hint(frame)
            self._beating = bool(self._in_suspense)
        if self._beating:
            self._loop.call_later(BEAT, self._beat)


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino


def _is_network_namespace(fd: int) -> bool:
    """Whether a descriptor is a network namespace (ioctl_ns(2))."""
    try:
        return fcntl.ioctl(fd, _NS_GET_NSTYPE) == _CLONE_NEWNET
    except OSError:
        return False
