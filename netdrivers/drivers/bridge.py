"""The bridge driver: a veth pair on a bridge of the host, with gateway, masquerade and published ports."""

from __future__ import annotations

from typing import Any

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
from netdrivers.operations import (
    AllowSource,
    AnyOperation,
    Backend,
    Bridge,
    BridgePolicy,
    BridgePort,
    FirewallTable,
    ForwardAccept,
    Forwarding,
    Hairpin,
    InterfaceAddress,
    Masquerade,
    Operations,
    Plan,
    PolicySet,
    Sysctl,
    Veth,
    VlanLink,
)
from netdrivers.publish import publish_operations


class VlanRange(Struct, frozen=True, rename="camel"):
    """One entry of vlanTrunk: an id, or a range of ids."""

    id: int = 0
    min_id: int = msgspec.field(default=0, name="minID")
    max_id: int = msgspec.field(default=0, name="maxID")


class BridgeOptions(Struct, frozen=True, rename="camel", omit_defaults=True):
    """Configuration keys of the bridge driver; the first block is the reference plugin's."""

    bridge: str = "cni0"
    is_gateway: bool = False
    is_default_gateway: bool = False
    force_address: bool = False
    ip_masq: bool = False
    ip_masq_backend: str = ""
    mtu: int = 0
    hairpin_mode: bool = False
    promisc_mode: bool = False
    macspoofchk: bool = False
    enabledad: bool = False
    disable_container_interface: bool = False
    port_isolation: bool = False
    vlan: int = 0
    vlan_trunk: tuple[VlanRange, ...] = ()
    preserve_default_vlan: bool = True
    mac: str = ""

    icc: bool = True
    isolate: bool | str = False
    internal: bool = False
    unmanaged: bool = False
    multicast_snooping: bool = False
    names: bool = False


