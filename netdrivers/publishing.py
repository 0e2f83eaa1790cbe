"""Host ports of attachments: refuse those that are taken, reserve, publish and move them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

from msgspec.structs import replace

from netdrivers import errors
from netdrivers.drivers.registry import driver as find_driver
from netdrivers.kernel.host import Kernel
from netdrivers.kernel.namespaces import Sandbox
from netdrivers.model import Attachment, Facts, Lease, Network, PortMapping
from netdrivers.networks import lock_name
from netdrivers.operations import Operations, Publish
from netdrivers.publish import WILDCARDS, families_of
from netdrivers.state import locks
from netdrivers.state.store import AttachmentRecord, NetworkRecord, Store


class Rollback(Exception):
    """Leaves a write transaction without a trace."""


class Publishing:
    """The part of the lifecycle that knows host ports. apply: applies operations, mending the network if need be."""

    def __init__(
        self, store: Store, kernel: Kernel, apply: Callable[[NetworkRecord, Operations, Sandbox | None], None]
    ) -> None:
        self._store = store
        self._kernel = kernel
        self._apply = apply

    def with_standby(self, attachment: Attachment) -> Attachment:
        """Ports that the container publishes on another network already are not published twice."""
        others = self._store.attachments(container=attachment.container) if attachment.ports else []
        held = {mapping for other in others for mapping in other.attachment.ports}
        if held.isdisjoint(attachment.ports):
            return attachment
        standby = tuple(mapping for mapping in attachment.ports if mapping in held)
        ports = tuple(mapping for mapping in attachment.ports if mapping not in held)
        return replace(attachment, ports=ports, standby=standby)

    def refuse_listeners(self, network: Network, attachment: Attachment) -> None:
        """PortTaken, with the holder, for a port that a process of the host listens on."""
        texts = [part.subnet for pool in network.ipam.pools for part in pool.ranges]
        families = frozenset(6 if ":" in text else 4 for text in texts) or frozenset({4, 6})
        for mapping in attachment.ports:
            found = self._kernel.port_taken(
                mapping, families, self._store.service_pid(), attachment.container, attachment.keepers
            )
            if found:
                raise errors.PortTaken(f"host port {found[0]}/{mapping.protocol} is held by {found[1]}")

    def reserve(self, mapping: PortMapping, lease: Lease, key: str) -> None:
        """Reserve a mapping's host ports in the caller's transaction; PortTaken names the attachment that has one."""
        families = families_of(mapping, lease) or ([4, 6] if not lease.addresses else [])
        for family in families:
            host_ip = mapping.host_ip or ("::" if family == 6 else "0.0.0.0")
            if (WILDCARDS.get(host_ip, family)) != family or (":" in host_ip) != (family == 6):
                continue
            found = self._store.reserve_ports(mapping, host_ip, key)
            if found:
                raise errors.PortTaken(f"host port {found[0]}/{mapping.protocol} is published by {found[1]}")

    def publish(self, key: str, ports: Sequence[PortMapping]) -> None:
        """Publish exactly these host ports for an attachment that is there; none for an empty sequence.

        UnknownContainer; PortTaken, ConfigError and KernelError leave published what was. UndoFailed
        names what is still published; the next call tries again.
        """
        with locks.held(self._store.lock_path, key):
            record = self._store.complete_attachment(key)
            name = record.attachment.network
            with locks.held(self._store.lock_path, lock_name(name), shared=True):
                network = self._store.network(name)
                assert network is not None
                self._publish(record, network, replace(record.attachment, ports=tuple(ports)))

    def _publish(self, record: AttachmentRecord, network: NetworkRecord, wanted: Attachment) -> None:
        had = tuple(operation for operation in record.operations if isinstance(operation, Publish))
        driver = find_driver(network.network.driver)
        query = driver.needs(network.network, wanted)
        facts = self._kernel.facts(query) if query else Facts()
        plan = driver.plan(network.network, wanted, record.lease, facts)
        want = tuple(operation for operation in plan.operations if isinstance(operation, Publish))
        fresh = tuple(operation for operation in want if operation not in had)
        gone = tuple(operation for operation in had if operation not in want)
        others = tuple(operation for operation in record.operations if operation not in had)
        added = tuple(mapping for mapping in wanted.ports if mapping not in record.attachment.ports)
        self.refuse_listeners(network.network, replace(wanted, ports=added))
        with self._store.writing():
            self._reserve_all((*record.attachment.ports, *added), record)
            self._store.change_attachment(record.attachment, record.result, (*record.operations, *fresh))
        try:
            self._apply(network, fresh, None)
        except errors.NetdriversError:
            with self._store.writing():
                self._reserve_all(record.attachment.ports, record)
                self._store.change_attachment(record.attachment, record.result, record.operations)
            raise
        # A call that died may have recorded more than it did.
        self._kernel.mend(tuple(operation for operation in want if operation in had))
        failures = self._kernel.undo(gone)
        if failures:
            raise errors.UndoFailed(failures)
        with self._store.writing():
            self._reserve_all(wanted.ports, record)
            wanted = replace(wanted, standby=tuple(m for m in wanted.standby if m not in wanted.ports))
            self._store.change_attachment(wanted, record.result, (*others, *want))

    def _reserve_all(self, ports: Sequence[PortMapping], record: AttachmentRecord) -> None:
        """Make these the host ports that an attachment holds."""
        key = record.attachment.key
        self._store.free_ports(key)
        for mapping in ports:
            self.reserve(mapping, record.lease, key)

    def free_port(self, key: str, mapping: PortMapping, last: int, avoid: Collection[int] = ()) -> PortMapping:
        """The mapping on the first free host port from its own to ``last``, except some. Exhausted.

        Nothing is reserved: publish may still find it taken by then.
        """
        record = self._store.complete_attachment(key)
        network = self._store.network(record.attachment.network)
        assert network is not None
        for port in range(mapping.host_port, last + 1):
            candidate = replace(mapping, host_port=port)
            if port in avoid:
                continue
            try:
                self.refuse_listeners(network.network, replace(record.attachment, ports=(candidate,)))
                with self._store.writing():
                    self.reserve(candidate, record.lease, "")
                    raise Rollback
            except errors.PortTaken:
                continue
            except Rollback:
                return candidate
        raise errors.Exhausted(f"no free host port from {mapping.host_port} to {last} for {mapping.protocol}")

    def take_over(self, left: Attachment) -> None:
        """Publish again, by the container's other networks, what an attachment published that has left."""
        for other in self._store.attachments(container=left.container):
            mine = tuple(mapping for mapping in other.attachment.standby if mapping in left.ports)
            if mine and other.state == "attached":
                with suppress(errors.NetdriversError):  # leaving must not fail for it
                    self.publish(other.attachment.key, (*other.attachment.ports, *mine))
