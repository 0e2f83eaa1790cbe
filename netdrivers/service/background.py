"""Tasks that run beside the service: reaper, reconcile, forwarder."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

log = logging.getLogger(__name__)


class BackgroundTask(Protocol):
    """What the service starts after its socket is open, and stops before it ends."""

    name: str

    async def start(self) -> None:
        """Begins; returns soon."""

    async def stop(self) -> None:
        """Ends, and leaves nothing running."""

    def nudge(self) -> None:
        """A call was served, so there may be work. In the loop; must not block."""

    def report(self) -> dict[str, Any]:
        """How it goes, for ``status``: what JSON can say, in the loop."""


class Periodic:
    """Does ``work`` every ``interval`` seconds, and ``settle`` seconds after a nudge.

    Nudges within settle are one; work never overlaps itself; a failure is logged and the next
    turn comes all the same. finish: work is done once more at the stop.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], Awaitable[object]],
        interval: float,
        settle: float = 0.1,
        *,
        finish: bool = False,
    ) -> None:
        self.name = name
        self._work = work
        self._interval = interval
        self._settle = settle
        self._finish = finish
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._runs = self._failures = 0
        self._error = ""

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=self.name)

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
            if self._finish:
                await self._turn()

    def nudge(self) -> None:
        self._wake.set()

    def report(self) -> dict[str, Any]:
        return {"runs": self._runs, "failures": self._failures, "error": self._error}

    async def _run(self) -> None:
        while True:
            await self._turn()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._interval)
                await asyncio.sleep(self._settle)
            self._wake.clear()

    async def _turn(self) -> None:
        try:
            self._runs += 1
            await self._work()
            self._error = ""
        except Exception as error:
            self._failures += 1
            self._error = str(error)
            log.exception("%s failed; it will be tried again", self.name)


def in_thread(work: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    """Blocking work, made fit for Periodic: it runs in a thread, so that the loop goes on."""
    return lambda: asyncio.to_thread(work)
