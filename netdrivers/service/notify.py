"""Words to systemd: sd_notify(3) is one datagram to a Unix socket, so no library is needed for it."""

from __future__ import annotations

import os
import socket


def notify(*words: str) -> bool:
    """Tells the manager ("READY=1", "WATCHDOG=1", "STOPPING=1", "STATUS=..."); False when there is none."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
        try:
            manager.sendto("\n".join(words).encode(), address)
        except OSError:
            return False
    return True


def watchdog_interval() -> float:
    """Seconds between two pings, half of what the manager allows (sd_watchdog_enabled(3)); 0 without a watchdog."""
    meant_for = os.environ.get("WATCHDOG_PID", "")
    allowed = os.environ.get("WATCHDOG_USEC", "")
    if not allowed.isdigit() or meant_for not in ("", str(os.getpid())):
        return 0.0
    return int(allowed) / 2_000_000
