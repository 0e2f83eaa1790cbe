"""Whether a local process holds a host port, and which."""

from __future__ import annotations

import _socket
import errno
import os
from contextlib import suppress

from netdrivers.model import PortMapping

_KINDS = {
    "tcp": (_socket.SOCK_STREAM, 0),
    "udp": (_socket.SOCK_DGRAM, 0),
    "sctp": (_socket.SOCK_SEQPACKET, 132),
}
_IPV6_V6ONLY = 26


def _bindable(protocol: str, family: int, address: str, port: int) -> bool:
    """Whether the kernel would let a socket listen there; a protocol that it lacks has no listener."""
    kind, number = _KINDS[protocol]
    try:
        sock = _socket.socket(family, kind, number)
    except OSError:
        return True
    try:
        if protocol == "tcp":
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)  # passes TIME_WAIT, not a listener
        if family == _socket.AF_INET6:
            sock.setsockopt(_socket.IPPROTO_IPV6, _IPV6_V6ONLY, 1)
        sock.bind((address, port))
        if protocol == "tcp":
            sock.listen(1)
    except OSError as error:
        return error.errno != errno.EADDRINUSE
    finally:
        sock.close()
    return True


def taken(
    mapping: PortMapping,
    families: frozenset[int],
    ours: int | None = None,
    container: str = "",
    keepers: tuple[str, ...] = (),
) -> tuple[int, str] | None:
    """The first port of a mapping that a process holds, with the holder in words; None when all are free.

    families: of the addresses published to (4, 6). A socket on another address does not count, nor
    does one of the process ``ours`` (the service, which forwards [::1] and is about to stop), or of
    the container's own monitor, which has its id among its arguments (Podman's conmon holds the port),
    or of a process with one of the keepers' names.
    """
    kept: set[str] | None = None
    for port in range(mapping.host_port, mapping.host_port + mapping.count):
        for family in families:
            if mapping.host_ip and (":" in mapping.host_ip) != (family == 6):
                continue
            kind = _socket.AF_INET6 if family == 6 else _socket.AF_INET
            address = mapping.host_ip or ("::" if family == 6 else "0.0.0.0")
            if not _bindable(mapping.protocol, kind, address, port):
                if keepers:
                    kept = kept if kept is not None else _sockets_of(keepers)
                    if _listening(mapping.protocol, port) & kept:
                        continue
                pid = holder(mapping.protocol, port)
                if pid is None and _bindable(mapping.protocol, kind, address, port):
                    continue  # closed since, as by the service that has just learnt of the last container's end
                if pid is None or not (pid == ours or _is_monitor(pid, container)):
                    return port, _described(pid)
    return None


def _is_monitor(pid: int, container: str) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return bool(container) and container.encode() in file.read().split(b"\0")
    except OSError:
        return False


def _described(pid: int | None) -> str:
    if pid is None:
        return "a local process"
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return f"{file.read().strip()} (pid {pid})"
    except OSError:
        return f"pid {pid}"


def holder(protocol: str, port: int) -> int | None:
    """The process that listens on a port; None when it cannot be seen from here."""
    inodes = _listening(protocol, port)
    for pid in _pids() if inodes else ():
        if inodes & _sockets(pid):
            return int(pid)
    return None


def _listening(protocol: str, port: int) -> set[str]:
    """The sockets that listen on a port, as /proc/PID/fd names them."""
    inodes = set()
    for table in (protocol, f"{protocol}6"):
        try:
            with open(f"/proc/thread-self/net/{table}", encoding="ascii") as file:
                next(file)
                for line in file:
                    fields = line.split()
                    listening = fields[3] in ("0A", "07")
                    if listening and int(fields[1].rpartition(":")[2], 16) == port:
                        inodes.add(f"socket:[{fields[9]}]")
        except (OSError, StopIteration):
            continue
    return inodes


def _pids() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit()]


def _sockets(pid: str) -> set[str]:
    """What a process has open, as /proc/PID/fd names it; nothing when it may not be seen."""
    found = set()
    with suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):  # closed since it was listed
                found.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return found


def _sockets_of(names: tuple[str, ...]) -> set[str]:
    """What all processes of these names have open."""
    found: set[str] = set()
    for pid in _pids():
        try:
            with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                named = file.read().strip() in names
        except OSError:
            continue
        if named:
            found |= _sockets(pid)
    return found
