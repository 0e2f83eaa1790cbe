"""The host driver: the container shares the host's own namespace; nothing is made, ports are only reserved."""

from __future__ import annotations

from msgspec import Struct

from netdrivers.errors import ConfigError, RequestError
from netdrivers.model import Address, Attachment, Facts, FactsQuery, Interface, Lease, Network, Result
from netdrivers.operations import Operations, Plan


class HostOptions(Struct, frozen=True):
    """The host driver has no configuration keys."""


class HostDriver:
    """See drivers.base.Driver."""

    name = "host"
    options_type = HostOptions
    owns_subnets = False
    chained = False

    def needs(self, network: Network, attachment: Attachment | None) -> FactsQuery | None:
        """The host's links and addresses, which are the result."""
        return FactsQuery(links=True, addresses=True) if attachment else None

    def settle(self, network: Network, facts: Facts) -> Network:
        """There is nothing to allocate an address for."""
        if network.ipam.kind != "none":
            raise ConfigError(
                "ipam.type", network.ipam.plugin or network.ipam.kind, "no ipam: the host has its addresses"
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
        """No operation. The result lists the host's interfaces and addresses."""
        if not facts.same_namespace:
            raise RequestError("netns", attachment.netns, "the host's own network namespace, for the driver host")
        for i, mapping in enumerate(attachment.ports):
            if mapping.host_port != mapping.container_port:
                field = f"portMappings[{i}]"
                raise ConfigError(field, str(mapping), "a port that maps to itself, as the container has the host's")
        interfaces = tuple(Interface(link.name, link.mac, attachment.netns, link.mtu) for link in facts.links)
        index = {link.name: i for i, link in enumerate(facts.links)}
        addresses = tuple(Address(fact.address, interface=index[fact.link]) for fact in facts.addresses)
        return Plan((), Result(interfaces, addresses))
