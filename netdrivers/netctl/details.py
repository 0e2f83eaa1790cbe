"""All that is known of one network or one container: file, record, operations, leases, drift."""

from __future__ import annotations

import os
import socket
from typing import Any

from netdrivers import networks_file
from netdrivers.cluster.options import plain_without_secrets, without_secrets
from netdrivers.errors import NotFound
from netdrivers.model import Network
from netdrivers.names import text
from netdrivers.near import near
from netdrivers.netctl import listing, output
from netdrivers.netctl.calls import lifecycle
from netdrivers.operations import AnyOperation, Drift
from netdrivers.state.store import AttachmentRecord


def details(name: str) -> list[dict[str, Any]]:
    """One entry for each thing that a name means: a network, or the attachments of a container.

    A container is found by its id, its beginning, or its name. NotFound names the near one.
    """
    life = lifecycle()
    records = life.store.attachments()
    exact = [record for record in records if name in (record.attachment.container, record.attachment.label)]
    begun = [record for record in records if record.attachment.container.startswith(name)]
    if len({record.attachment.container for record in begun}) > 1:
        begun = []
    found = [network(name)] if is_network(name) else []
    found += [attachment(record) for record in exact or begun]
    if not found:
        words = {word for record in records for word in (record.attachment.container, record.attachment.label)}
        words |= set(network_names())
        raise NotFound(f"no network and no container {name!r}", near(name, filter(None, words)))
    return found


def _directory() -> str:
    return networks_file.directory(os.environ)


def network_names() -> list[str]:
    """Every network that has a file or a record."""
    recorded = [record.network.name for record in lifecycle().store.networks()]
    return sorted({*networks_file.names(_directory()), *recorded})


def is_network(name: str) -> bool:
    """Whether a network of that name has a file or a record."""
    return name in network_names()


def network(name: str) -> dict[str, Any]:
    """A network: its file's content (null without one), its record (null before the first attachment), its state."""
    life = lifecycle()
    record = life.store.network(name)
    file = networks_file.find(_directory(), name) if name in networks_file.names(_directory()) else None
    records = life.store.attachments(network=name)
    return {
        "kind": "network",
        "name": name,
        "file": file.path if file else None,
        "config": plain_without_secrets(file.config) if file else None,
        "ready": record.ready if record else False,
        "network": output.plain(without_secrets(record.network)) if record else None,
        "operations": _operations(record.operations) if record else [],
        "drift": _drift(life.kernel.drift(record.operations)) if record else [],
        "names": _names(record.network) if record else None,
        "leases": [{"address": _text(address), "owner": owner} for address, owner in life.store.leases(name)],
        "attachments": [output.plain(listing.row(item, item.state)) for item in records],
    }


def _names(network: Network) -> dict[str, Any] | None:
    """Who resolves to what, by which servers, and why not; null where names are not switched on."""
    if not text.wanted(network):
        return None
    life = lifecycle()
    attached = life.store.attached(network.name)
    return {
        "servers": list(text.servers(lease for _, lease in attached)),
        "domain": text.DOMAIN,
        "entries": [
            {"names": list(text.names_of(own)), "addresses": [address.ip for address in lease.addresses]}
            for own, lease in attached
        ],
        "note": life.names.trouble(network),
    }


def attachment(record: AttachmentRecord) -> dict[str, Any]:
    """An attachment: its record as it is in the store, and how the kernel differs from it."""
    life = lifecycle()
    state = "gone" if record.state == "attached" and not life.alive(record) else record.state
    return {
        "kind": "attachment",
        **output.plain(listing.row(record, state)),
        "created": record.created,
        "inode": record.inode,
        "mac": record.attachment.mac,
        "aliases": list(record.attachment.aliases),
        "lease": output.plain(record.lease),
        "result": output.plain(record.result),
        "operations": _operations(record.operations),
        "drift": _drift(life.own_drift(record)),
    }


def _operations(operations: tuple[AnyOperation, ...]) -> list[dict[str, Any]]:
    return [{"line": operation.line(), **output.plain(operation)} for operation in operations]


def _drift(found: list[Drift]) -> list[str]:
    return [item.line() for item in found]


def _text(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6 if len(address) == 16 else socket.AF_INET, address)
