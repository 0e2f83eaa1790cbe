"""The driver protocol: a driver turns a network, an attachment, a lease and facts into a plan."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from netdrivers.model import Attachment, Facts, FactsQuery, Lease, Network
from netdrivers.operations import Operations, Plan


class Driver(Protocol):
    """What every driver is. No method may do I/O; the same arguments give the same answer.

    name: the word in a configuration's ``type``. options_type: a Struct whose fields are the
    driver's configuration keys (used to decode, to lint and to suggest). owns_subnets: the
    network's subnets are its own, so that they may not overlap others or routes of the host.
    chained: it works on what the plugin before it in a chain has made, and gives no addresses.
    """

    name: str
    options_type: type[Struct]
    owns_subnets: bool
    chained: bool

    def needs(self, network: Network, attachment: Attachment | None) -> FactsQuery | None:
        """The facts that planning wants: of the network (attachment None), or of an attachment; None for none."""

    def settle(self, network: Network, facts: Facts) -> Network:
        """The network with defaults taken from the host (MTU, parent, firewall), checked.

        Called when a network is new or changed, after its IPAM was completed; ConfigError for a bad
        value, HostLacks for a missing device.
        """

    def links(self, network: Network) -> tuple[str, ...]:
        """Names of the links that the network makes on the host, whose routes are its own."""

    def plan_network(self, network: Network, facts: Facts) -> Operations:
        """What belongs to the settled network and not to one attachment, in order."""

    def plan_shared(self, network: Network, attachment: Attachment, lease: Lease) -> Operations:
        """What belongs to the network but only an attachment tells: subnets of a foreign IPAM, a chain's bridge.

        What it adds joins the network's record, before the attachment's own plan is applied.
        """

    def plan(self, network: Network, attachment: Attachment, lease: Lease, facts: Facts) -> Plan:
        """What one attachment needs, in order, and its result. ConfigError for what the driver cannot do."""
