"""A host's place in a network that etcd keeps: claim a slice, give a sign of life, leave; each by transaction.

Who owns a slice is kept until it is given up, whatever the host's lease does: a host that is cut off from etcd
still runs containers with its slice's addresses, so no slice is ever taken from its owner because time has passed. It
is free again when its owner leaves (netctl network rm), or when somebody says that the owner will not
come back (netctl peers --forget), which is refused while the owner's lease lives.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from msgspec import Struct, field

from netdrivers import __version__, errors
from netdrivers.cluster import layout, slices
from netdrivers.cluster import messages as wire
from netdrivers.cluster.etcd import Etcd
from netdrivers.cluster.layout import HostEntry, Keys, Owner, Secret, Settings
from netdrivers.cluster.messages import KeyValue
from netdrivers.model import Network

SEEN_SECONDS = 600
"""How exactly it is known when a host whose lease has ended was last alive."""

_TRIES = 50


class Identity(Struct, frozen=True):
    """A host that asks for a place. host: its underlay address."""

    network: Network
    host: str
    settings: Settings

    @property
    def keys(self) -> Keys:
        """The network's keys."""
        return Keys(self.network.name)


class State(Struct):
    """A network as etcd has it at a revision. slice: the asking host's own, "" for none; lease: of its sign of life."""

    cluster: int
    revision: int
    schema_revision: int = 0
    settings: Settings | None = None
    settings_revision: int = 0
    slice: str = ""
    owner_revision: int = 0
    seen: int = 0
    slices: dict[str, str] = field(default_factory=dict)
    hosts: dict[str, HostEntry] = field(default_factory=dict)
    leases: dict[str, int] = field(default_factory=dict)
    secrets: dict[int, Secret] = field(default_factory=dict)


class Lost(errors.Conflict):
    """The slice that this host's containers have addresses of belongs to another host now."""


def look(etcd: Etcd, who: Identity, mine: str = "", others: bool = True) -> State:
    """The network's state. ConfigError for a foreign schema, or settings that are not ours while others use it.

    mine: a slice; no other is read then. others: False for no other host than the asking one.
    """
    keys = who.keys
    claimed = wire.read(keys.slice(mine)) if mine else wire.read(keys.slices, wire.prefix_end(keys.slices))
    alive = wire.read(keys.hosts, wire.prefix_end(keys.hosts)) if others else wire.read(keys.host(who.host))
    everything = etcd.transaction(
        [
            wire.read(layout.SCHEMA_KEY),
            wire.read(keys.settings),
            wire.read(keys.owner(who.host)),
            claimed,
            alive,
            wire.read(keys.keys, wire.prefix_end(keys.keys)),
        ]
    )
    schema, settings, owner, claims, hosts, secrets = everything.ranges()
    _check_schema(schema, etcd)
    state = State(everything.header.cluster_id, everything.header.revision)
    state.schema_revision = schema[0].mod_revision if schema else 0
    state.slices = {_tail(item, keys.slices): item.value.decode() for item in claims}
    for item in hosts:
        entry = layout.decoded(item.value, HostEntry)
        if entry is not None:
            state.hosts[_tail(item, keys.hosts)] = entry
            state.leases[_tail(item, keys.hosts)] = item.lease
    for item in secrets:
        secret = layout.decoded(item.value, Secret)
        if secret is not None:
            state.secrets[int(_tail(item, keys.keys))] = secret
    if settings:
        state.settings_revision = settings[0].mod_revision
        state.settings = layout.decoded(settings[0].value, Settings)
        if state.slices and state.settings is None:
            raise _foreign(etcd, f"{keys.settings.decode()} cannot be read")
        if state.slices and state.settings is not None:
            layout.compare(who.network, who.settings, state.settings)
    if owner:
        claim = layout.decoded(owner[0].value, Owner)
        if claim is None:
            raise _foreign(etcd, f"{keys.owner(who.host).decode()} cannot be read")
        state.slice, state.seen, state.owner_revision = claim.slice, claim.seen, owner[0].mod_revision
    return state


def _tail(item: KeyValue, base: bytes) -> str:
    return item.key[len(base) :].decode()


def _check_schema(found: Sequence[KeyValue], etcd: Etcd) -> None:
    if found and found[0].value != layout.SCHEMA.encode():
        raise _foreign(etcd, f"{layout.SCHEMA_KEY.decode()} is {found[0].value.decode(errors='replace')!r}")


def _foreign(etcd: Etcd, why: str) -> errors.ConfigError:
    allowed = f"an etcd whose schema this version ({__version__}, schema {layout.SCHEMA}) knows; {why}"
    return errors.ConfigError("etcd.endpoints", etcd.endpoint, allowed)


def claim(etcd: Etcd, who: Identity, wanted: str = "", others: bool = True, known: State | None = None) -> State:
    """The state with a slice of the host's own: the one that it owns already, else ``wanted``, else a free one.

    others: see look. known: the state as it was a moment ago. Exhausted names the owners that are not
    alive; Lost when ``wanted`` belongs to another.
    """
    for _ in range(_TRIES):
        state, known = known or look(etcd, who, wanted, others), None
        if wanted and state.slice != wanted and state.slices.get(wanted, who.host) != who.host:
            raise Lost(f"slice {wanted} of this host ({who.host}) belongs to {state.slices[wanted]} now")
        if state.slice and (not wanted or state.slice == wanted):
            if time.time() - state.seen >= SEEN_SECONDS:
                note_seen(etcd, who, state.slice)
            return state
        mine = wanted or choose(who, state)
        if _take(etcd, who, state, mine):
            state.slices[mine] = who.host
            state.slice = mine
            return state
    raise errors.Busy(f"no slice of {who.settings.subnet} could be claimed: too many hosts join at once")


