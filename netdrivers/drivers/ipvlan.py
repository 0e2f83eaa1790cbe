"""The ipvlan driver: a container's own link on a device of the host, with the device's MAC."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from netdrivers.drivers import common
from netdrivers.drivers.options import decode_options
from netdrivers.errors import ConfigError, HostLacks
from netdrivers.model import Attachment, Facts, FactsQuery, Interface, Lease, Network
from netdrivers.operations import AnyOperation, Ipvlan, Operations, Plan

MODES = ("l2", "l3", "l3s")


class IpvlanOptions(Struct, frozen=True, rename="camel", omit_defaults=True):
    """Configuration keys of the ipvlan driver, the reference plugin's."""

    master: str = ""
    mode: str = "l2"
    mtu: int = 0
    link_in_container: bool = False


class IpvlanDriver:
    """See drivers.base.Driver."""

    name = "ipvlan"
    options_type = IpvlanOptions
    owns_subnets = False
    chained = False

    def needs(self, network: Network, attachment: Attachment | None) -> FactsQuery | None:
        """Links and routes once for each network, for the master and its MTU."""
        return None if attachment else FactsQuery(links=True, routes=True)

    def settle(self, network: Network, facts: Facts) -> Network:
        """The master (the default route's device unless given) filled in and checked."""
        options = decode_options(network.options, IpvlanOptions)
        if options.mode not in MODES:
            raise ConfigError("mode", options.mode, ", ".join(MODES))
        common.check_mtu(options.mtu, ipv6=common.has_ipv6(network))
        if options.link_in_container:
            if not options.master:
                raise ConfigError("master", "", "the name of a link in the container, with linkInContainer")
            return network
        default = facts.default_link()
        master = options.master or (default.name if default else "")
        if not master:
            raise HostLacks("master: missing, and the host has no default route to take the device of", "set master")
        link = facts.link(master)
        if link is None or link.loopback:
            known = ", ".join(item.name for item in facts.links if not item.loopback) or "none"
            raise HostLacks(
                f"master: {master!r} is not a device of the host that can carry an ipvlan (there are: {known})"
            )
        if options.mtu > link.mtu:
            raise ConfigError("mtu", options.mtu, f"at most the master's, {link.mtu}")
        settled = {**network.options, "master": master, "mtu": options.mtu or link.mtu}
        return msgspec.structs.replace(network, options=settled)

    def links(self, network: Network) -> tuple[str, ...]:
        """None: everything is in containers."""
        return ()

    def plan_network(self, network: Network, facts: Facts) -> Operations:
        """Nothing."""
        return ()

    def plan_shared(self, network: Network, attachment: Attachment, lease: Lease) -> Operations:
        """Nothing."""
        return ()

    def plan(self, network: Network, attachment: Attachment, lease: Lease, facts: Facts) -> Plan:
        """The link born in the sandbox, its addresses and routes."""
        options = decode_options(network.options, IpvlanOptions)
        if attachment.ports:
            allowed = "none: an ipvlan's ports are on the container's own address"
            raise ConfigError("portMappings", str(attachment.ports[0]), allowed)
        if attachment.mac:
            raise ConfigError("mac", attachment.mac, "none: an ipvlan has its master's")
        if attachment.handover and options.link_in_container:
            raise ConfigError("linkInContainer", True, "false where the engine takes the link from the host")
        found: list[AnyOperation] = [
            Ipvlan(
                "host" if attachment.handover else "sandbox",
                common.container_link(network, attachment),
                options.master,
                options.mode,
                options.mtu,
                "sandbox" if options.link_in_container else "host",
                attachment.handover,
            )
        ]
        routes = common.routes_of(network, lease, False, facts)
        if not attachment.handover:
            found += common.container_side(attachment.ifname, lease, routes)
        master = Interface(options.master, "", attachment.netns if options.link_in_container else "", options.mtu)
        return Plan(tuple(found), common.result_of(network, attachment, lease, routes, (master,), "", options.mtu))
