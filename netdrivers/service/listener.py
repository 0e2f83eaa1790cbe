"""The service's socket and the lock that makes it the only one: claimed at start, given back at the end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from pathlib import Path

from netdrivers.errors import ConfigError, Conflict
from netdrivers.launcher import wire

LOCK = "service.lock"
FIRST_INHERITED = 3
"""sd_listen_fds(3): where the descriptors handed over by systemd begin."""


class Claim:
    """The right to serve a state directory. path is None when systemd owns the socket."""

    def __init__(self, lock: int, listener: socket.socket, path: Path | None) -> None:
        self._lock = lock
        self.listener = listener
        self.path = path

    def release(self) -> None:
        """Closes the socket, removes its file if it is ours, and lets the next service in."""
        if self.path:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
        self.listener.close()
        os.truncate(self._lock, 0)
        os.close(self._lock)


def claim(state_dir: Path, backlog: int) -> Claim:
    """Takes the lock, then the socket: systemd's if it passed one, else our own (mode 0600).

    Conflict when another service lives; a socket left by a dead one is replaced.
    """
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(state_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 32).decode().strip() or "unknown"
            raise Conflict(
                f"a service for {state_dir} is running already (pid {holder})", "netctl service stop ends it"
            ) from None
        os.truncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)
        inherited = inherited_listener()
        if inherited:
            return Claim(lock, inherited, None)
        path = state_dir / wire.SOCKET
        return Claim(lock, _bind(path, backlog), path)
    except BaseException:
        os.close(lock)
        raise


def inherited_listener() -> socket.socket | None:
    """The listening Unix socket that systemd passed (sd_listen_fds(3)), if it did; ConfigError if it is another kind.

    The variables are removed: they are not for our children.
    """
    meant_for = os.environ.pop("LISTEN_PID", "")
    count = os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if meant_for != str(os.getpid()) or not count.isdigit() or int(count) < 1:
        return None
    os.set_inheritable(FIRST_INHERITED, False)
    listener = socket.socket(fileno=FIRST_INHERITED)
    if (listener.family, listener.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
        raise ConfigError("ListenStream", str(listener.family), "a path of a Unix stream socket")
    return listener


def _bind(path: Path, backlog: int) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        if error.errno is None:  # Python's own check of the length
            raise ConfigError("state directory", str(path.parent), "a path short enough for a socket") from None
        raise
    finally:
        os.umask(before)
    return listener
