"""Life of a network on its host: made before the first attachment, changed with its configuration, removed idle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import msgspec
from msgspec import Struct, field

from netdrivers import errors
from netdrivers.drivers.base import Driver
from netdrivers.drivers.registry import driver as find_driver
from netdrivers.drivers.spanning import PEER_OPERATIONS, Place, SpanningDriver, spans
from netdrivers.kernel.host import Kernel
from netdrivers.kernel.session import ApplyFailed
from netdrivers.model import Facts, Network
from netdrivers.operations import (
    AnyOperation,
    Bridge,
    Drift,
    FirewallTable,
    ForwardingEntry,
    Hairpin,
    InterfaceAddress,
    IpsecPolicy,
    Macvlan,
    Masquerade,
    Neighbour,
    Operations,
    VlanLink,
)
from netdrivers.state import locks
from netdrivers.state.store import AttachmentRecord, NetworkRecord, Store

HOST_LOCK = "host"


def lock_name(network: str) -> str:
    """The lock of a network: shared by its attachments' calls, exclusive while it is made or removed."""
    return f"network {network}"


class Made(Struct, frozen=True):
    """A network that a call may attach to: its record, the one before the call, and what the call applied."""

    record: NetworkRecord
    before: NetworkRecord | None
    applied: Operations = ()
    when: float = field(default_factory=time.time)


