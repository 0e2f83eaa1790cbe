"""What the service says of itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from msgspec import Struct


class Status(Struct, frozen=True):
    """Answer of the ``status`` call, as JSON on the wire.

    uptime: seconds; rss: resident bytes; served: calls answered; declined: calls sent away;
    running and waiting: calls in a worker and in the queue; tasks: the background
    tasks by name, each with its own report.
    """

    pid: int
    version: str
    uptime: float
    rss: int
    workers: int
    served: int
    declined: int
    running: int
    waiting: int
    tasks: dict[str, dict[str, Any]] = {}


def resident_bytes() -> int:
    """This process's resident memory (proc(5), statm, second field)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
