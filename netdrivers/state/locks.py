"""Locks between threads and processes: open-file-description byte-range locks on one file.

The kernel drops them when the holder dies, whatever the way; each name is a byte far into the file.
Source: fcntl(2), "Open file description locks".
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

from netdrivers.errors import Busy
from netdrivers.model import digest

_FLOCK = struct.Struct("@hhqqi4x")
_BUSY = (errno.EAGAIN, errno.EACCES)
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.0005, 0.02


@contextmanager
def held(path: str, name: str, shared: bool = False, timeout_seconds: float = 60.0) -> Iterator[None]:
    """Hold the lock of a name for a block. Busy after timeout_seconds."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        position = int.from_bytes(digest("lock", name)[:7], "big")
        wanted = _FLOCK.pack(fcntl.F_RDLCK if shared else fcntl.F_WRLCK, os.SEEK_SET, position, 1, 0)
        deadline, wait = 0.0, _FIRST_WAIT_SECONDS
        while True:
            try:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, wanted)
                break
            except OSError as error:
                if error.errno not in _BUSY:
                    raise
            now = time.monotonic()
            deadline = deadline or now + timeout_seconds
            if now > deadline:
                raise Busy(f"{name} is locked by another call since {timeout_seconds:.0f} s")
            time.sleep(wait)
            wait = min(wait * 2, _LONGEST_WAIT_SECONDS)
        yield
    finally:
        os.close(fd)


@contextmanager
def queued(path: str, name: str) -> Iterator[None]:
    """Hold a lock that is held for moments only; waiting calls are woken at once."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        position = int.from_bytes(digest("lock", name)[:7], "big")
        fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, position, 1, 0))
        yield
    finally:
        os.close(fd)