class BridgeDriver:
    """See drivers.base.Driver."""

    name = "bridge"
    options_type = BridgeOptions
    owns_subnets = True
    chained = False

    def needs(self, network: Network, attachment: Attachment | None) -> FactsQuery | None:
        """Links, addresses and routes once for each network; nothing for an attachment."""
        return None if attachment else FactsQuery(links=True, routes=True, addresses=True, firewall=True)

    def settle(self, network: Network, facts: Facts) -> Network:
        """Bridge name, MTU (from the default route's device) and firewall filled in."""
        options = decode_options(network.options, BridgeOptions)
        self._check(network, options)
        mtu = options.mtu
        bridge = options.bridge
        existing = facts.link(bridge)
        if existing and existing.kind != "bridge":
            raise ConfigError("bridge", bridge, f"a bridge or a new name; the host has a {existing.kind or 'device'}")
        if not mtu:
            source = existing or facts.default_link()
            mtu = source.mtu if source and common.LEAST_IPV6_MTU <= source.mtu <= common.LARGEST_MTU else 1500
        settled: dict[str, Any] = {**network.options, "bridge": bridge, "mtu": mtu}
        firewall = network.firewall
        if firewall == "auto" and options.ip_masq_backend:
            firewall = {"nftables": "nft", "iptables": "iptables"}.get(options.ip_masq_backend, "")
            if not firewall:
                raise ConfigError("ipMasqBackend", options.ip_masq_backend, "nftables or iptables")
        network = msgspec.structs.replace(network, options=settled, firewall=firewall)
        return msgspec.structs.replace(network, firewall=common.firewall_of(network, facts))

    def _check(self, network: Network, options: BridgeOptions) -> None:
        if options.bridge:
            common.check_link_name(options.bridge, "bridge")
        common.check_mtu(options.mtu, ipv6=common.has_ipv6(network))
        common.checked_mac(options.mac)
        if options.isolate not in (True, False, "true", "false", "strict"):
            raise ConfigError("isolate", options.isolate, 'true, false or "strict"')
        if options.hairpin_mode and options.promisc_mode:
            raise ConfigError("promiscMode", True, "false while hairpinMode is true")
        if not 0 <= options.vlan <= 4094:
            raise ConfigError("vlan", options.vlan, "a VLAN id from 0 to 4094")
        _trunk(options)
        if options.disable_container_interface and network.ipam.kind != "none":
            raise ConfigError("disableContainerInterface", True, "false unless ipam is empty")
        if options.names and (options.unmanaged or not _is_gateway(options)):
            raise ConfigError("names", True, "false where the bridge is no gateway, whose address answers for names")
        if options.internal and options.is_default_gateway:
            raise ConfigError("isDefaultGateway", True, "false in a network that is internal")

    def links(self, network: Network) -> tuple[str, ...]:
        """The bridge, and the host's end in the network's VLAN."""
        options = _settled(network)
        return tuple(dict.fromkeys((options.bridge, _host_end(options))))

    def plan_network(self, network: Network, facts: Facts) -> Operations:
        """Forwarding, the bridge with its gateways, and its membership in the firewall's sets."""
        return self._shared(network, facts, None)

    def plan_shared(self, network: Network, attachment: Attachment, lease: Lease) -> Operations:
        """The same for subnets that the configuration does not tell: gateways, hairpin, masquerade."""
        return self._shared(network, Facts(), lease) if network.ipam.kind in ("static", "delegated") else ()

    def _shared(self, network: Network, facts: Facts, lease: Lease | None) -> Operations:
        options = _settled(network)
        bridge, backend = options.bridge, _backend(network)
        filtering = bool(options.vlan or options.vlan_trunk)
        foreign = facts.link(bridge)
        if foreign and filtering and not foreign.vlan_filtering:
            hint = f"ip link set {bridge} type bridge vlan_filtering 1"
            raise HostLacks(f"the host's bridge {bridge} does not filter VLANs", hint)
        subnets = _subnets(network, lease)
        families = sorted({6 if ":" in subnet else 4 for subnet, _ in subnets})
        found: list[AnyOperation] = [
            Bridge(
                bridge,
                mac=derived_mac("bridge", bridge),
                mtu=options.mtu,
                vlan_filtering=filtering,
                promiscuous=options.promisc_mode,
                adopt=foreign is not None,
                multicast_snooping=options.multicast_snooping,
            )
        ]
        if options.unmanaged:
            return tuple(found)
        if _host_end(options) != bridge:
            bridge = _host_end(options)
            found.append(
                VlanLink(bridge, options.bridge, options.vlan, derived_mac("bridge", options.bridge), options.mtu)
            )
        if 6 in families:
            # Until its own link-local address is checked, a bridge asks for no neighbour of a forwarded packet.
            found.append(Sysctl("host", f"net/ipv6/conf/{bridge}/accept_dad", "0"))
            found.append(Sysctl("host", f"net/ipv6/conf/{bridge}/disable_ipv6", "0"))
        if _is_gateway(options):
            found += _gateways(bridge, subnets, facts)
            found += [Forwarding(family) for family in families if not options.internal]
        found.append(FirewallTable(backend))
        found.append(BridgePolicy("bridges", bridge, backend))
        if 4 in families and not options.internal:
            found.append(Sysctl("host", f"net/ipv4/conf/{bridge}/route_localnet", "1"))
        found += [BridgePolicy(policy, bridge, backend) for policy in _policies(options)]
        for subnet, _ in subnets:
            found.append(Hairpin(subnet, backend))
            if options.ip_masq and not options.internal:
                found.append(Masquerade(subnet, backend))
        if facts.docker_user and not options.internal:
            found.append(ForwardAccept(bridge))
        return tuple(found)

    def plan(self, network: Network, attachment: Attachment, lease: Lease, facts: Facts) -> Plan:
        """The veth pair, its port, the container's side, and the published ports."""
        options = _settled(network)
        backend = _backend(network)
        mac = attachment.mac or options.mac or derived_mac(network.name, attachment.container, attachment.ifname)
        derived = derived_name("veth", network.name, attachment.container, attachment.ifname)
        host_name = attachment.options.get("hostInterfaceName") or derived
        host_mac = derived_mac("host", network.name, attachment.container, attachment.ifname)
        if attachment.ports and not lease.addresses:
            raise ConfigError("portMappings", str(attachment.ports[0]), "none in a network without addresses")
        if attachment.ports and options.internal:
            raise ConfigError("portMappings", str(attachment.ports[0]), "none in a network that is internal")
        found: list[AnyOperation] = [
            Veth(
                host_name, common.container_link(network, attachment), mac, host_mac, options.mtu, attachment.handover
            ),
            BridgePort(
                host_name,
                options.bridge,
                # Ports of a link that is handed over come later.
                hairpin=options.hairpin_mode or bool(attachment.ports) or attachment.handover,
                isolated=options.port_isolation or not options.icc,
                vlan=options.vlan,
                trunk=_trunk(options),
                keep_default_vlan=options.preserve_default_vlan,
            ),
        ]
        if options.macspoofchk:
            found.append(AllowSource(host_name, mac))
        routes = common.routes_of(network, lease, options.is_default_gateway, facts)
        if not options.disable_container_interface and not attachment.handover:
            # On a bridge with our gateway nobody else announces IPv6; each container's own would be sent to all.
            link_local = not _is_gateway(options)
            found += common.container_side(attachment.ifname, lease, routes, options.enabledad, link_local)
        found += publish_operations(attachment.ports, lease, backend)
        bridge = Interface(options.bridge, derived_mac("bridge", options.bridge), "", options.mtu)
        host = Interface(host_name, host_mac, "", options.mtu)
        result = common.result_of(network, attachment, lease, routes, (bridge, host), mac, options.mtu)
        return Plan(tuple(found), result)


