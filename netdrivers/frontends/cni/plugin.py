"""The verbs of a CNI executable: ADD, DEL, CHECK, STATUS, GC and VERSION (spec, section 2)."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from netdrivers import errors
from netdrivers.frontends.cni.config import (
    CHAINED,
    OWN_IPAM,
    Arguments,
    arguments,
    attachment_of,
    dns_of_call,
    merged,
    record_name,
)
from netdrivers.frontends.cni.delegate import ExecutableIpam
from netdrivers.frontends.cni.result import VERSIONS, at_least, checked_version, format_result
from netdrivers.frontends.named import full_config, name_in, network_in
from netdrivers.frontends.reading import Document, decode, get, need, objects
from netdrivers.frontends.request import Request, Response
from netdrivers.lifecycle import Lifecycle
from netdrivers.model import Attachment, Dns, Result

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
RUNTIMES = ("kubernetes", "containerd", "cni")
"""Engines that may be the one that calls GC, which does not tell; Podman and netctl never do."""

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


def _foreign(document: Document, request: Request, call: Arguments) -> ExecutableIpam | None:
    """The IPAM of a configuration, if it is not ours."""
    full = full_config(document, request.program, request.env)
    plugin = get(get(full, "ipam", dict, {}), "type", str, "", "ipam.")
    if not plugin or plugin in OWN_IPAM:
        return None
    stdin = request.stdin if full is document else _encode(full)
    return ExecutableIpam(plugin, call.path, request.env, stdin)


def _add(request: Request, document: Document, version: str, lifecycle: Lifecycle, engine: str) -> dict[str, Any]:
    call = arguments(request.env, "ADD")
    network = network_in(document, request.program, request.env)
    attachment = attachment_of(document, network, call, engine)
    result = lifecycle.add(network, attachment, _foreign(document, request, call), request.netns_fd)
    result = _with_dns(result, dns_of_call(document))
    chained = request.program in CHAINED
    return format_result(result if chained else merged(attachment.previous, result), version)


def _with_dns(result: Result, asked: Dns) -> Result:
    """A network is the same for all, so what a runtime wants of one container's resolver comes after."""
    return replace(
        result,
        dns=Dns(
            asked.nameservers or result.dns.nameservers,
            result.dns.domain,
            asked.search or result.dns.search,
            asked.options or result.dns.options,
        ),
    )


def _key(document: Document, request: Request, call: Arguments, lifecycle: Lifecycle) -> str:
    """The attachment's key; of one from the same configuration, should that have come to name another network."""
    name = record_name(name_in(document), request.program)
    key = Attachment(name, request.program, call.container, call.ifname).key
    if lifecycle.store.attachment(key) is None:
        for record in lifecycle.store.attachments(container=call.container):
            own = record.attachment
            if (own.origin, own.driver, own.ifname) == (document.get("name"), request.program, call.ifname):
                return own.key
    return key


def _delete(request: Request, document: Document, version: str, lifecycle: Lifecycle, engine: str) -> None:
    """By the record alone; only a foreign IPAM needs the configuration."""
    call = arguments(request.env, "DEL")
    try:
        foreign = _foreign(document, request, call)
    except errors.NetdriversError:
        if "network" not in document:
            raise
        foreign = None  # the named network's file is gone, or not what it was
    lifecycle.delete(_key(document, request, call, lifecycle), foreign, request.netns_fd)


def _check(request: Request, document: Document, version: str, lifecycle: Lifecycle, engine: str) -> None:
    call = arguments(request.env, "CHECK")
    if document.get("prevResult") is None:
        raise errors.MissingField("prevResult", "the result of ADD, for CHECK")
    network = network_in(document, request.program, request.env)
    attachment = attachment_of(document, network, call, engine)
    lifecycle.check(attachment.key, attachment.previous, _foreign(document, request, call))


def _gc(request: Request, document: Document, version: str, lifecycle: Lifecycle, engine: str) -> None:
    name = record_name(name_in(document), request.program)
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
    engines = (engine,) if request.env.get("NETDRIVERS_ENGINE") else RUNTIMES
    lifecycle.gc(name, valid, need(document, "name", str), engines)
    foreign = _foreign(document, request, arguments(request.env, "GC"))
    if foreign:
        foreign.collect()


def _status(request: Request, document: Document, version: str, lifecycle: Lifecycle, engine: str) -> None:
    reasons = lifecycle.status(network_in(document, request.program, request.env))
    foreign = _foreign(document, request, arguments(request.env, "STATUS"))
    if foreign:
        reasons += foreign.status()
    if reasons:
        raise errors.NotAvailable("; ".join(reasons))


_VERBS = {"ADD": _add, "DEL": _delete, "CHECK": _check, "GC": _gc, "STATUS": _status}
