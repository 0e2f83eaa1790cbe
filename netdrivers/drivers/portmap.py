"""The portmap driver: published ports for a container that another plugin attached."""

from __future__ import annotations

from msgspec import Struct

from netdrivers.drivers.chained import ChainedDriver, backend_of, bridge_of, previous_of
from netdrivers.drivers.options import decode_options
from netdrivers.model import Attachment, Facts, Lease, Network
from netdrivers.operations import (
    AnyOperation,
    BridgePolicy,
    FirewallTable,
    Forwarding,
    Hairpin,
    Operations,
    Plan,
    Sysctl,
)
from netdrivers.publish import publish_operations


class PortmapOptions(Struct, frozen=True, rename="camel"):
    """The reference plugin's keys; its marks and chains have no counterpart in sets and maps."""

    backend: str = ""
    snat: bool = True


class PortmapDriver(ChainedDriver):
    """See drivers.base.Driver."""

    name = "portmap"
    options_type = PortmapOptions

    def plan_shared(self, network: Network, attachment: Attachment, lease: Lease) -> Operations:
        """The static rules, forwarding, and 127.0.0.1 by the earlier plugin's bridge."""
        if not attachment.ports:
            return ()
        backend, bridge = backend_of(network), bridge_of(previous_of(attachment))
        families = sorted({item.family for item in lease.addresses})
        found: list[AnyOperation] = [Forwarding(family) for family in families]
        found.append(FirewallTable(backend))
        if bridge and decode_options(network.options, PortmapOptions).snat:
            found.append(BridgePolicy("bridges", bridge, backend))
            if 4 in families:
                found.append(Sysctl("host", f"net/ipv4/conf/{bridge}/route_localnet", "1"))
        return tuple(found)

    def plan(self, network: Network, attachment: Attachment, lease: Lease, facts: Facts) -> Plan:
        """Publish, with hairpin for the container's own address."""
        previous, backend = previous_of(attachment), backend_of(network)
        found: list[AnyOperation] = []
        if attachment.ports:
            for item in lease.addresses:
                found.append(Hairpin(f"{item.ip}/{128 if item.family == 6 else 32}", backend))
        found += publish_operations(attachment.ports, lease, backend)
        return Plan(tuple(found), previous)
