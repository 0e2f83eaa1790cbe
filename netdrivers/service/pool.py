"""Worker threads behind a fair queue: round robin over keys (networks), first come first served within one.

One key never holds all workers: a network whose calls wait for something leaves a few for the others.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

Job = Callable[[], None]
_Handover = SimpleQueue[tuple[str, Job] | None]

log = logging.getLogger(__name__)


class FairPool:
    """Runs jobs in threads. submit and drain may be called from any thread.

    workers: threads; limit: jobs that may wait, submit refuses beyond; warm: called in each
    thread before the constructor returns. The worker that was idle for the shortest time gets the
    next job: what it holds (a database connection, caches) is the warmest.
    """

    def __init__(self, workers: int, limit: int, warm: Callable[[], object] = lambda: None) -> None:
        self.workers = workers
        self.limit = limit
        self.waiting = 0
        self._share = max(1, workers - max(1, workers // 8))
        self._idle: list[_Handover] = []
        self._queues: dict[str, deque[Job]] = {}
        self._running: dict[str, int] = {}
        self._since: dict[int, float] = {}
        self._lock = threading.Lock()
        warmed = threading.Barrier(workers + 1)
        for number in range(workers):
            threading.Thread(target=self._work, args=(warm, warmed), name=f"worker-{number}", daemon=True).start()
        warmed.wait()

    @property
    def running(self) -> int:
        """Jobs in a worker right now."""
        return self.workers - len(self._idle)

    def submit(self, key: str, job: Job) -> bool:
        """Queues a job; False when too many wait already. The job must not raise."""
        with self._lock:
            if self.waiting >= self.limit:
                return False
            self._queues.setdefault(key, deque()).append(job)
            self.waiting += 1
            self._dispatch()
            return True

    def drain(self) -> list[Job]:
        """Takes back every job that has not begun, and lets idle workers end."""
        with self._lock:
            jobs = [job for queue in self._queues.values() for job in queue]
            self._queues.clear()
            self.waiting = 0
            for idle in self._idle:
                idle.put(None)
        return jobs

    def stuck(self, limit: float) -> bool:
        """Whether every worker has been at the same job for more than ``limit`` seconds."""
        with self._lock:
            since = list(self._since.values())
        return len(since) == self.workers and max(since) < time.monotonic() - limit

    def _dispatch(self) -> None:
        """Hands waiting jobs to idle workers; the lock is held."""
        while self._idle and self.waiting:
            key = next((key for key in self._queues if self._running.get(key, 0) < self._share), None)
            if key is None:
                return
            queue = self._queues.pop(key)
            job = queue.popleft()
            if queue:
                self._queues[key] = queue  # to the end of the order: the next turn is another key's
            self.waiting -= 1
            self._running[key] = self._running.get(key, 0) + 1
            self._idle.pop().put((key, job))

    def _work(self, warm: Callable[[], object], warmed: threading.Barrier) -> None:
        me = threading.get_ident()
        mine: _Handover = SimpleQueue()
        try:
            warm()
        except Exception:
            log.exception("a worker could not be warmed; its first call will tell")
        with self._lock:
            self._idle.append(mine)
        warmed.wait()
        while (taken := mine.get()) is not None:
            key, job = taken
            self._since[me] = time.monotonic()
            job()
            del job, taken  # nothing of a call may stay alive until the next one
            with self._lock:
                del self._since[me]
                self._running[key] -= 1
                if not self._running[key]:
                    del self._running[key]
                self._idle.append(mine)
                self._dispatch()
