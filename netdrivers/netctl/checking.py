"""Compare what was recorded with the kernel: one chain, or everything on this host."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from netdrivers import errors
from netdrivers.frontends.cni.config import OWN_IPAM
from netdrivers.frontends.cni.delegate import ExecutableIpam
from netdrivers.frontends.cni.result import at_least
from netdrivers.netctl import attaching, chain, kept
from netdrivers.netctl.calls import lifecycle, state_dir
from netdrivers.state.store import AttachmentRecord


class Checked(Struct, frozen=True):
    """One thing that was checked. container and ifname "" for a network's own part; no difference is good."""

    network: str
    container: str
    ifname: str
    differences: tuple[str, ...]


def check(network: str, container: str, ifname: str) -> Checked:
    """One attachment with its network, foreign plugins of its chain included. UnknownContainer without record."""
    old = kept.find(state_dir(), network, container, ifname)
    recorded = attaching.records(network, container, ifname)
    if old is None and not recorded:
        raise errors.UnknownContainer(f"container {container} has no {ifname} on network {network}", "netctl ls lists")
    found: list[str] = []
    covered = {record.attachment.driver for record in recorded}
    for config in old.plugins if old else ():
        if chain.records(config) and config["type"] not in covered:
            found.append(f"plugin {config['type']}: no record of it")
    for record in recorded:
        found += _own(record)
    for name in sorted({record.attachment.network for record in recorded}):
        known = lifecycle().store.network(name)
        found += [drift.line() for drift in lifecycle().kernel.drift(known.operations)] if known else []
    if old is not None:
        found += _foreign(old)
    return Checked(network, container, ifname, tuple(found))


def _foreign(old: kept.Kept) -> list[str]:
    """What the executables of a chain, plugins and IPAM, complain of; nothing where CHECK is not to be run."""
    if old.disable_check or not at_least(old.version, "0.4.0"):
        return []
    call = chain.Call(old.container, old.netns, old.ifname, old.args, old.path)
    said: list[str | None] = []
    for config in old.plugins:
        if not chain.records(config):
            said.append(chain.check_foreign(config, call, old.result))
        else:
            said.append(_foreign_ipam(config, call))
    return [words for words in said if words]


def _foreign_ipam(config: dict[str, Any], call: chain.Call) -> str | None:
    kind = (config.get("ipam") or {}).get("type", "")
    if not kind or kind in OWN_IPAM:
        return None
    env = chain.environment("CHECK", call)
    try:
        ExecutableIpam(kind, call.path, env, msgspec.json.encode(config)).check()
    except errors.DelegateError as error:
        return error.message
    return None


def check_all() -> list[Checked]:
    """Every network's own part, then every attachment's."""
    life = lifecycle()
    found = [
        Checked(record.network.name, "", "", tuple(drift.line() for drift in life.kernel.drift(record.operations)))
        for record in life.store.networks()
    ]
    for record in life.store.attachments():
        own = record.attachment
        found.append(Checked(own.network, own.container, own.ifname, tuple(_own(record))))
    return found


def _own(record: AttachmentRecord) -> list[str]:
    """The differences of one attachment."""
    if record.state != "attached":
        return [f"is {record.state}: a call died in the middle; netctl gc finishes it"]
    return [drift.line() for drift in lifecycle().own_drift(record)]
