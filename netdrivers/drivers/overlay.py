"""The overlay driver: a bridge on each host, and routes between hosts through one VXLAN device.

Each host owns a slice of the network's subnet. A peer is one route to its slice, one neighbour and one
forwarding entry, whose MAC is derived from its address: nothing is learned, and neither ARP nor ND crosses
the underlay. Entries grow with hosts, not with containers.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from netdrivers.drivers import common
from netdrivers.drivers.bridge import BridgeDriver
from netdrivers.drivers.options import decode_options
from netdrivers.errors import ConfigError, HostLacks
from netdrivers.model import (
    Attachment,
    Facts,
    FactsQuery,
    Ipam,
    Lease,
    LinkFact,
    Network,
    Pool,
    Range,
    Route,
    derived_mac,
    derived_name,
)
from netdrivers.operations import (
    AnyOperation,
    Forwarding,
    ForwardingEntry,
    InterfaceAddress,
    InterfaceRoute,
    KeepSource,
    LinkUp,
    Neighbour,
    Operations,
    Plan,
    Tunnel,
    Vxlan,
)

LARGEST_VNI = (1 << 24) - 1
OVERHEAD = {4: 50, 6: 70}
"""Bytes that VXLAN adds to a packet, by the underlay's family (RFC 7348, section 5)."""


class Peer(Struct, frozen=True):
    """A host of the network: its underlay address, and the slice of the subnet that is its own."""

    host: str
    slice: str


class OverlayOptions(Struct, frozen=True, rename="camel", omit_defaults=True):
    """Configuration keys of the overlay driver.

    local, device and slice are filled in when the network is settled on a host.
    """

    vni: int
    subnet: str
    port: int = 4789
    underlay: str = ""
    mtu: int = 0
    slice_prefix: int = 0
    encrypted: bool = False
    peers: tuple[Peer, ...] = ()
    etcd: dict[str, Any] | None = None
    ip_masq: bool = True
    internal: bool = False
    icc: bool = True
    isolate: bool | str = False
    hairpin_mode: bool = False
    names: bool = False
    bridge: str = ""
    local: str = ""
    device: str = ""
    slice: str = ""


class OverlayDriver:
    """See drivers.base.Driver."""

    name = "overlay"
    options_type = OverlayOptions
    owns_subnets = True
    chained = False

    def __init__(self) -> None:
        self._bridge = BridgeDriver()

    def needs(self, network: Network, attachment: Attachment | None) -> FactsQuery | None:
        """Links, addresses and routes once for each network; nothing for an attachment."""
        return self._bridge.needs(network, attachment)

    def settle(self, network: Network, facts: Facts) -> Network:
        """Underlay address, MTU, own slice and the pool of it; the peers checked."""
        options = decode_options(network.options, OverlayOptions)
        _check(options, network)
        link, local = _underlay(options, facts)
        for other in facts.links:
            if other.vni == options.vni and other.name != _vxlan(network) and other.port in (0, options.port):
                raise ConfigError("vni", options.vni, f"a number that is not in use on this host, as by {other.name}")
        family = 6 if ":" in local else 4
        mtu = options.mtu or link.mtu - OVERHEAD[family]
        settled: dict[str, Any] = {
            **network.options,
            "local": local,
            "device": link.name,
            "mtu": mtu,
            "bridge": options.bridge or derived_name("ndov", network.name),
        }
        if options.etcd is None:
            own = [peer.slice for peer in options.peers if peer.host == local]
            if not own:
                hosts = ", ".join(peer.host for peer in options.peers)
                raise ConfigError("peers", hosts, f"one of them this host, by its underlay address {local}")
            settled["slice"] = own[0]
        found = msgspec.structs.replace(network, options=settled)
        if not settled.get("slice"):
            return msgspec.structs.replace(found, firewall=common.firewall_of(network, facts))
        ipam = _own_pool(settled["slice"], options.subnet)
        return self._bridged(msgspec.structs.replace(found, ipam=ipam), facts)

    def _bridged(self, network: Network, facts: Facts) -> Network:
        """Settled as a bridge too, whose checks of shared options apply."""
        bridge = self._bridge.settle(_as_bridge(network), facts)
        return msgspec.structs.replace(network, firewall=bridge.firewall)

    def links(self, network: Network) -> tuple[str, ...]:
        """The bridge and the VXLAN device."""
        options = decode_options(network.options, OverlayOptions)
        return (options.bridge, _vxlan(network))

    def plan_network(self, network: Network, facts: Facts) -> Operations:
        """The bridge with this host's slice, the VXLAN device, and what leads to each peer."""
        options = decode_options(network.options, OverlayOptions)
        link = _vxlan(network)
        found: list[AnyOperation] = [Forwarding(6 if ":" in options.subnet else 4)]
        found += [op for op in self._bridge.plan_network(_as_bridge(network), facts) if op not in found]
        found += [
            Vxlan(
                link, options.vni, options.port, options.local, options.device, _vtep_mac(options.local), options.mtu
            ),
            LinkUp("host", link),
            InterfaceAddress("host", link, _base(options.slice)),
            Tunnel(options.bridge, link, self._backend(network)),
            KeepSource(options.subnet, self._backend(network)),
        ]
        for peer in options.peers:
            if peer.host != options.local:
                found += peer_operations(network, peer)
        return tuple(found)

    def _backend(self, network: Network) -> Any:
        return "iptables" if network.firewall == "iptables" else "nft"

    def plan_shared(self, network: Network, attachment: Attachment, lease: Lease) -> Operations:
        """Nothing."""
        return ()

    def plan(self, network: Network, attachment: Attachment, lease: Lease, facts: Facts) -> Plan:
        """As a bridge's, with a route to the whole subnet."""
        options = decode_options(network.options, OverlayOptions)
        gateway = lease.addresses[0].gateway if lease.addresses else ""
        whole = Route(options.subnet, gateway)
        lease = msgspec.structs.replace(lease, routes=(*lease.routes, whole))
        return self._bridge.plan(_as_bridge(network), attachment, lease, facts)


