"""Names as a container asks for them: the C library's resolver, told what an engine would tell it; a stub server."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from netdrivers.names import server
from tests.lab import Host, Namespace

ASK = 'mount --bind "$1" /etc/resolv.conf && exec getent ahosts "$2"'


def needs_server() -> None:
    """Skip where aardvark-dns is not installed."""
    if server.executable() is None:
        pytest.skip("needs aardvark-dns: containers' names resolve through it")


def resolv_conf(dns: dict[str, Any], path: Path) -> Path:
    """The file that an engine writes from the dns of a CNI result."""
    lines = [f"nameserver {address}" for address in dns.get("nameservers", ())]
    lines += [f"search {' '.join(dns['search'])}"] if dns.get("search") else []
    path.write_text("\n".join([*lines, "options timeout:2 attempts:2", ""]))
    return path


def resolve(namespace: Namespace, conf: Path, name: str) -> set[str]:
    """The addresses of a name in a container; none when there is no such name."""
    command = ("unshare", "--mount", "--propagation", "private", "sh", "-c", ASK, "sh", str(conf), name)
    done = namespace.run(*command, check=False)
    return {line.split()[0] for line in done.stdout.splitlines()}


def becomes(what: Callable[[], Any], wanted: Any, seconds: float = 5) -> Any:
    """The value of ``what`` once it is as wanted, else the last one: the server reads again when it gets to it."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.05)):
        if (value := what()) == wanted:
            return value
        pause.wait(0.05)
    return what()


def serving(host: Host) -> list[str]:
    """The command lines of the name servers of a host's state directory that run."""
    folder = str(host.state_dir / "names" / "networks")
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = entry.read_bytes().split(b"\0")
            if folder.encode() in words:
                found.append(b" ".join(words).decode())
    return found


def written(host: Host) -> dict[str, str]:
    """What the name server of a host is to read, by file."""
    folder = host.state_dir / "names" / "networks"
    files = [path for path in folder.glob("*") if path.name != server.PID_FILE] if folder.exists() else []
    return {path.name: path.read_text() for path in files}


class Outside:
    """A name server that knows every name: A is always the same address. asked: the names, in order."""

    def __init__(self, namespace: Namespace, address: str, answer: str) -> None:
        self.asked: list[str] = []
        self._answer = socket.inet_aton(answer)
        with namespace.entered():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((address, 53))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                question, peer = self._socket.recvfrom(512)
            except OSError:
                return
            if peer is None:
                return
            end = question.index(b"\0", 12) + 5
            self.asked.append(_name(question))
            (kind,) = struct.unpack("!H", question[end - 4 : end - 2])
            head = question[:2] + struct.pack("!5H", 0x8180, 1, int(kind == 1), 0, 0)
            answer = b"\xc0\x0c" + struct.pack("!2HIH", 1, 1, 60, 4) + self._answer if kind == 1 else b""
            self._socket.sendto(head + question[12:end] + answer, peer)

    def close(self) -> None:
        """Stop."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _name(question: bytes) -> str:
    labels, at = [], 12
    while question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode())
        at += 1 + question[at]
    return ".".join(labels)


def names_in(ls: str, keys: Collection[str]) -> list[tuple[str, ...]]:
    """The rows of ``netctl ls --json``, with these keys."""
    return sorted(tuple(row[key] for key in keys) for row in json.loads(ls))