def choose(who: Identity, state: State) -> str:
    """The slice that a host without one would claim. Exhausted."""
    settings = who.settings
    found = next(slices.free(settings.subnet, settings.slice_prefix, state.slices, who.host), "")
    if not found:
        dead = sorted(host for host in state.slices.values() if host not in state.hosts)
        hint = f"not alive: {', '.join(dead[:8])}; netctl peers --forget HOST frees its slice" if dead else ""
        count = slices.amount(settings.subnet, settings.slice_prefix)
        raise errors.Exhausted(f"all {count} slices of {settings.subnet} belong to hosts", hint)
    return found


def _take(etcd: Etcd, who: Identity, state: State, mine: str) -> bool:
    keys = who.keys
    operations = [
        wire.put(keys.owner(who.host), layout.encode(Owner(mine, int(time.time())))),
        wire.put(keys.slice(mine), who.host.encode()),
    ]
    compare = [
        wire.unchanged(layout.SCHEMA_KEY, state.schema_revision),
        wire.unchanged(keys.settings, state.settings_revision),
        wire.unchanged(keys.owner(who.host), state.owner_revision),
        wire.holds(keys.slice(mine), who.host.encode()) if mine in state.slices else wire.absent(keys.slice(mine)),
    ]
    if not state.schema_revision:
        operations.append(wire.put(layout.SCHEMA_KEY, layout.SCHEMA.encode()))
    if state.settings != who.settings:
        operations.append(wire.put(keys.settings, layout.encode(who.settings)))
        if state.settings_revision:  # others, which nobody uses
            compare.append(wire.absent(keys.slices, wire.prefix_end(keys.slices)))
    if state.slice and state.slice != mine:
        operations.append(wire.delete(keys.slice(state.slice)))
    return etcd.transaction(operations, compare).succeeded


def note_seen(etcd: Etcd, who: Identity, mine: str) -> None:
    """Write down that the host is alive, for the time when its lease has ended; SEEN_SECONDS apart is enough."""
    value = layout.encode(Owner(mine, int(time.time())))
    etcd.transaction([wire.put(who.keys.owner(who.host), value)], [wire.holds(who.keys.slice(mine), who.host.encode())])


def announce(etcd: Etcd, who: Identity, state: State, generation: int = 0) -> int:
    """Give the sign of life that the others program their kernels by; its lease, which wants to be kept alive.

    A sign that is there already is taken over with its lease. Lost when the slice is not ours any more.
    """
    entry = HostEntry(state.slice, os.uname().nodename, __version__, generation)
    lease = state.leases.get(who.host, 0)
    if lease and not etcd.keep_alive(lease):
        lease = 0
    if lease and state.hosts.get(who.host) == entry:
        return lease
    lease = lease or etcd.grant(etcd.options.lease)
    keys = who.keys
    said = etcd.transaction(
        [wire.put(keys.host(who.host), layout.encode(entry), lease)],
        [wire.holds(keys.slice(state.slice), who.host.encode())],
    )
    if not said.succeeded:
        raise Lost(f"slice {state.slice} of this host ({who.host}) was taken from it")
    return lease


def leave(etcd: Etcd, who: Identity, release: bool) -> None:
    """Take the sign of life back; release: and give the slice up."""
    keys, state = who.keys, look(etcd, who)
    attachments = keys.attachments_of(who.host)
    operations = [wire.delete(keys.host(who.host)), wire.delete(attachments, wire.prefix_end(attachments))]
    if release and state.slice:
        operations += [wire.delete(keys.owner(who.host)), wire.delete(keys.slice(state.slice))]
    etcd.transaction(operations, [wire.unchanged(keys.owner(who.host), state.owner_revision)])
    if state.leases.get(who.host):
        etcd.revoke(state.leases[who.host])


def forget(etcd: Etcd, who: Identity, host: str) -> str:
    """Free the slice of a host that will not come back; the slice. NotFound; Conflict while its lease lives."""
    keys, state = who.keys, look(etcd, who)
    found = next((part for part, owner in state.slices.items() if owner == host), "")
    if not found:
        known = ", ".join(sorted(set(state.slices.values()))[:8])
        raise errors.NotFound(f"{host} owns no slice of network {who.network.name}", f"those that do: {known}")
    attachments = keys.attachments_of(host)
    done = etcd.transaction(
        [
            wire.delete(keys.owner(host)),
            wire.delete(keys.slice(found)),
            wire.delete(attachments, wire.prefix_end(attachments)),
        ],
        [wire.absent(keys.host(host)), wire.holds(keys.slice(found), host.encode())],
    )
    if not done.succeeded:
        raise errors.Conflict(f"{host} is alive: it gave a sign of life within the last {etcd.options.lease} s")
    return found
