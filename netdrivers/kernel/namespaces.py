"""Network namespaces: open one by its path, enter it for a moment, tell two apart."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from netdrivers.errors import NamespaceGone, RequestError

CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703  # linux/nsfs.h


class Sandbox:
    """An open network namespace. path is as the caller named it; inode tells namespaces apart."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd
        self.inode = os.fstat(fd).st_ino

    def close(self) -> None:
        """Close the descriptor; the namespace may die then."""
        os.close(self.fd)


def open_sandbox(path: str) -> Sandbox:
    """Open the namespace at a path. NamespaceGone when nothing is there, RequestError when it is none.

    Never O_CREAT: a vanished namespace must not come back as an empty file.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        raise NamespaceGone("netns", path, "the path of an existing network namespace") from None
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise RequestError("netns", path, f"the path of a network namespace ({reason})") from None
    return adopt_sandbox(path, fd)


def adopt_sandbox(path: str, fd: int) -> Sandbox:
    """A sandbox from a descriptor that somebody opened; closes it and raises if it is no network namespace."""
    try:
        kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError:
        kind = 0
    if kind != CLONE_NEWNET:
        os.close(fd)
        raise RequestError("netns", path, "the path of a network namespace")
    return Sandbox(path, fd)


def own_inode() -> int:
    """The inode of the calling thread's network namespace."""
    return os.stat("/proc/thread-self/ns/net").st_ino


def enter(fd: int) -> None:
    """Move the calling thread into a network namespace (setns(2))."""
    if sys.version_info >= (3, 12):
        os.setns(fd, CLONE_NEWNET)
        return
    import ctypes  # 4 ms of import, so only where os.setns is missing

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextmanager
def inside(fd: int) -> Iterator[None]:
    """Run a block with the calling thread in another network namespace, and come back."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(fd)
        try:
            yield
        finally:
            enter(home)
    finally:
        os.close(home)
