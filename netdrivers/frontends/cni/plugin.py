"""The verbs of a CNI executable: ADD, DEL, CHECK, STATUS, GC and VERSION (spec, section 2)."""

from __future__ import annotations

from typing import Any

import msgspec

from netdrivers import errors
from netdrivers.frontends.cni.config import (
    CHAINED,
    OWN_IPAM,
    Arguments,
    arguments,
    attachment_of,
    merged,
    network_of,
    record_name,
)
from netdrivers.frontends.cni.delegate import ExecutableIpam
from netdrivers.frontends.cni.result import VERSIONS, at_least, checked_version, format_result
from netdrivers.frontends.reading import Document, check_name, decode, get, need, objects
from netdrivers.frontends.request import Request, Response
from netdrivers.lifecycle import Lifecycle
from netdrivers.model import Attachment, Network

CODES = {
    "version": 1,
    "unknown-container": 3,
    "request": 4,
    "decode": 6,
    "config": 7,
    "busy": 11,
    "conflict": 100,
    "exhausted": 101,
    "host-lacks": 102,
    "kernel": 103,
    "check": 104,
    "undo": 105,
    "delegate": 106,
    "not-found": 107,
    "not-available": 50,
}
"""Codes of the spec below 100, ours from there on."""

INTERNAL_CODE = 999
_SINCE = {"CHECK": "0.4.0", "STATUS": "1.1.0", "GC": "1.1.0"}
_encode = msgspec.json.Encoder().encode


def run(request: Request, lifecycle: Lifecycle, engine: str) -> Response:
    """Do what a request asks; errors in the spec's form."""
    version = "1.1.0"
    try:
        command = request.env.get("CNI_COMMAND", "")
        if command not in ("ADD", "DEL", "CHECK", "STATUS", "GC", "VERSION"):
            raise errors.RequestError("CNI_COMMAND", command, "ADD, DEL, CHECK, STATUS, GC or VERSION")
        document = decode(request.stdin, "the network configuration") if request.stdin or command != "VERSION" else {}
        asked = get(document, "cniVersion", str, "0.1.0") or "0.1.0"
        if command == "VERSION":
            return Response(0, _encode({"cniVersion": asked, "supportedVersions": list(VERSIONS)}))
        version = checked_version(asked)
        if not at_least(version, _SINCE.get(command, "0.1.0")):
            raise errors.VersionError(f"cniVersion: {version!r} has no {command}: {_SINCE[command]} or later")
        answer = _VERBS[command](request, document, version, lifecycle, engine)
        return Response(0, b"" if answer is None else _encode(answer))
    except errors.NetdriversError as error:
        return failure(error, version)


def failure(error: errors.NetdriversError, version: str) -> Response:
    """The spec's error for one of ours."""
    document = {"cniVersion": version, "code": CODES.get(error.code, INTERNAL_CODE), "msg": error.message}
    if error.hint:
        document["details"] = error.hint
    return Response(1, _encode(document))


def internal_failure(error: BaseException, version: str = "1.1.0") -> Response:
    """The answer for a fault of ours, without a traceback."""
    document = {"cniVersion": version, "code": INTERNAL_CODE, "msg": f"internal error: {type(error).__name__}: {error}"}
    return Response(1, _encode(document))


def _foreign(network: Network, request: Request, call: Arguments) -> ExecutableIpam | None:
    if network.ipam.kind != "delegated":
        return None
    return ExecutableIpam(network.ipam.plugin, call.path, request.env, request.stdin)


def _add(request: Request, document: Document, version: str, lifecycle: Lifecycle, engine: str) -> dict[str, Any]:
    call = arguments(request.env, "ADD")
    network = network_of(document, request.program)
    attachment = attachment_of(document, network, call, engine)
    result = lifecycle.add(network, attachment, _foreign(network, request, call), request.netns_fd)
    chained = request.program in CHAINED
    return format_result(result if chained else merged(attachment.previous, result), version)


def _key(document: Document, request: Request, call: Arguments) -> str:
    name = record_name(check_name(need(document, "name", str), "name"), request.program)
    return Attachment(name, request.program, call.container, call.ifname).key


def _delete(request: Request, document: Document, version: str, lifecycle: Lifecycle, engine: str) -> None:
    """By the record alone; only a foreign IPAM needs the configuration."""
    call = arguments(request.env, "DEL")
    plugin = get(get(document, "ipam", dict, {}), "type", str, "", "ipam.")
    foreign = None
    if plugin and plugin not in OWN_IPAM:
        foreign = ExecutableIpam(plugin, call.path, request.env, request.stdin)
    lifecycle.delete(_key(document, request, call), foreign, request.netns_fd)


def _check(request: Request, document: Document, version: str, lifecycle: Lifecycle, engine: str) -> None:
    call = arguments(request.env, "CHECK")
    if document.get("prevResult") is None:
        raise errors.MissingField("prevResult", "the result of ADD, for CHECK")
    network = network_of(document, request.program)
    attachment = attachment_of(document, network, call, engine)
    lifecycle.check(attachment.key, attachment.previous, _foreign(network, request, call))


def _gc(request: Request, document: Document, version: str, lifecycle: Lifecycle, engine: str) -> None:
    name = check_name(need(document, "name", str), "name")
    key = "cni.dev/valid-attachments"
    if key not in document:
        key = "cni.dev/attachments"
    valid = {
        (
            need(item, "containerID", str, f"{key}[{i}]."),
            need(item, "ifname", str, f"{key}[{i}]."),
        )
        for i, item in enumerate(objects(document, key))
    }
    lifecycle.gc(record_name(name, request.program), valid)


def _status(request: Request, document: Document, version: str, lifecycle: Lifecycle, engine: str) -> None:
    network = network_of(document, request.program)
    reasons = lifecycle.status(network)
    if reasons:
        raise errors.NotAvailable("; ".join(reasons))


_VERBS = {"ADD": _add, "DEL": _delete, "CHECK": _check, "GC": _gc, "STATUS": _status}