class Networks:
    """Makes, changes and removes what belongs to networks and not to one attachment."""

    def __init__(self, store: Store, kernel: Kernel) -> None:
        self._store = store
        self._kernel = kernel

    def ensure(self, network: Network) -> Made:
        """The network settled and in the kernel; made or changed if the configuration is new.

        Errors change nothing: ConfigError, HostLacks, SubnetOverlap, Conflict, KernelError.
        """
        record = self._store.network(network.name)
        if record and record.ready and record.source == network:
            return Made(record, record)
        with self._alone(network.name):
            record = self._store.network(network.name)
            if record and record.ready and record.source == network:
                return Made(record, record)
            return self._make(network, record)

    def mend_all(self, record: NetworkRecord) -> list[Drift]:
        """Mend a network, and every other: whoever flushed the rules took all of them; what was mended.

        A new table without the others' elements would look whole to the next call. Errors are the
        network's own; another's wait for reload.
        """
        mended = self._kernel.mend(record.operations)
        for other in self._store.networks():
            if other.ready and other.network.name != record.network.name:
                with suppress(errors.NetdriversError):
                    mended += self._kernel.mend(other.operations)
        return mended

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """No other call makes or removes any network, and none attaches to this one."""
        with locks.held(self._store.lock_path, HOST_LOCK), locks.held(self._store.lock_path, lock_name(name)):
            yield

    def settle(
        self, network: Network, driver: Driver, record: NetworkRecord | None = None, claim: bool = False
    ) -> tuple[Network, Facts]:
        """The network completed and checked, without a change to this host; the facts less what is ours.

        claim: a place that a network has to have among hosts is claimed, and not only foreseen.
        """
        completed = network
        if network.ipam.kind not in ("none", "delegated"):
            from netdrivers.ipam import ranges  # 50 ms of netaddr, for whom it concerns

            completed = msgspec.structs.replace(network, ipam=ranges.complete(network.ipam))
        query = driver.needs(completed, None)
        facts = self._kernel.facts(query) if query else Facts()
        settled = driver.settle(completed, facts)
        records = self._store.networks()
        if driver.owns_subnets:
            self._refuse_overlap(settled, [record.network for record in records], facts)
        if spans(driver):
            settled = driver.place(settled, self._place(settled, driver, record, claim))
        return settled, _foreign(facts, records)

    def _place(self, network: Network, driver: SpanningDriver, record: NetworkRecord | None, claim: bool) -> Place:
        from netdrivers.cluster.peers import peers_of

        known = driver.placed(record.network) if record and driver.keeps_place(record.network, network) else None
        peers = peers_of(network, self._store.directory)
        return peers.claim(known) if claim else peers.foresee(known)

    def _refuse_overlap(self, network: Network, known: list[Network], facts: Facts) -> None:
        from netdrivers.ipam import ranges

        ours = {link for item in [*known, network] for link in find_driver(item.driver).links(item)}
        others = [item for item in known if item.name != network.name]
        for subnet in _subnets(network):
            for other in others:
                if find_driver(other.driver).owns_subnets:
                    found = ranges.overlap(subnet, _subnets(other))
                    if found:
                        raise errors.SubnetOverlap(f"subnet {subnet} overlaps {found} of network {other.name}")
            foreign = [route for route in facts.routes if route.dst and route.link not in ours]
            found = ranges.overlap(subnet, [route.dst for route in foreign])
            if found:
                link = next(route.link for route in foreign if route.dst == found)
                raise errors.SubnetOverlap(f"subnet {subnet} overlaps the host's route {found} on {link}")

    def _make(self, network: Network, record: NetworkRecord | None) -> Made:
        driver = find_driver(network.driver)
        attached = self._store.attachments(network.name) if record else []
        if record and attached and record.network.driver != network.driver:
            held = f"{record.network.driver}, as it is while containers are attached"
            raise errors.ConfigError("type", network.driver, held)
        settled, facts = self.settle(network, driver, record, claim=True)
        wanted = _wanted(driver, settled, facts, attached)
        old = record.operations if record else ()
        fresh = tuple(operation for operation in wanted if operation not in old)
        gone = tuple(operation for operation in old if operation not in wanted)
        if record and attached:
            _refuse_cut(network.name, gone, wanted)
            if not record.ready or record.extending:  # a call died in the middle
                self._kernel.mend(old)
            gone = tuple(operation for operation in gone if not _needed(operation, wanted))
            wanted = (*wanted, *(operation for operation in old if operation not in (*wanted, *gone)))
        elif record and (fresh or gone or not record.ready):  # nobody uses it: made anew
            fresh, gone = wanted, old
        if any(isinstance(item, FirewallTable) for item in fresh) and not self._kernel.table_loaded():
            for other in self._store.networks():  # a new table must not hide that theirs is gone
                if other.ready and other.network.name != network.name and other.network.firewall == "nft":
                    self.mend_all(other)
                    break
        with self._store.writing():
            self._store.put_network(network, settled, tuple(dict.fromkeys((*old, *fresh))), ready=False)
        if not attached:
            self._undo(network.name, gone)
        try:
            applied = self._kernel.apply(fresh)
        except ApplyFailed as failed:
            kept = record if record and (attached or record.ready) else None
            self._restore(network.name, failed.applied, kept, old if attached else ())
            raise failed.error from failed
        if attached:
            self._undo(network.name, _without(gone, wanted))
        with self._store.writing():
            self._store.put_network(network, settled, wanted, ready=True)
            self._set_pools(settled)
        if spans(driver):
            self._announce(settled, driver)
        made = self._store.network(network.name)
        assert made is not None
        return Made(made, record if record and record.ready else None, applied)

    def _announce(self, network: Network, driver: SpanningDriver) -> None:
        """The other hosts may send. The service says it again, so trouble here is none of the caller's."""
        from netdrivers.cluster.peers import peers_of

        place = driver.placed(network)
        assert place is not None
        with suppress(errors.NetdriversError):
            peers_of(network, self._store.directory).announce(place)

    def _restore(self, name: str, applied: Operations, record: NetworkRecord | None, there: Operations) -> None:
        """What a call applied is undone, but for what was there before; the earlier record holds again, if any."""
        self._kernel.revert(self._unshared(name, _without(applied, there)))
        ready = True
        if record:
            try:
                self._kernel.mend(record.operations)
            except errors.NetdriversError:
                ready = False  # the next call tries again
        with self._store.writing():
            if record:
                self._store.put_network(record.source, record.network, record.operations, ready)
                self._set_pools(record.network)
            else:
                self._store.drop_network(name)

    def revert(self, made: Made) -> None:
        """After a failed add: the network as it was before the call, unless others have come to use it."""
        name, before = made.record.network.name, made.before
        record = self._store.network(name)
        if before and record and (record.source, record.operations) == (before.source, before.operations):
            return
        with self._alone(name):
            record, attached = self._store.network(name), self._store.attachments(name)
            if record is None or any(item.created > made.when for item in attached):
                return
            extended = tuple(item for item in record.operations if item not in made.record.operations)
            applied = (*made.applied, *extended)
            self._restore(name, applied, before, before.operations if before else ())

    def _set_pools(self, network: Network) -> None:
        if not network.ipam.pools:
            return
        from netdrivers.ipam import ranges

        for index, pool in enumerate(network.ipam.pools):
            spans = ranges.spans(pool)
            if self._store.pool_spans(network.name, index) != spans:
                self._store.set_pool(network.name, index, spans)

    def preview(self, network: Network) -> tuple[Network, Operations]:
        """The settled network and the operations that making it takes; sets pools in the caller's transaction."""
        driver = find_driver(network.driver)
        record = self._store.network(network.name)
        settled, facts = self.settle(network, driver, record)
        self._set_pools(settled)
        old = record.operations if record else ()
        return settled, tuple(op for op in driver.plan_network(settled, facts) if op not in old)

    def extend(self, record: NetworkRecord, wanted: Operations) -> None:
        """Add what an attachment brings to its network (see Driver.plan_shared). The caller holds its lock, shared."""
        name = record.network.name
        if not record.extending and not _without(wanted, record.operations):
            return
        with locks.held(self._store.lock_path, f"extend {name}"):
            latest = self._store.network(name)
            assert latest is not None
            if latest.extending:  # a call died in the middle
                self._kernel.mend(latest.operations)
            fresh = _without(wanted, latest.operations)
            operations = (*latest.operations, *fresh)
            with self._store.writing():
                self._store.put_network(latest.source, latest.network, operations, ready=True, extending=True)
            try:
                self._kernel.apply(fresh)
            except ApplyFailed as failed:
                self._kernel.revert(self._unshared(name, failed.applied))
                with self._store.writing():
                    self._store.put_network(latest.source, latest.network, latest.operations, ready=True)
                raise failed.error from failed
            with self._store.writing():
                self._store.put_network(latest.source, latest.network, operations, ready=True)

    def change(self, name: str, place: Place) -> None:
        """Apply another place of this host to a network that is there: what leads to new peers, then away from old.

        The record is what should be, also where the kernel refuses something (KernelError): see reconcile.
        """
        with self._extending(name):
            latest = self._store.network(name)
            driver = find_driver(latest.network.driver) if latest and latest.ready else None
            if latest is None or not spans(driver) or driver.placed(latest.network) == place:
                return
            network = driver.place(latest.network, place)
            wanted, old = driver.plan_peers(network), latest.operations
            if latest.extending:  # a call died in the middle
                self._kernel.mend(old)
            there, needed = set(old), set(wanted)
            fresh = tuple(operation for operation in wanted if operation not in there)
            gone = tuple(item for item in old if isinstance(item, PEER_OPERATIONS) and item not in needed)
            with self._store.writing():
                self._store.put_network(latest.source, network, (*old, *fresh), ready=True, extending=True)
            try:
                self._kernel.apply(fresh)
            except ApplyFailed as failed:
                raise failed.error from failed
            finally:
                self._kernel.undo(_without(gone, wanted))
                left = set(gone)
                kept = tuple(operation for operation in old if operation not in left)
                with self._store.writing():
                    self._store.put_network(latest.source, network, (*kept, *fresh), ready=True)

    def reconcile(self, name: str) -> list[Drift]:
        """Mend what drifted of a network, and undo what leads to peers that it does not have; the differences."""
        with self._extending(name):
            record = self._store.network(name)
            if record is None or not record.ready:
                return []
            operations = record.operations
            found = self._kernel.mend(operations) if self._kernel.drift(operations) else []
            strays = self._kernel.strays(operations)
            self._kernel.undo(strays)
            return found + [Drift(stray, "is not recorded") for stray in strays]

    @contextmanager
    def _extending(self, name: str) -> Iterator[None]:
        """Nobody else changes a network's operations, while attachments come and go."""
        with (
            locks.held(self._store.lock_path, lock_name(name), shared=True),
            locks.held(self._store.lock_path, f"extend {name}"),
        ):
            yield

    def remove(self, name: str, release: bool = True) -> None:
        """Undo and forget a network. NotFound, or Conflict while containers are attached; UndoFailed.

        release: a slice that this host has of the network is free for other hosts.
        """
        with self._alone(name):
            record = self._store.network(name)
            if record is None:
                raise errors.NotFound(f"no network {name}")
            attached = self._store.in_network(name)
            if attached:
                raise errors.Conflict(f"network {name} has {attached} attachments")
            with self._store.writing():
                self._store.put_network(record.source, record.network, record.operations, ready=False)
            failures = self._undo(name, record.operations)
            if failures:
                raise errors.UndoFailed(failures)
            with self._store.writing():
                self._store.drop_network(name)
        if spans(find_driver(record.network.driver)):
            from netdrivers.cluster.peers import peers_of

            with suppress(errors.NetdriversError):
                peers_of(record.network, self._store.directory).leave(release)

    def remove_idle(self, linger_seconds: float) -> list[str]:
        """Remove networks that have had no attachment for some time; their names."""
        removed = []
        for record in self._store.networks():
            idle = record.idle_since is not None and time.time() - record.idle_since >= linger_seconds
            if (idle or not record.ready) and not self._store.in_network(record.network.name):
                try:
                    self.remove(record.network.name, release=False)
                except (errors.Conflict, errors.NotFound):
                    continue
                removed.append(record.network.name)
        return removed

    def _undo(self, name: str, operations: Operations) -> list[str]:
        """Undo what no other network needs."""
        return self._kernel.undo(self._unshared(name, operations))

    def _unshared(self, name: str, operations: Operations) -> Operations:
        others = [record.operations for record in self._store.networks() if record.network.name != name]
        return _without(operations, tuple(operation for known in others for operation in known))


