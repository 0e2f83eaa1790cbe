"""Attachments and published ports as rows, read from the store and held against the kernel."""

from __future__ import annotations

import os
import time
from pathlib import Path

from msgspec import Struct

from netdrivers.frontends.dispatch import state_dir
from netdrivers.kernel.published import published
from netdrivers.model import PortMapping
from netdrivers.netctl.calls import lifecycle
from netdrivers.operations import Publish
from netdrivers.state.store import AttachmentRecord

Element = tuple[str, int, str, str, int]
"""(protocol, host port, host address or "", container's address, its port)."""


class Row(Struct, frozen=True):
    """One attachment. state: attached, gone (its namespace died), planned or removing; age: seconds."""

    network: str
    driver: str
    engine: str
    container: str
    label: str
    ifname: str
    netns: str
    addresses: tuple[str, ...]
    ports: tuple[str, ...]
    state: str
    age: int


def attachments(network: str | None, container: str | None) -> list[Row]:
    """The attachments of this host, oldest first."""
    life = lifecycle()
    return [
        row(record, "gone" if record.state == "attached" and not life.alive(record) else record.state)
        for record in life.store.attachments(network=network, container=container)
    ]


def row(record: AttachmentRecord, state: str) -> Row:
    """One record as a row."""
    own = record.attachment
    return Row(
        own.network,
        own.driver,
        own.engine,
        own.container,
        own.label,
        own.ifname,
        own.netns,
        tuple(item.address for item in record.lease.addresses),
        tuple(str(mapping) for mapping in own.ports),
        state,
        int(time.time() - record.created),
    )


class Port(Struct, frozen=True):
    """``count`` published ports. host_ip "" is every address of the target's family.

    state: ok, missing (recorded, not in the kernel), stray (in the kernel, not recorded) or reserved
    (the container has the host's own namespace, so nothing leads to it).
    """

    protocol: str
    host_ip: str
    host_port: int
    target_ip: str
    target_port: int
    count: int
    network: str
    container: str
    label: str
    state: str


def ports() -> list[Port]:
    """Every published port, by number: as recorded, with what the kernel says, and what it has besides."""
    life = lifecycle()
    there: set[Element] = {
        (one.protocol, one.host_port, one.host_ip, ip, one.container_port) for one, ip in published()
    }
    found: list[Port] = []
    recorded: set[Element] = set()
    for record in life.store.attachments():
        operations = [operation for operation in record.operations if isinstance(operation, Publish)]
        for operation in operations:
            wanted = _elements(operation)
            recorded |= wanted
            legacy = operation.backend == "iptables"
            missing = bool(life.kernel.drift((operation,))) if legacy else not wanted <= there
            found.append(_port(operation, record, "missing" if missing else "ok"))
        if not operations:
            found += [_reserved(mapping, record) for mapping in record.attachment.ports]
    for protocol, port, host_ip, ip, target in there - recorded:
        found.append(Port(protocol, host_ip, port, ip, target, 1, "", "", "", "stray"))
    found += _forwarded(found)
    return sorted(found, key=lambda item: (item.host_port, item.protocol, item.host_ip, item.target_ip))


def _forwarded(published: list[Port]) -> list[Port]:
    """The ports that the service forwards from [::1], which the kernel cannot translate."""
    from netdrivers.service import client

    status = client.status(Path(state_dir(os.environ)))
    serving = status.tasks.get("loopback6", {}).get("serving", {}) if status else {}
    found = []
    for place, target in serving.items():
        protocol, port = place.split()
        ip, target_port = target.split()
        own = next((p for p in published if p.protocol == protocol and 0 <= int(port) - p.host_port < p.count), None)
        holder = (own.network, own.container, own.label) if own else ("", "", "")
        found.append(Port(protocol, "::1", int(port), ip, int(target_port), 1, *holder, "forwarded"))
    return found


def _elements(operation: Publish) -> set[Element]:
    return {
        (operation.protocol, operation.host_port + i, operation.host_ip, operation.target_ip, operation.target_port + i)
        for i in range(operation.count)
    }


def _port(operation: Publish, record: AttachmentRecord, state: str) -> Port:
    own = record.attachment
    return Port(
        operation.protocol, operation.host_ip, operation.host_port, operation.target_ip, operation.target_port,
        operation.count, own.network, own.container, own.label, state,
    )  # fmt: skip


def _reserved(mapping: PortMapping, record: AttachmentRecord) -> Port:
    own = record.attachment
    return Port(
        mapping.protocol, mapping.host_ip, mapping.host_port, "", mapping.container_port, mapping.count,
        own.network, own.container, own.label, "reserved",
    )  # fmt: skip