def _settled(network: Network) -> BridgeOptions:
    return decode_options(network.options, BridgeOptions)


def _backend(network: Network) -> Backend:
    return "iptables" if network.firewall == "iptables" else "nft"


def _is_gateway(options: BridgeOptions) -> bool:
    return options.is_gateway or options.is_default_gateway


def _policies(options: BridgeOptions) -> list[PolicySet]:
    found: list[PolicySet] = []
    if options.internal:
        found.append("internal")
    if not options.icc:
        found.append("noicc")
    if options.isolate in (True, "true"):
        found.append("isolated")
    elif options.isolate == "strict":
        found.append("strict")
    return found


def _subnets(network: Network, lease: Lease | None) -> list[tuple[str, str]]:
    """(subnet, gateway) of the network's ranges, or of addresses that another IPAM chose."""
    found = [(part.subnet, part.gateway) for pool in network.ipam.pools for part in pool.ranges]
    for item in lease.addresses if lease else ():
        subnet = common.subnet_of(item.address)
        if (subnet, item.gateway) not in found:
            found.append((subnet, item.gateway))
    return found


def _host_end(options: BridgeOptions) -> str:
    """The link by which the host is on the network: the bridge, or a device of its own in a VLAN of it."""
    if options.vlan and _is_gateway(options):
        return derived_name("ndvl", options.bridge, str(options.vlan))
    return options.bridge


def _gateways(link: str, subnets: list[tuple[str, str]], facts: Facts) -> list[AnyOperation]:
    present = {fact.address for fact in facts.addresses if fact.link == link}
    wanted = [f"{gateway}/{subnet.partition('/')[2]}" for subnet, gateway in subnets if gateway]
    return [InterfaceAddress("host", link, address) for address in wanted if address not in present]


def _trunk(options: BridgeOptions) -> tuple[tuple[int, int], ...]:
    found = []
    for i, item in enumerate(options.vlan_trunk):
        first, last = (item.id, item.id) if item.id else (item.min_id, item.max_id)
        if not 1 <= first <= last <= 4094:
            raise ConfigError(f"vlanTrunk[{i}]", msgspec.to_builtins(item), "id, or minID <= maxID, from 1 to 4094")
        found.append((first, last))
    return tuple(found)
