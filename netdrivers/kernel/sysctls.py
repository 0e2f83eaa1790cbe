"""Values below /proc/sys, in the calling thread's namespace or another."""

from __future__ import annotations

import os

from netdrivers.kernel.namespaces import inside


def read(key: str, fd: int | None = None) -> str | None:
    """The value of a slash-separated key, None when the kernel has no such key."""
    if fd is not None:
        with inside(fd):
            return read(key)
    try:
        with open(f"/proc/sys/{key}", encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except FileNotFoundError:
        return None


def write(key: str, value: str, fd: int | None = None) -> None:
    """Set a value; OSError as the kernel says."""
    if fd is not None:
        with inside(fd):
            write(key, value)
            return
    handle = os.open(f"/proc/sys/{key}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(handle, value.encode())
    finally:
        os.close(handle)
