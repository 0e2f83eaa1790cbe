"""Life of a network on its host: made before the first attachment, changed with its configuration, removed idle."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from netdrivers import errors
from netdrivers.drivers.base import Driver
from netdrivers.drivers.registry import driver as find_driver
from netdrivers.kernel.host import Kernel
from netdrivers.kernel.session import ApplyFailed
from netdrivers.model import Facts, Network
from netdrivers.operations import AnyOperation, Bridge, Operations
from netdrivers.state import locks
from netdrivers.state.store import NetworkRecord, Store

HOST_LOCK = "host"


def lock_name(network: str) -> str:
    """The lock of a network: shared by its attachments' calls, exclusive while it is made or removed."""
    return f"network {network}"


class Networks:
    """Makes, changes and removes what belongs to networks and not to one attachment."""

    def __init__(self, store: Store, kernel: Kernel) -> None:
        self._store = store
        self._kernel = kernel

    def ensure(self, network: Network) -> NetworkRecord:
        """The network's record, settled and in the kernel; made or changed if the configuration is new.

        Errors change nothing: ConfigError, HostLacks, SubnetOverlap, KernelError.
        """
        record = self._store.network(network.name)
        if record and record.ready and record.source == network:
            return record
        with (
            locks.held(self._store.lock_path, HOST_LOCK),
            locks.held(self._store.lock_path, lock_name(network.name)),
        ):
            record = self._store.network(network.name)
            if record and record.ready and record.source == network:
                return record
            return self._make(network, record)

    def settle(self, network: Network, driver: Driver) -> tuple[Network, Facts]:
        """The network completed and checked, without a change to anything; the facts less what is ours."""
        from netdrivers.ipam import ranges

        completed = msgspec.structs.replace(network, ipam=ranges.complete(network.ipam))
        query = driver.needs(completed, None)
        facts = self._kernel.facts(query) if query else Facts()
        settled = driver.settle(completed, facts)
        records = self._store.networks()
        if driver.owns_subnets:
            others = [record.network for record in records if record.network.name != network.name]
            self._refuse_overlap(settled, driver, others, facts)
        return settled, _foreign(facts, records)

    def _refuse_overlap(self, network: Network, driver: Driver, others: list[Network], facts: Facts) -> None:
        from netdrivers.ipam import ranges

        ours = {link for other in [*others, network] for link in find_driver(other.driver).links(other)}
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

    def _make(self, network: Network, record: NetworkRecord | None) -> NetworkRecord:
        driver = find_driver(network.driver)
        if record and record.network.driver != network.driver and self._store.in_network(network.name):
            held = f"{record.network.driver}, as it is while containers are attached"
            raise errors.ConfigError("type", network.driver, held)
        settled, facts = self.settle(network, driver)
        wanted = driver.plan_network(settled, facts)
        old = record.operations if record else ()
        if record and not record.ready:  # a call died in the middle
            old = self._finish(record)
        fresh = tuple(operation for operation in wanted if operation not in old)
        kept = {_identity(operation) for operation in wanted}
        gone = tuple(operation for operation in old if _identity(operation) not in kept)
        with self._store.writing():
            self._store.put_network(network, settled, (*old, *fresh), ready=False)
        try:
            self._kernel.apply(fresh)
        except ApplyFailed as failed:
            self._undo(network.name, failed.applied)
            with self._store.writing():
                if record:
                    self._store.put_network(record.source, record.network, old, ready=True)
                else:
                    self._store.drop_network(network.name)
            raise failed.error from failed
        self._undo(network.name, gone)
        with self._store.writing():
            self._store.put_network(network, settled, wanted, ready=True)
            self._set_pools(settled)
        made = self._store.network(network.name)
        assert made is not None
        return made

    def _finish(self, record: NetworkRecord) -> Operations:
        """What is left of a network whose making died: nothing, unless containers use it."""
        if self._store.in_network(record.network.name):
            self._kernel.mend(record.operations)
            return record.operations
        self._undo(record.network.name, record.operations)
        return ()

    def _set_pools(self, network: Network) -> None:
        from netdrivers.ipam import ranges

        for index, pool in enumerate(network.ipam.pools):
            spans = ranges.spans(pool)
            if self._store.pool_spans(network.name, index) != spans:
                self._store.set_pool(network.name, index, spans)

    def preview(self, network: Network) -> tuple[Network, Operations]:
        """The settled network and the operations that making it takes; sets pools in the caller's transaction."""
        driver = find_driver(network.driver)
        settled, facts = self.settle(network, driver)
        record = self._store.network(network.name)
        self._set_pools(settled)
        old = record.operations if record else ()
        return settled, tuple(op for op in driver.plan_network(settled, facts) if op not in old)

    def extend(self, record: NetworkRecord, wanted: Operations) -> None:
        """Add what an attachment brings to its network (see Driver.plan_shared)."""
        known = {_identity(operation) for operation in record.operations}
        if all(_identity(operation) in known for operation in wanted):
            return
        name = record.network.name
        with locks.held(self._store.lock_path, HOST_LOCK):
            latest = self._store.network(name)
            assert latest is not None
            known = {_identity(operation) for operation in latest.operations}
            fresh = tuple(operation for operation in wanted if _identity(operation) not in known)
            with self._store.writing():
                self._store.put_network(latest.source, latest.network, (*latest.operations, *fresh), ready=True)
            try:
                self._kernel.apply(fresh)
            except ApplyFailed as failed:
                self._undo(name, failed.applied)
                with self._store.writing():
                    self._store.put_network(latest.source, latest.network, latest.operations, ready=True)
                raise failed.error from failed

    def remove(self, name: str) -> None:
        """Undo and forget a network. NotFound, or Conflict while containers are attached; UndoFailed."""
        with locks.held(self._store.lock_path, HOST_LOCK), locks.held(self._store.lock_path, lock_name(name)):
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

    def remove_idle(self, linger_seconds: float) -> list[str]:
        """Remove networks that have had no attachment for some time; their names."""
        removed = []
        for record in self._store.networks():
            idle = record.idle_since is not None and time.time() - record.idle_since >= linger_seconds
            if (idle or not record.ready) and not self._store.in_network(record.network.name):
                try:
                    self.remove(record.network.name)
                except (errors.Conflict, errors.NotFound):
                    continue
                removed.append(record.network.name)
        return removed

    def _undo(self, name: str, operations: Sequence[AnyOperation]) -> list[str]:
        """Undo what no other network needs."""
        shared = {
            _identity(operation)
            for record in self._store.networks()
            if record.network.name != name
            for operation in record.operations
        }
        return self._kernel.undo(tuple(op for op in operations if _identity(op) not in shared))


def _identity(operation: AnyOperation) -> object:
    """What makes two operations the same thing in the kernel: a bridge is its name."""
    return ("bridge", operation.name) if isinstance(operation, Bridge) else operation


def _subnets(network: Network) -> list[str]:
    return [part.subnet for pool in network.ipam.pools for part in pool.ranges]


def _foreign(facts: Facts, records: list[NetworkRecord]) -> Facts:
    """The facts without the bridges that our networks made, and their addresses."""
    ours = {
        operation.name
        for record in records
        for operation in record.operations
        if isinstance(operation, Bridge) and not operation.adopt
    }
    return msgspec.structs.replace(
        facts,
        links=tuple(link for link in facts.links if link.name not in ours),
        addresses=tuple(address for address in facts.addresses if address.link not in ours),
    )
