"""Run one process and time it, with as little of the timer's own work in the time as Python allows."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class PeerError(Exception):
    """A peer failed, or took longer than it may; one line."""


@dataclass(frozen=True)
class Finished:
    """What a process left: exit code, output, and seconds from before the spawn until it was reaped."""

    code: int
    stdout: bytes
    stderr: bytes
    seconds: float


PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def run(
    argv: Sequence[str], stdin: bytes = b"", environment: Mapping[str, str] | None = None, timeout: float = 120.0
) -> Finished:
    """Run argv (its first word a path) with exactly this environment. PeerError after timeout seconds.

    Standard input and output are files in memory, so no pipe must be served while the time runs.
    """
    files = [os.memfd_create(name) for name in ("in", "out", "err")]
    try:
        os.write(files[0], stdin)
        os.lseek(files[0], 0, os.SEEK_SET)
        actions = [(os.POSIX_SPAWN_DUP2, file, number) for number, file in enumerate(files)]
        start = time.perf_counter()
        pid = os.posix_spawn(argv[0], list(argv), environment or {"PATH": PATH}, file_actions=actions, setpgroup=0)
        _wait_until(pid, timeout, argv[0])
        status = os.waitpid(pid, 0)[1]
        seconds = time.perf_counter() - start
        output = [_content(file) for file in files[1:]]
    finally:
        for file in files:
            os.close(file)
    return Finished(os.waitstatus_to_exitcode(status), output[0], output[1], seconds)


def check(finished: Finished, what: str) -> Finished:
    """The same, or PeerError with the process's own words."""
    if finished.code:
        words = " ".join((finished.stdout + b" " + finished.stderr).decode(errors="replace").split())
        shortened = words if len(words) <= 400 else f"{words[:150]} ... {words[-250:]}"
        raise PeerError(f"{what}: exit {finished.code}: {shortened}")
    return finished


def _wait_until(pid: int, timeout: float, name: str) -> None:
    handle = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if not poll.poll(timeout * 1000):
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise PeerError(f"{os.path.basename(name)}: killed after {timeout:.0f} s")
    finally:
        os.close(handle)


def _content(file: int) -> bytes:
    return os.pread(file, os.fstat(file).st_size, 0)
