"""add, delete, check, gc, reload, plan: the only place that knows the order of lock, lease, record and kernel."""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from netdrivers import errors
from netdrivers.drivers.common import route_place
from netdrivers.drivers.registry import driver as find_driver
from netdrivers.ipam import allocator
from netdrivers.kernel.host import Kernel
from netdrivers.kernel.namespaces import Sandbox
from netdrivers.kernel.session import ApplyFailed
from netdrivers.model import Attachment, Facts, Lease, LeasedAddress, Network, Result
from netdrivers.names.book import Names
from netdrivers.networks import Networks, lock_name
from netdrivers.operations import Drift, FirewallTable, Operations, Plan, Veth
from netdrivers.publishing import Publishing, Rollback
from netdrivers.state import locks
from netdrivers.state.store import AttachmentRecord, NetworkRecord, Store


class ForeignIpam(Protocol):
    """An IPAM that is not ours, asked around our own work (CNI spec, section 4)."""

    def add(self) -> Lease:
        """Allocate."""

    def delete(self) -> None:
        """Free; freeing twice is success."""

    def check(self) -> None:
        """Raise when the allocation is not there any more."""


class Preview(Struct, frozen=True):
    """What an add would do: the network's operations that are not in the kernel yet, then the attachment's plan."""

    network: Operations
    attachment: Plan

    def lines(self) -> list[str]:
        """One line for each operation."""
        return [operation.line() for operation in (*self.network, *self.attachment.operations)]


