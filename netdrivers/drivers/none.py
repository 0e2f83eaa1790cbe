"""The none driver: loopback up, and nothing else."""

from __future__ import annotations

from msgspec import Struct

from netdrivers.errors import ConfigError
from netdrivers.model import Address, Attachment, Facts, FactsQuery, Interface, Lease, Network, Result
from netdrivers.operations import LinkUp, Operations, Plan


class NoneOptions(Struct, frozen=True):
    """The none driver has no configuration keys."""


class NoneDriver:
    """See drivers.base.Driver."""

    name = "none"
    options_type = NoneOptions
    owns_subnets = False
    chained = False

    def needs(self, network: Network, attachment: Attachment | None) -> FactsQuery | None:
        """Nothing."""
        return None

    def settle(self, network: Network, facts: Facts) -> Network:
        """There is nothing to allocate an address for."""
        if network.ipam.kind != "none":
            raise ConfigError(
                "ipam.type", network.ipam.plugin or network.ipam.kind, "no ipam: the driver none has none"
            )
        return network

    def links(self, network: Network) -> tuple[str, ...]:
        """None."""
        return ()

    def plan_network(self, network: Network, facts: Facts) -> Operations:
        """Nothing."""
        return ()

    def plan_shared(self, network: Network, attachment: Attachment, lease: Lease) -> Operations:
        """Nothing."""
        return ()

    def plan(self, network: Network, attachment: Attachment, lease: Lease, facts: Facts) -> Plan:
        """Loopback up. The result names it, with the addresses that the kernel gives it, and no other interface."""
        if attachment.ports:
            raise ConfigError("portMappings", str(attachment.ports[0]), "none: the driver none has no network")
        loopback = Interface("lo", "00:00:00:00:00:00", attachment.netns)
        addresses = [Address("127.0.0.1/8", interface=0)]
        if facts.ipv6:
            addresses.append(Address("::1/128", interface=0))
        return Plan((LinkUp("sandbox", "lo"),), Result((loopback,), tuple(addresses)))