def peer_operations(network: Network, peer: Peer) -> list[AnyOperation]:
    """What leads to one peer, in order."""
    link, gateway, mac = _vxlan(network), _base(peer.slice).partition("/")[0], _vtep_mac(peer.host)
    return [
        ForwardingEntry(link, mac, peer.host),
        Neighbour("host", link, gateway, mac),
        InterfaceRoute("host", link, peer.slice, gateway, onlink=True),
    ]


def _check(options: OverlayOptions, network: Network) -> None:
    from netdrivers.ipam import ranges

    if not 1 <= options.vni <= LARGEST_VNI:
        raise ConfigError("vni", options.vni, f"a number from 1 to {LARGEST_VNI}")
    if not 1 <= options.port <= 65535:
        raise ConfigError("port", options.port, "a UDP port from 1 to 65535")
    common.check_mtu(options.mtu, ipv6=":" in options.subnet)
    if options.bridge:
        common.check_link_name(options.bridge, "bridge")
    if network.ipam.kind != "none":
        raise ConfigError("ipam", network.ipam.plugin or network.ipam.kind, "absent: the slice tells the addresses")
    if options.peers and options.etcd is not None:
        raise ConfigError("etcd", "set", "absent where peers are listed, or the other way round")
    if not options.peers and options.etcd is None:
        raise ConfigError("peers", [], "the hosts with their slices, or etcd")
    subnet = ranges.network(options.subnet, "subnet")
    least = subnet.prefixlen + 1
    if options.slice_prefix and not least <= options.slice_prefix <= (126 if subnet.version == 6 else 30):
        raise ConfigError("slicePrefix", options.slice_prefix, f"a prefix length from {least} on")
    for i, peer in enumerate(options.peers):
        ranges.address(peer.host, f"peers[{i}].host")
        part = ranges.network(peer.slice, f"peers[{i}].slice")
        if part.ip != part.network or part not in subnet:
            raise ConfigError(f"peers[{i}].slice", peer.slice, f"a part of {options.subnet} without host bits")
        for j, other in enumerate(options.peers[:i]):
            if ranges.overlap(peer.slice, [other.slice]):
                raise ConfigError(f"peers[{i}].slice", peer.slice, f"apart from {other.slice} of peers[{j}]")
            if peer.host == other.host:
                raise ConfigError(f"peers[{i}].host", peer.host, f"another host than peers[{j}]")


def _underlay(options: OverlayOptions, facts: Facts) -> tuple[LinkFact, str]:
    """The device and the address that carry the tunnel: as named, else by the default route."""
    usable = [fact for fact in facts.addresses if not fact.address.startswith(("fe80", "127.", "::1"))]
    hosts = {peer.host for peer in options.peers}
    for fact in usable:  # by address
        if fact.address.partition("/")[0] == options.underlay:
            link = facts.link(fact.link)
            assert link is not None
            return link, options.underlay
    chosen = facts.link(options.underlay) if options.underlay else facts.default_link()
    if not chosen and not options.underlay:
        chosen = next((facts.link(f.link) for f in usable if f.address.partition("/")[0] in hosts), None)
    if not chosen:
        if options.underlay:
            known = ", ".join(sorted({link.name for link in facts.links if not link.loopback}))
            raise ConfigError("underlay", options.underlay, f"a device of the host or one of its addresses ({known})")
        raise HostLacks("underlay: missing, and the host has no default route to take the device of", "set underlay")
    own = [fact.address.partition("/")[0] for fact in usable if fact.link == chosen.name]
    listed = [address for address in own if address in hosts]
    if not own:
        raise ConfigError("underlay", chosen.name, "a device that has an address")
    return chosen, (listed or own)[0]


def _own_pool(own: str, subnet: str) -> Ipam:
    from netdrivers.ipam import ranges

    return ranges.complete(Ipam("host-local", (Pool((Range(own),)),)))


def _as_bridge(network: Network) -> Network:
    """The network as the bridge driver sees it on this host."""
    options = decode_options(network.options, OverlayOptions)
    return Network(
        network.name,
        "bridge",
        {
            "bridge": options.bridge,
            "mtu": options.mtu,
            "isGateway": True,
            "isDefaultGateway": not options.internal,
            "ipMasq": options.ip_masq,
            "internal": options.internal,
            "icc": options.icc,
            "isolate": options.isolate,
            "hairpinMode": options.hairpin_mode,
        },
        network.ipam,
        network.dns,
        network.firewall,
    )


def _vxlan(network: Network) -> str:
    return derived_name("ndvx", network.name)


def _vtep_mac(host: str) -> str:
    """Every host derives the same MAC for a peer, so that none need be told."""
    return derived_mac("vtep", host)


def _base(part: str) -> str:
    """A slice's first address, which is its VXLAN device's, as a host prefix."""
    address = part.partition("/")[0]
    return f"{address}/{128 if ':' in address else 32}"