class Lifecycle:
    """The one interface under every front end.

    defer_unlink: deleted attachments are cut off at once, and their links left to reap(), which
    somebody must call; the kernel takes 15 to 20 ms for each deletion, or for all of a batch.
    """

    def __init__(self, store: Store, kernel: Kernel, defer_unlink: bool = False) -> None:
        self.store = store
        self.kernel = kernel
        self.defer_unlink = defer_unlink
        self.networks = Networks(store, kernel)
        self.publishing = Publishing(store, kernel, self._apply)
        self.names = Names(store)

    # add

    def add(
        self, network: Network, attachment: Attachment, foreign: ForeignIpam | None = None, netns_fd: int = -1
    ) -> Result:
        """Attach a container to a network. On any error the host is as it was before.

        netns_fd: the namespace at attachment.netns if somebody opened it already, else -1. An attachment
        for handover needs none: its link is made on the host, and the result names it.

        AlreadyAttached for a second add; Conflict, Exhausted, ConfigError, KernelError as they come.
        """
        with (
            self.kernel.sandbox(attachment.netns, required=not attachment.handover, fd=netns_fd) as sandbox,
            locks.held(self.store.lock_path, attachment.key),
        ):
            self._settle_leftover(attachment.key, sandbox)
            for _ in range(3):
                made = self.networks.ensure(network)
                try:
                    with locks.held(self.store.lock_path, lock_name(network.name), shared=True):
                        if self.store.network_ready(network.name):
                            return self._attach(made.record, attachment, sandbox, foreign)
                except errors.NetdriversError:
                    with suppress(errors.NetdriversError):  # the first error is the one to tell
                        self.networks.revert(made)
                    raise
            raise errors.Busy(f"network {network.name} is being removed over and over")

    def _settle_leftover(self, key: str, sandbox: Sandbox | None) -> None:
        """An attached key is refused; what a dead call left half-made is undone first."""
        leftover = self.store.attachment(key)
        if leftover is not None:
            if leftover.state == "attached":
                raise _attached_already(leftover.attachment)
            self._remove(leftover, sandbox.fd if sandbox else -1)
        self._reap(self.store.unlinking(key))  # its link has the name that the new one wants

    def _attach(
        self, record: NetworkRecord, attachment: Attachment, sandbox: Sandbox | None, foreign: ForeignIpam | None
    ) -> Result:
        driver = find_driver(record.network.driver)
        query = driver.needs(record.network, attachment)
        facts = self.kernel.facts(query, sandbox) if query else Facts()
        try:
            given = foreign.add() if foreign else None
            plan, shared = self._record(record, attachment, given, facts, sandbox.inode if sandbox else 0)
            if shared:
                self._or_forget(attachment, lambda: self.networks.extend(record, shared))
            self._or_forget(attachment, lambda: self._apply(record, plan.operations, sandbox))
        except BaseException:
            if foreign:  # also when its own add failed (CNI spec, section 4)
                _quietly(foreign.delete)
            raise
        with self.store.writing():
            self.store.set_state(attachment.key, "attached")
        self.names.changed(record.network.name, record.network)
        return plan.result

    def _record(
        self, record: NetworkRecord, attachment: Attachment, given: Lease | None, facts: Facts, inode: int
    ) -> tuple[Plan, Operations]:
        """Lease, reserve, plan and write down, in one transaction; nothing is in the kernel yet.

        The attachment's plan, and what it brings to its network.
        """
        network, driver = record.network, find_driver(record.network.driver)
        attachment = self.publishing.with_standby(attachment)
        self.publishing.refuse_listeners(network, attachment)
        with self.store.writing():
            if driver.chained:
                lease = _lease_of(attachment.previous)
            elif given is not None:
                lease = given
                allocator.record_given(network, given, attachment.key, self.store)
            else:
                lease = allocator.allocate(network, attachment.addresses, attachment.key, self.store)
            for mapping in attachment.ports:
                self.publishing.reserve(mapping, lease, attachment.key)
            plan = driver.plan(network, attachment, lease, self._among_others(facts, attachment))
            plan = self.names.announced(network, lease, plan)
            shared = driver.plan_shared(network, attachment, lease)
            self.store.put_attachment(attachment, lease, plan.result, plan.operations, "planned", inode)
            self.store.touch_network(network.name, idle=False)
        return plan, shared

    def _among_others(self, facts: Facts, attachment: Attachment) -> Facts:
        """The facts with what the container's other networks gave it."""
        others = self.store.attachments(container=attachment.container)
        routes = [route for other in others if other.attachment.key != attachment.key for route in other.result.routes]
        return replace(facts, taken_routes=tuple(map(route_place, routes))) if routes else facts

    def _or_forget(self, attachment: Attachment, work: Callable[[], None]) -> None:
        """Do the work, or take the attachment out of the store again."""
        try:
            work()
        except errors.NetdriversError:
            with self.store.writing():
                self.store.drop_attachment(attachment.key)
                self.store.touch_network(attachment.network, idle=True)
            raise

    def _apply(self, record: NetworkRecord, operations: Operations, sandbox: Sandbox | None) -> None:
        """Apply; if the networks' own parts were destroyed by somebody, mend those once and try again."""
        lost = record.network.firewall == "nft" and not self.kernel.table_loaded()
        if lost and any(isinstance(operation, FirewallTable) for operation in record.operations):
            self.networks.mend_all(record)
        try:
            self._apply_once(operations, sandbox)
        except errors.KernelError as error:
            if error.errno not in (errno.ENODEV, errno.ENOENT) or not record.operations:
                raise
            if not self.networks.mend_all(record):
                raise
            self._apply_once(operations, sandbox)

    def _apply_once(self, operations: Operations, sandbox: Sandbox | None) -> None:
        try:
            self.kernel.apply(operations, sandbox)
        except ApplyFailed as failed:
            left = self.kernel.undo(failed.applied, sandbox)
            if left and isinstance(failed.error, errors.KernelError):
                failed.error.hint = "; ".join(left)
            raise failed.error from failed

    # delete

    def delete(self, key: str, foreign: ForeignIpam | None = None, netns_fd: int = -1) -> bool:
        """Detach by the record; whether there was one. UndoFailed names every operation that stayed.

        A second call, a vanished namespace and a changed configuration are all success.
        """
        with locks.held(self.store.lock_path, key):
            record = self.store.attachment(key)
            if record is not None:
                self._remove(record, netns_fd)
            if foreign is not None:
                foreign.delete()
        if record is not None and record.attachment.ports:
            self.publishing.take_over(record.attachment)
        return record is not None

    def _remove(self, record: AttachmentRecord, netns_fd: int = -1) -> None:
        with self.store.writing():
            self.store.set_state(record.attachment.key, "removing")
        with self.kernel.sandbox(record.attachment.netns, required=False, fd=netns_fd) as sandbox:
            own = sandbox if sandbox and sandbox.inode == record.inode else None
            deferred: list[int] | None = [] if self.defer_unlink else None
            failures = self.kernel.undo(record.operations, own, deferred)
        if failures:
            raise errors.UndoFailed(failures)
        with self.store.writing():
            if deferred:
                self.store.put_unlinking(deferred, record.attachment.key)
            self.store.drop_attachment(record.attachment.key)
            self.store.touch_network(record.attachment.network, idle=True)
        self.names.changed(record.attachment.network)

    def reap(self) -> int:
        """Delete the links that deferred deletes have left; how many. Harmless beside other calls."""
        return self._reap(self.store.unlinking())

    def _reap(self, links: list[int]) -> int:
        if links:
            self.kernel.reap(links)
            with self.store.writing():
                self.store.unlinked(links)
        return len(links)

    # check, reload

    def check(self, key: str, previous: Result | None = None, foreign: ForeignIpam | None = None) -> None:
        """CheckFailed names every difference of the attachment and its network; UnknownContainer without record."""
        record = self.store.complete_attachment(key)
        differences = _result_differences(previous, record.result) if previous else []
        differences += [drift.line() for drift in self.drift(record)]
        if differences:
            raise errors.CheckFailed(differences)
        if foreign is not None:
            foreign.check()

    def drift(self, record: AttachmentRecord) -> list[Drift]:
        """Every difference of an attachment and its network to the kernel."""
        network = self.store.network(record.attachment.network)
        return (self.kernel.drift(network.operations) if network else []) + self.own_drift(record)

    def own_drift(self, record: AttachmentRecord) -> list[Drift]:
        """Every difference of an attachment alone."""
        with self.kernel.sandbox(record.attachment.netns, required=False) as sandbox:
            own = sandbox if sandbox and sandbox.inode == record.inode else None
            return self.kernel.drift(record.operations, own)

    def reload(self) -> list[Drift]:
        """Apply again whatever drifted, networks first; what was mended. A dead namespace is left to gc."""
        mended: list[Drift] = []
        for name in [record.network.name for record in self.store.networks()]:
            with locks.held(self.store.lock_path, lock_name(name), shared=True):
                network = self.store.network(name)
                if network and network.ready:
                    mended += self.kernel.mend(network.operations)
        for record in self.store.attachments():
            if record.state != "attached":
                continue
            with (
                locks.held(self.store.lock_path, record.attachment.key),
                self.kernel.sandbox(record.attachment.netns, required=False) as sandbox,
            ):
                latest = self.store.attachment(record.attachment.key)
                there = sandbox is not None and sandbox.inode == record.inode
                if (
                    latest
                    and latest.state == "attached"
                    and (there or (latest.attachment.handover and self.alive(latest)))
                ):
                    mended += self.kernel.mend(latest.operations, sandbox)
        self.names.mend()
        return mended

    # gc

    def gc(self, network: str, valid: Collection[tuple[str, str]], origin: str, engines: Collection[str]) -> list[str]:
        """Remove a network's attachments whose (container, ifname) is not valid; their keys. UndoFailed.

        Only those of one origin and of these engines: nobody can tell about another's.
        """

        def stale(record: AttachmentRecord) -> bool:
            own = record.attachment
            asked = own.origin == origin and own.engine in engines
            return asked and (own.container, own.ifname) not in valid

        return self._remove_all(self.store.attachments(network=network), stale)

    def gc_dead(self, linger_seconds: float = 0.0) -> list[str]:
        """Remove attachments whose namespace died or whose call died, and networks idle for some time."""
        self.reap()
        removed = self._remove_all(self.store.attachments(), lambda record: not self.alive(record))
        self.names.mend()
        return removed + [f"network {name}" for name in self.networks.remove_idle(linger_seconds)]

    def _remove_all(self, records: list[AttachmentRecord], condemned: Callable[[AttachmentRecord], bool]) -> list[str]:
        """Asked again under the lock: a call under way may have finished its attachment by then."""
        removed: list[str] = []
        failures: list[str] = []
        for record in filter(condemned, records):
            try:
                with locks.held(self.store.lock_path, record.attachment.key):
                    latest = self.store.attachment(record.attachment.key)
                    if latest is not None and latest.created == record.created and condemned(latest):
                        self._remove(latest)
                        removed.append(record.attachment.key)
            except errors.UndoFailed as error:
                failures += error.failures
        if failures:
            raise errors.UndoFailed(failures)
        return removed

    def alive(self, record: AttachmentRecord) -> bool:
        """Whether an attachment's namespace is there: by its path, or by a veth that died with it.

        Of a link without a host's end that was handed over only the engine knows.
        """
        if record.state != "attached":
            return False
        names = [operation.host_name for operation in record.operations if isinstance(operation, Veth)]
        if record.attachment.handover and not names:
            return True
        with self.kernel.sandbox(record.attachment.netns, required=False) as sandbox:
            if sandbox and sandbox.inode == record.inode:
                return True
        return any(self.kernel.link_exists(name) for name in names)

    # status, plan

    def status(self, network: Network) -> list[str]:
        """Why an add to a network could not be served now; empty when it could."""
        reasons: list[str] = []
        try:
            with self.store.writing():
                settled, _ = self.networks.preview(network)
                for index, pool in enumerate(settled.ipam.pools):
                    if self.store.next_free(settled.name, index) is None:
                        reasons.append(f"no free address in {', '.join(part.subnet for part in pool.ranges)}")
                raise Rollback
        except Rollback:
            pass
        except errors.NetdriversError as error:
            reasons.append(str(error))
        return reasons + self.kernel.forward_trouble()

    def plan(self, network: Network, attachment: Attachment) -> Preview:
        """What an add would do, without doing it: the same checks, the next free address, no trace."""
        preview: list[Preview] = []
        with self.kernel.sandbox(attachment.netns) as sandbox:
            driver = find_driver(network.driver)
            known = self.store.attachment(attachment.key)
            if known is not None and known.state == "attached":
                raise _attached_already(known.attachment)
            try:
                with self.store.writing():
                    settled, operations = self.networks.preview(network)
                    query = driver.needs(settled, attachment)
                    facts = self.kernel.facts(query, sandbox) if query else Facts()
                    self.publishing.refuse_listeners(settled, attachment)
                    if driver.chained:
                        lease = _lease_of(attachment.previous)
                    else:
                        lease = allocator.allocate(settled, attachment.addresses, attachment.key, self.store)
                    for mapping in attachment.ports:
                        self.publishing.reserve(mapping, lease, attachment.key)
                    plan = driver.plan(settled, attachment, lease, self._among_others(facts, attachment))
                    plan = self.names.announced(settled, lease, plan)
                    record = self.store.network(network.name)
                    there = (*operations, *(record.operations if record else ()))
                    shared = driver.plan_shared(settled, attachment, lease)
                    operations = (*operations, *(operation for operation in shared if operation not in there))
                    preview.append(Preview(operations, plan))
                    raise Rollback
            except Rollback:
                pass
        return preview[0]


def _attached_already(attachment: Attachment) -> errors.AlreadyAttached:
    return errors.AlreadyAttached(
        f"container {attachment.container} has {attachment.ifname} on network {attachment.network} already",
        "delete it first",
    )


def _quietly(work: Callable[[], None]) -> None:
    """Clean up after another error, which is the one to tell."""
    with suppress(errors.NetdriversError):
        work()


def _lease_of(previous: Result | None) -> Lease:
    """The addresses that the plugins before us gave the container."""
    found = previous.addresses if previous else ()
    return Lease(tuple(LeasedAddress(address.address, address.gateway) for address in found))


def _result_differences(previous: Result, recorded: Result) -> list[str]:
    """What a chain's previous result says that ours did not, or lacks: addresses and container links."""
    said = {address.address for address in previous.addresses}
    known = {address.address for address in recorded.addresses}
    differences = [f"prevResult lacks address {address}" for address in sorted(known - said)]
    names = {interface.name for interface in previous.interfaces if interface.sandbox}
    for interface in recorded.interfaces:
        if interface.sandbox and interface.name not in names:
            differences.append(f"prevResult lacks interface {interface.name}")
    return differences
