"""Whether a local process holds a host port, and which."""

from __future__ import annotations

import _socket
import errno
import os

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
    mapping: PortMapping, families: frozenset[int], ours: int | None = None, container: str = ""
) -> tuple[int, str] | None:
    """The first port of a mapping that a process holds, with the holder in words; None when all are free.

    families: of the addresses published to (4, 6). A socket on another address does not count, nor
    does one of the process ``ours`` (the service, which forwards [::1] and is about to stop), or of
    the container's own monitor, which has its id among its arguments (Podman's conmon holds the port).
    """
    for port in range(mapping.host_port, mapping.host_port + mapping.count):
        for family in families:
            if mapping.host_ip and (":" in mapping.host_ip) != (family == 6):
                continue
            kind = _socket.AF_INET6 if family == 6 else _socket.AF_INET
            address = mapping.host_ip or ("::" if family == 6 else "0.0.0.0")
            if not _bindable(mapping.protocol, kind, address, port):
                pid = holder(mapping.protocol, port)
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
    inodes = set()
    for table in (protocol, f"{protocol}6"):
        try:
            with open(f"/proc/self/net/{table}", encoding="ascii") as file:
                next(file)
                for line in file:
                    fields = line.split()
                    listening = fields[3] in ("0A", "07")
                    if listening and int(fields[1].rpartition(":")[2], 16) == port:
                        inodes.add(f"socket:[{fields[9]}]")
        except (OSError, StopIteration):
            continue
    for pid in filter(str.isdigit, os.listdir("/proc") if inodes else []):
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{fd}") in inodes:
                    return int(pid)
        except OSError:
            continue
    return None
