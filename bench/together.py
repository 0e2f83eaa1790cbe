"""Run jobs in processes of their own, all released at one moment, and time them to the last one's end."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

Job = Callable[[], dict[str, Any]]


def together(jobs: Sequence[Job], seconds: float) -> tuple[float, list[dict[str, Any] | str]]:
    """(wall seconds, for each job its answer or the text of its failure).

    An answer must be JSON of less than 64 KiB. Jobs that run longer than seconds are killed and
    count as failures; wall is then that limit.
    """
    gate, opener = os.pipe()
    workers = [_fork(job, gate, opener) for job in jobs]
    os.close(gate)
    time.sleep(0.3)  # let every worker reach the gate
    start = time.perf_counter()
    os.close(opener)
    answers = [_answer(pid, pipe, start + seconds) for pid, pipe in workers]
    ends = [end for end, _ in answers if end]
    wall = max(ends) - start if len(ends) == len(jobs) and ends else seconds
    return wall, [answer for _, answer in answers]


def _fork(job: Job, gate: int, opener: int) -> tuple[int, int]:
    answers, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, answers
    try:
        os.close(opener)
        os.read(gate, 1)  # returns when the last opener is closed
        try:
            answer: object = job()
        except Exception as error:
            answer = str(error) or type(error).__name__
        os.write(writer, json.dumps([time.perf_counter(), answer]).encode())
    finally:
        os._exit(0)


def _answer(pid: int, pipe: int, deadline: float) -> tuple[float, dict[str, Any] | str]:
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    ready = poll.poll(max(0.0, deadline - time.perf_counter()) * 1000)
    if not ready:
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    data = os.read(pipe, 1 << 16) if ready else b""
    os.close(pipe)
    if not data:
        return 0.0, "killed: too slow" if not ready else "ended without an answer"
    end, answer = json.loads(data)
    return end, answer
