"""The macvlan driver: a container's own link on a device of the host, and a shim by which the host reaches it."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from netdrivers.drivers import common
from netdrivers.drivers.options import decode_options
from netdrivers.errors import ConfigError, HostLacks
from netdrivers.model import (
    Attachment,
    Facts,
    FactsQuery,
    Interface,
    Lease,
    Network,
    derived_mac,
    derived_name,
)
from netdrivers.operations import AnyOperation, InterfaceRoute, LinkUp, Macvlan, Neighbour, Operations, Plan, Sysctl

MODES = ("bridge", "private", "vepa", "passthru")


class MacvlanOptions(Struct, frozen=True, rename="camel", omit_defaults=True):
    """Configuration keys of the macvlan driver; hostShim is ours, the rest the reference plugin's."""

    master: str = ""
    mode: str = "bridge"
    mtu: int = 0
    mac: str = ""
    link_in_container: bool = False
    bcqueuelen: int = 0
    host_shim: bool = False


class MacvlanDriver:
    """See drivers.base.Driver."""

    name = "macvlan"
    options_type = MacvlanOptions
    owns_subnets = False
    chained = False

    def needs(self, network: Network, attachment: Attachment | None) -> FactsQuery | None:
        """Links and routes once for each network, for the master; of an attachment, for whom the shim answers."""
        if attachment is None:
            return FactsQuery(links=True, routes=True)
        shim = decode_options(network.options, MacvlanOptions).host_shim
        return FactsQuery(addresses=True) if shim and common.has_ipv6(network) else None

    def settle(self, network: Network, facts: Facts) -> Network:
        """The master (the default route's device unless given) filled in and checked."""
        options = decode_options(network.options, MacvlanOptions)
        if options.mode not in MODES:
            raise ConfigError("mode", options.mode, ", ".join(MODES))
        common.check_mtu(options.mtu, ipv6=common.has_ipv6(network))
        common.checked_mac(options.mac)
        if options.bcqueuelen < 0:
            raise ConfigError("bcqueuelen", options.bcqueuelen, "a number of packets from 0")
        if options.host_shim and (options.mode != "bridge" or options.link_in_container):
            raise ConfigError("hostShim", True, 'false unless mode is "bridge" and the master is on the host')
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
                f"master: {master!r} is not a device of the host that can carry a macvlan (there are: {known})"
            )
        if options.mtu > link.mtu:
            raise ConfigError("mtu", options.mtu, f"at most the master's, {link.mtu}")
        settled = {**network.options, "master": master, "mtu": options.mtu or link.mtu}
        if options.mode == "passthru" and not options.mac:
            settled["mac"] = link.mac
        return msgspec.structs.replace(network, options=settled)

    def links(self, network: Network) -> tuple[str, ...]:
        """The shim, if any."""
        return (_shim(network),) if decode_options(network.options, MacvlanOptions).host_shim else ()

    def plan_network(self, network: Network, facts: Facts) -> Operations:
        """The shim: an address-less macvlan of the host's own, answering ARP with the host's addresses."""
        options = decode_options(network.options, MacvlanOptions)
        if not options.host_shim:
            return ()
        name = _shim(network)
        found: list[AnyOperation] = [Macvlan("host", name, options.master, "bridge", _shim_mac(network), options.mtu)]
        if common.has_ipv6(network):
            found.append(Sysctl("host", f"net/ipv6/conf/{name}/accept_dad", "0"))  # it may ask at once
        return (*found, LinkUp("host", name))

    def plan_shared(self, network: Network, attachment: Attachment, lease: Lease) -> Operations:
        """Nothing."""
        return ()

    def plan(self, network: Network, attachment: Attachment, lease: Lease, facts: Facts) -> Plan:
        """The link born in the sandbox, its addresses and routes, and a host route by the shim."""
        options = decode_options(network.options, MacvlanOptions)
        if attachment.ports:
            allowed = "none: a macvlan's ports are on the container's own address"
            raise ConfigError("portMappings", str(attachment.ports[0]), allowed)
        mac = attachment.mac or options.mac or derived_mac(network.name, attachment.container, attachment.ifname)
        if options.mode == "passthru" and not (attachment.mac or options.mac):
            mac = ""  # the own one of a master in the container
        if attachment.handover and options.link_in_container:
            raise ConfigError("linkInContainer", True, "false where the engine takes the link from the host")
        found: list[AnyOperation] = [
            Macvlan(
                "host" if attachment.handover else "sandbox",
                common.container_link(network, attachment),
                options.master,
                options.mode,
                mac,
                options.mtu,
                options.bcqueuelen,
                "sandbox" if options.link_in_container else "host",
                attachment.handover,
            )
        ]
        routes = common.routes_of(network, lease, False, facts)
        if not attachment.handover:
            found += common.container_side(attachment.ifname, lease, routes)
            found += _host_neighbours(network, attachment, lease, facts)
        if options.host_shim:
            for item in lease.addresses:
                host = f"{item.ip}/{128 if item.family == 6 else 32}"
                found.append(InterfaceRoute("host", _shim(network), host))
        master = Interface(options.master, "", attachment.netns if options.link_in_container else "", options.mtu)
        return Plan(tuple(found), common.result_of(network, attachment, lease, routes, (master,), mac, options.mtu))


def _shim(network: Network) -> str:
    return derived_name("ndsh", network.name)


def _shim_mac(network: Network) -> str:
    return derived_mac("shim", network.name)


def _host_neighbours(network: Network, attachment: Attachment, lease: Lease, facts: Facts) -> list[AnyOperation]:
    """The host's IPv6 addresses on the container's subnets are at the shim.

    A host answers ARP for any address of its own, but neighbour solicitations on the address's link alone.
    """
    subnets = {common.subnet_of(item.address): item.address.partition("/")[2] for item in lease.addresses}
    found: list[AnyOperation] = []
    for fact in facts.addresses:
        ip = fact.address.partition("/")[0]
        if ":" in ip and any(
            common.subnet_of(f"{ip}/{prefix}") == subnet for subnet, prefix in subnets.items() if ":" in subnet
        ):
            found.append(Neighbour("sandbox", attachment.ifname, ip, _shim_mac(network)))
    return found
