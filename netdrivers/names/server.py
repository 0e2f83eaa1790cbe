"""The process of aardvark-dns, one for a state directory: found, started, told of changes, stopped.

It goes to the background by itself and writes its id into its configuration directory (aardvark-dns, run.rs); it
reads all again at SIGHUP.
"""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress

from netdrivers.names.text import DOMAIN

PROGRAM = "aardvark-dns"
PLACES = ("/usr/lib/podman", "/usr/libexec/podman", "/usr/local/lib/podman", "/usr/local/libexec/podman")
PID_FILE = "aardvark.pid"
PORT = 53
STOP_MILLISECONDS = 1000


def executable() -> str | None:
    """Where aardvark-dns is; packages keep it off PATH."""
    for directory in (*PLACES, *os.environ.get("PATH", "").split(":")):
        path = f"{directory}/{PROGRAM}"
        if os.access(path, os.X_OK):
            return path
    return None


def running(folder: str) -> int | None:
    """The id of the process that serves a configuration directory."""
    try:
        with open(f"{folder}/{PID_FILE}", encoding="ascii") as file:
            pid = int(file.read())
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if folder.encode() in words and words[0].endswith(PROGRAM.encode()) else None


def start(path: str, folder: str, log: str) -> None:
    """Start it; it will serve in a moment. OSError with its words when it does not start."""
    command = [path, "--config", folder, "--port", str(PORT), "--filter-search-domain", f".{DOMAIN}", "run"]
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    spawned = os.posix_spawn(
        "/bin/sh",
        ["sh", "-c", 'cd / && exec "$@"', "sh", *command],  # not to keep the caller's directory busy
        {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    _, status = os.waitpid(spawned, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise OSError(f"{PROGRAM} does not start: {said(log) or 'it says nothing'}")


def reread(pid: int) -> None:
    """Have it read the directory again."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGHUP)


def stop(pid: int, folder: str) -> None:
    """End it; its addresses are free for the next one when this returns."""
    with suppress(ProcessLookupError):
        process = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(process, signal.SIGTERM)
            ended = select.poll()
            ended.register(process, select.POLLIN)
            ended.poll(STOP_MILLISECONDS)
        finally:
            os.close(process)
    with suppress(FileNotFoundError):
        os.unlink(f"{folder}/{PID_FILE}")


def said(log: str) -> str:
    """The last thing that it said, less what is no trouble: a host without syslog."""
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file if line.strip() and "syslog" not in line]
    except OSError:
        return ""
    return lines[-1] if lines else ""
