"""The CNI type loopback: brings lo up; every engine asks for it, so it keeps no record."""

from __future__ import annotations

from typing import Any

import msgspec

from netdrivers import errors
from netdrivers.frontends.cni import plugin
from netdrivers.frontends.cni.config import arguments
from netdrivers.frontends.cni.result import VERSIONS, checked_version, format_result, parse_result
from netdrivers.frontends.reading import decode, get
from netdrivers.frontends.request import Request, Response
from netdrivers.kernel.host import Kernel
from netdrivers.kernel.session import ApplyFailed
from netdrivers.model import Address, Interface, Result
from netdrivers.operations import LinkUp

_UP = (LinkUp("sandbox", "lo"),)


def run(request: Request) -> Response:
    """Answer a call."""
    version = "1.1.0"
    try:
        command = request.env.get("CNI_COMMAND", "")
        document = decode(request.stdin, "the network configuration") if request.stdin else {}
        asked = get(document, "cniVersion", str, "0.1.0") or "0.1.0"
        if command == "VERSION":
            return _answer({"cniVersion": asked, "supportedVersions": list(VERSIONS)})
        version = checked_version(asked)
        if command in ("ADD", "CHECK"):
            return _answer(_up(request, document, version, command))
        return Response(0)
    except errors.NetdriversError as error:
        return plugin.failure(error, version)
    except Exception as error:
        return plugin.internal_failure(error, version)


def _answer(document: dict[str, Any] | None) -> Response:
    return Response(0, b"" if document is None else msgspec.json.encode(document))


def _up(request: Request, document: dict[str, Any], version: str, command: str) -> dict[str, Any] | None:
    call = arguments(request.env, command)
    kernel = Kernel()
    with kernel.sandbox(call.netns, fd=request.netns_fd) as sandbox:
        if command == "CHECK":
            differences = [drift.line() for drift in kernel.drift(_UP, sandbox)]
            if differences:
                raise errors.CheckFailed(differences)
            return None
        try:
            kernel.apply(_UP, sandbox)
        except ApplyFailed as failed:
            raise failed.error from failed
    previous = get(document, "prevResult", dict, None)
    if previous is not None:
        return format_result(parse_result(previous), version)
    lo = Interface("lo", "00:00:00:00:00:00", call.netns)
    return format_result(Result((lo,), (Address("127.0.0.1/8", "", 0), Address("::1/128", "", 0))), version)
