"""The service's life: claim the socket, warm up, tell systemd, serve until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import importlib
import logging
import resource
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from netdrivers.frontends.request import Handler
from netdrivers.service.background import BackgroundTask
from netdrivers.service.listener import claim
from netdrivers.service.notify import notify, watchdog_interval
from netdrivers.service.server import Server

log = logging.getLogger(__name__)

STUCK = 120.0
"""Seconds after which a worker that has not finished its call counts as stuck (for the watchdog)."""

_M_ARENA_MAX = -8  # mallopt(3), malloc.h
_DESCRIPTORS_PER_CALL = 3
_DESCRIPTORS_SPARE = 128


class Settings(Struct, frozen=True):
    """workers: threads; queue_limit: calls that may wait; grace: seconds that calls get at stop."""

    workers: int = 16
    queue_limit: int = 1024
    grace: float = 30.0


DEFAULTS = Settings()


def run(
    state_dir: Path,
    handler: Handler,
    *,
    preload: Sequence[str] = (),
    warm: Callable[[], object] = lambda: None,
    tasks: Callable[[], Sequence[BackgroundTask]] = tuple,
    settings: Settings = DEFAULTS,
) -> None:
    """Serves calls until SIGTERM, SIGINT or a STOP call. Runs in the main thread.

    preload: modules that the handler will want, imported before the first call. warm: called once
    in each worker thread, for what the handler keeps for each (a database connection). tasks:
    makes the background tasks, in the loop. Conflict when a service for state_dir runs already.
    """
    claimed = claim(state_dir, settings.queue_limit)
    try:
        _one_arena()
        for module in preload:
            importlib.import_module(module)
        asyncio.run(_serve(claimed.listener, handler, warm, tasks, settings))
    finally:
        claimed.release()


async def _serve(
    listener: socket.socket,
    handler: Handler,
    warm: Callable[[], object],
    tasks: Callable[[], Sequence[BackgroundTask]],
    settings: Settings,
) -> None:
    stop = asyncio.Event()
    server = Server(
        listener,
        handler,
        workers=settings.workers,
        queue_limit=min(settings.queue_limit, _affordable_calls()),
        grace=settings.grace,
        warm=warm,
        tasks=tasks(),
        stopped_by_caller=stop.set,
    )
    gc.collect()
    gc.freeze()  # what is there now stays: no collection need look at it again
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await server.start()
    watchdog = asyncio.create_task(_watchdog(server))
    notify("READY=1", "STATUS=serving")
    log.info("serving on %s", listener.getsockname())
    await stop.wait()
    notify("STOPPING=1", "STATUS=letting calls finish")
    await server.stop()
    watchdog.cancel()


async def _watchdog(server: Server) -> None:
    """Pings systemd while the loop turns and some worker does."""
    interval = watchdog_interval()
    while interval:
        if server.pool.stuck(STUCK):
            log.error("every worker has been at one call for more than %s s: no more pings", STUCK)
            return
        notify("WATCHDOG=1")
        await asyncio.sleep(interval)


def _one_arena() -> None:
    """Keeps malloc from making an arena for each worker, which would double what stays resident."""
    with contextlib.suppress(AttributeError):  # musl has none
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def _affordable_calls() -> int:
    """How many calls may wait before descriptors run out; takes the hard limit first."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max(1, (hard - _DESCRIPTORS_SPARE) // _DESCRIPTORS_PER_CALL)
