"""The hosts of networks that span hosts, and what leads to them: from etcd, the record and the kernel."""

from __future__ import annotations

import time
from typing import Any

from msgspec import Struct

from netdrivers.cluster import layout
from netdrivers.cluster.etcd import Etcd
from netdrivers.cluster.join import Identity, State, forget, look
from netdrivers.cluster.layout import AttachmentEntry
from netdrivers.cluster.messages import prefix_end, read
from netdrivers.cluster.options import options_of
from netdrivers.cluster.peers import identity
from netdrivers.drivers.registry import driver as find_driver
from netdrivers.drivers.spanning import PEER_OPERATIONS, Place, spans
from netdrivers.errors import ConfigError, NetdriversError, NotFound
from netdrivers.near import near
from netdrivers.netctl.calls import lifecycle, state_dir
from netdrivers.state.store import NetworkRecord


class HostRow(Struct):
    """A host of a network.

    state: alive or gone (etcd), listed (a list in the file), known (etcd is not to be had). seen: seconds
    since its last sign of life, None where nobody knows. attachments: None where nobody knows.
    """

    network: str
    host: str
    slice: str
    state: str
    own: bool
    name: str = ""
    seen: int | None = None
    attachments: list[dict[str, Any]] | None = None


class EntryRow(Struct):
    """What leads to a host, or to none that is recorded. state: "ok", "not recorded", or what differs."""

    network: str
    entry: str
    state: str


def spanning(name: str | None) -> list[NetworkRecord]:
    """The records of one network, or of all that span hosts. NotFound; ConfigError for a network that does not."""
    records = {record.network.name: record for record in lifecycle().store.networks()}
    found = {key: item for key, item in records.items() if spans(_driver(item))}
    if name is None:
        return list(found.values())
    if name not in records:
        raise NotFound(f"no network {name!r} is on this host", near(name, found))
    if name not in found:
        raise ConfigError("network", name, "one that spans hosts (type overlay)")
    return [found[name]]


def _driver(record: NetworkRecord) -> Any:
    return find_driver(record.network.driver)


def _place(record: NetworkRecord) -> Place:
    place: Place | None = _driver(record).placed(record.network)
    return place or Place("")


def hosts(record: NetworkRecord) -> tuple[list[HostRow], str]:
    """The hosts of a network, by address, and why they are not those of etcd ("" if they are, or should not be)."""
    local = str(record.network.options.get("local", ""))
    if record.network.options.get("etcd") is None:
        return _recorded(record, local, "listed"), ""
    try:
        with Etcd(options_of(record.network), _place(record).cluster) as etcd:
            return _from_etcd(etcd, identity(record.network), local), ""
    except NetdriversError as error:
        return _recorded(record, local, "known"), str(error)


def _recorded(record: NetworkRecord, local: str, state: str) -> list[HostRow]:
    name = record.network.name
    return [HostRow(name, peer.host, peer.slice, state, peer.host == local) for peer in _place(record).hosts]


def _from_etcd(etcd: Etcd, who: Identity, local: str) -> list[HostRow]:
    state = look(etcd, who)
    attached = _attachments(etcd, who)
    seen = _last_seen(etcd, who, state)
    rows = []
    for part, host in sorted(state.slices.items(), key=lambda item: item[1]):
        entry = state.hosts.get(host)
        rows.append(
            HostRow(
                who.network.name,
                host,
                part,
                "alive" if entry else "gone",
                host == local,
                entry.name if entry else "",
                seen.get(host),
                attached.get(host, []),
            )
        )
    return rows


def _last_seen(etcd: Etcd, who: Identity, state: State) -> dict[str, int]:
    """By the lease of those that are alive; of the others it is written down now and then."""
    now = int(time.time())
    found: dict[str, int] = {}
    owners = who.keys.owners
    for item in etcd.transaction([read(owners, prefix_end(owners))]).ranges()[0]:
        owner = layout.decoded(item.value, layout.Owner)
        if owner is not None:
            found[item.key[len(owners) :].decode()] = max(0, now - owner.seen)
    for host, when in _seen_to_leave(who.network.name).items():
        found[host] = min(found.get(host, now), max(0, now - when))
    for host, lease in state.leases.items():
        silent = etcd.silent_for(lease)
        if silent is not None:
            found[host] = silent
    return found


def _seen_to_leave(network: str) -> dict[str, int]:
    """When this host's service saw others' leases end."""
    from pathlib import Path

    from netdrivers.service import client

    status = client.status(Path(state_dir()))
    kept: Any = status.tasks.get("cluster", {}).get(network, {}) if status else {}
    return dict(kept.get("gone", {}))


def _attachments(etcd: Etcd, who: Identity) -> dict[str, list[dict[str, Any]]]:
    base = who.keys.attachments
    found: dict[str, list[dict[str, Any]]] = {}
    for page in etcd.read(base, prefix_end(base)):
        for item in page.kvs:
            host, _, rest = item.key[len(base) :].decode().partition("/")
            container, _, ifname = rest.partition("/")
            entry = layout.decoded(item.value, AttachmentEntry) or AttachmentEntry()
            found.setdefault(host, []).append(
                {
                    "container": container,
                    "ifname": ifname,
                    "name": entry.name,
                    "engine": entry.engine,
                    "addresses": list(entry.addresses),
                }
            )
    return found


def forget_host(record: NetworkRecord, host: str) -> str:
    """Free the slice of a host that will not come back; the slice. ConfigError where etcd does not keep the network."""
    if record.network.options.get("etcd") is None:
        raise ConfigError("--forget", host, "for networks that etcd keeps; here the list in the file says it all")
    with Etcd(options_of(record.network), _place(record).cluster) as etcd:
        return forget(etcd, identity(record.network), host)


def entries(record: NetworkRecord) -> list[EntryRow]:
    """What leads to the hosts of a network, by the record and by the kernel."""
    name, kernel = record.network.name, lifecycle().kernel
    wanted = tuple(operation for operation in record.operations if isinstance(operation, PEER_OPERATIONS))
    drifted = {drift.operation: drift.difference for drift in kernel.drift(wanted)}
    found = [EntryRow(name, operation.line(), drifted.get(operation, "ok")) for operation in wanted]
    return found + [EntryRow(name, stray.line(), "not recorded") for stray in kernel.strays(record.operations)]
