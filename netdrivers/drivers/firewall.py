"""The firewall driver: lets the traffic of an earlier plugin's bridge pass, and keeps bridges apart if asked."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from netdrivers.drivers.chained import ChainedDriver, backend_of, bridge_of, previous_of
from netdrivers.drivers.options import decode_options
from netdrivers.model import Attachment, Facts, Lease, Network
from netdrivers.operations import AnyOperation, BridgePolicy, FirewallTable, Operations, Plan


class FirewallOptions(Struct, frozen=True, rename="camel"):
    """The reference plugin's keys. ingressPolicy: who may open connections to the container."""

    backend: str = ""
    ingress_policy: Literal["", "open", "same-bridge", "isolated"] = "open"


class FirewallDriver(ChainedDriver):
    """See drivers.base.Driver."""

    name = "firewall"
    options_type = FirewallOptions

    def plan_shared(self, network: Network, attachment: Attachment, lease: Lease) -> Operations:
        """Membership of the bridge in the sets that its ingress policy means."""
        backend, bridge = backend_of(network), bridge_of(previous_of(attachment))
        policy = decode_options(network.options, FirewallOptions).ingress_policy
        if not bridge or policy in ("", "open"):
            return ()
        found: list[AnyOperation] = [
            FirewallTable(backend),
            BridgePolicy("bridges", bridge, backend),
            BridgePolicy("strict", bridge, backend),
        ]
        if policy == "isolated":
            found.append(BridgePolicy("noicc", bridge, backend))
        return tuple(found)

    def plan(self, network: Network, attachment: Attachment, lease: Lease, facts: Facts) -> Plan:
        """Nothing of the attachment's own."""
        return Plan((), previous_of(attachment))
