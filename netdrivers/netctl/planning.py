"""What add would do with a chain, plugin by plugin, without doing it."""

from __future__ import annotations

import os
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from netdrivers.errors import ConfigError
from netdrivers.frontends.cni.config import CHAINED, arguments, attachment_of, merged
from netdrivers.frontends.named import network_in
from netdrivers.model import Result
from netdrivers.netctl import chain
from netdrivers.netctl.calls import lifecycle
from netdrivers.operations import AnyOperation


class Step(Struct, frozen=True, omit_defaults=True):
    """One thing that add would do. scope: network (its own part), attachment, or plugin (a foreign one runs)."""

    plugin: str
    scope: str
    line: str
    operation: AnyOperation | None = None


def plan(plugins: tuple[dict[str, Any], ...], call: chain.Call) -> list[Step]:
    """The steps, in order. The same errors as add's, as far as they can be known before."""
    steps: list[Step] = []
    result: Result | None = None
    known = True
    for config in plugins:
        kind = str(config["type"])
        if kind == "loopback":
            steps.append(Step(kind, "attachment", "up lo in sandbox"))
            continue
        if not chain.is_ours(kind):
            steps.append(Step(kind, "plugin", f"run {chain.executable(kind, call.path)}"))
            known = False
            continue
        try:
            more, result = _own(config, kind, call, result)
        except ConfigError:
            if known:
                raise
            more = [Step(kind, "plugin", f"run {kind}, on what the plugins before it will have made")]
        steps += more
    return steps


def _own(config: dict[str, Any], kind: str, call: chain.Call, previous: Result | None) -> tuple[list[Step], Result]:
    network = network_in(config, kind, os.environ)
    attachment = attachment_of(config, network, arguments(chain.environment("ADD", call), "ADD"), "netctl")
    attachment = replace(attachment, previous=previous)
    steps, later = [], []
    if network.ipam.kind == "delegated":
        found = chain.executable(network.ipam.plugin, call.path)
        steps.append(Step(kind, "plugin", f"run {found} for addresses"))
        later = [Step(kind, "plugin", f"publish {mapping}, at those addresses") for mapping in attachment.ports]
        attachment = replace(attachment, ports=())
    preview = lifecycle().plan(network, attachment)
    steps += [Step(kind, "network", operation.line(), operation) for operation in preview.network]
    steps += [Step(kind, "attachment", operation.line(), operation) for operation in preview.attachment.operations]
    result = preview.attachment.result
    return [*steps, *later], result if kind in CHAINED else merged(previous, result)
