"""Questions to a running service: how it is, and that it stop."""

from __future__ import annotations

import socket
from pathlib import Path

import msgspec

from netdrivers.errors import Busy, NetdriversError
from netdrivers.launcher import wire
from netdrivers.service.status import Status

LIMIT = 5.0
"""Seconds that a service may take to answer."""


def status(state_dir: Path) -> Status | None:
    """How the service of a state directory is; None when none runs. Busy when it does not answer."""
    return _ask(state_dir, wire.STATUS)


def stop(state_dir: Path) -> Status | None:
    """Asks it to stop, and returns how it was; it ends when the calls in its workers have. None when none runs."""
    return _ask(state_dir, wire.STOP)


def _ask(state_dir: Path, kind: int) -> Status | None:
    path = state_dir / wire.SOCKET
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as service:
        service.settimeout(LIMIT)
        try:
            service.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        try:
            service.sendall(wire.pack_frame(kind))
            with service.makefile("rb") as answer:
                _, kind, size = wire.unpack_header(answer.read(wire.HEADER_SIZE))
                body = answer.read(size)
        except (OSError, wire.WireError) as error:
            raise Busy(f"the service at {path} does not answer: {error}") from error
    if kind != wire.ANSWER:
        raise NetdriversError(f"the service at {path} declines: {body.decode('utf-8', 'replace')}")
    return msgspec.json.decode(wire.unpack_answer(body)[1], type=Status)
