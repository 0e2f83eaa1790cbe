"""What the chained drivers share: they add to what an earlier plugin made, and return its result."""

from __future__ import annotations

from netdrivers.drivers import common
from netdrivers.errors import ConfigError, MissingField
from netdrivers.model import Attachment, Facts, FactsQuery, Network, Result
from netdrivers.operations import Backend, Operations


class ChainedDriver:
    """The parts of drivers.base.Driver that are the same for every chained driver."""

    owns_subnets = False
    chained = True

    def needs(self, network: Network, attachment: Attachment | None) -> FactsQuery | None:
        """Which firewall the host has, once for each network."""
        return None if attachment else FactsQuery(firewall=True)

    def settle(self, network: Network, facts: Facts) -> Network:
        """The firewall filled in; an address is the earlier plugin's to give."""
        from msgspec.structs import replace

        if network.ipam.kind != "none":
            raise ConfigError("ipam.type", network.ipam.plugin or network.ipam.kind, "no ipam in a chained plugin")
        return replace(network, firewall=common.firewall_of(network, facts))

    def links(self, network: Network) -> tuple[str, ...]:
        """None."""
        return ()

    def plan_network(self, network: Network, facts: Facts) -> Operations:
        """Nothing."""
        return ()


def previous_of(attachment: Attachment) -> Result:
    """The earlier plugin's result; MissingField where we are first in the chain."""
    if attachment.previous is None:
        raise MissingField("prevResult", "the result of the plugin before this one in the chain")
    return attachment.previous


def bridge_of(previous: Result) -> str:
    """The host link that the earlier plugin attached the container to: its first interface without a sandbox."""
    return next((item.name for item in previous.interfaces if not item.sandbox), "")


def backend_of(network: Network) -> Backend:
    """The network's firewall, settled."""
    return "iptables" if network.firewall == "iptables" else "nft"