def _identity(operation: AnyOperation) -> object:
    """What makes two operations the same thing in the kernel: a bridge is its name, a neighbour its address."""
    match operation:
        case Bridge():
            return "bridge", operation.name
        case Neighbour():
            return "neighbour", operation.where, operation.link, operation.address
        case ForwardingEntry():
            return "fdb", operation.link, operation.mac
        case IpsecPolicy():
            return "policy", operation.local, operation.peer, operation.port
    return operation


def _without(operations: Operations, known: Operations) -> Operations:
    """The operations that are not the same thing as one of the known."""
    identities = {_identity(operation) for operation in known}
    return tuple(operation for operation in operations if _identity(operation) not in identities)


def _wanted(driver: Driver, network: Network, facts: Facts, attached: list[AttachmentRecord]) -> Operations:
    """The network's operations with those that its attachments brought."""
    found = driver.plan_network(network, facts)
    for record in attached:
        found = (*found, *_without(driver.plan_shared(network, record.attachment, record.lease), found))
    return found


def _refuse_cut(name: str, gone: Operations, wanted: Operations) -> None:
    """A change that would cut attached containers off: their bridge or shim goes, or learns or forgets VLANs."""
    bridges = {operation.name: operation for operation in wanted if isinstance(operation, Bridge)}
    for operation in gone:
        new = bridges.get(operation.name) if isinstance(operation, Bridge) else None
        if isinstance(operation, Bridge) and new and new.vlan_filtering == operation.vlan_filtering:
            continue
        if isinstance(operation, Bridge | VlanLink | Macvlan):
            raise errors.Conflict(
                f"network {name} has containers attached that need what it has now: {operation.line()}",
                "delete them first, or give the new configuration another name",
            )


def _needed(operation: AnyOperation, wanted: Operations) -> bool:
    """Whether attached containers may rely on what a changed network does not ask for: gateways, subnets."""
    if isinstance(operation, Hairpin | Masquerade):
        return not any(isinstance(item, Hairpin) and item.subnet == operation.subnet for item in wanted)
    return isinstance(operation, InterfaceAddress)


def _subnets(network: Network) -> list[str]:
    driver = find_driver(network.driver)
    if spans(driver):
        return [driver.whole(network)]
    return [part.subnet for pool in network.ipam.pools for part in pool.ranges]


def _foreign(facts: Facts, records: list[NetworkRecord]) -> Facts:
    """The facts without the bridges and the addresses that our networks made."""
    known = [operation for record in records for operation in record.operations]
    ours = {operation.name for operation in known if isinstance(operation, Bridge) and not operation.adopt}
    given = {(operation.link, operation.address) for operation in known if isinstance(operation, InterfaceAddress)}
    return msgspec.structs.replace(
        facts,
        links=tuple(link for link in facts.links if link.name not in ours),
        addresses=tuple(
            fact for fact in facts.addresses if fact.link not in ours and (fact.link, fact.address) not in given
        ),
    )
