"""The overlay driver: a bridge on each host, and routes between hosts through one VXLAN device.

Each host owns a slice of the network's subnet. A peer is one route to its slice, one neighbour and one
forwarding entry, whose MAC is derived from its address: nothing is learned, and neither ARP nor ND crosses
the underlay. Entries grow with hosts, not with containers.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
from msgspec import Struct

from netdrivers.cluster.options import checked as checked_etcd
from netdrivers.cluster.options import plain_without_secrets
from netdrivers.drivers import common
from netdrivers.drivers.bridge import BridgeDriver
from netdrivers.drivers.options import decode_options
from netdrivers.drivers.spanning import Peer, Place, packed, unpacked
from netdrivers.errors import ConfigError, Conflict, HostLacks
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
    digest,
)
from netdrivers.operations import (
    AnyOperation,
    Backend,
    Forwarding,
    ForwardingEntry,
    InterfaceAddress,
    InterfaceRoute,
    IpsecGuard,
    IpsecPolicy,
    IpsecState,
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

ENCRYPTION_OVERHEAD = 37
"""Bytes that ESP adds at most: header 8, IV 8, padding up to 3, trailer 2, ICV 16 (RFC 4303, RFC 4106)."""

SLICE_PREFIX = {4: 24, 6: 64}
PLAIN, SECURED = "ndvx", "ndvs"
"""What names of VXLAN devices begin with: of networks that are not encrypted, and of those that are."""


class OverlayOptions(Struct, frozen=True, rename="camel", omit_defaults=True):
    """Configuration keys of the overlay driver.

    local, device and place are filled in when the network is settled on a host.
    """

    vni: int
    subnet: str
    port: int = 4789
    underlay: str = ""
    mtu: int = 0
    slice_prefix: int = 0
    encrypted: bool = False
    peers: tuple[Peer, ...] = ()
    etcd: Any = None
    ip_masq: bool = True
    internal: bool = False
    icc: bool = True
    isolate: bool | str = False
    hairpin_mode: bool = False
    names: bool = False
    bridge: str = ""
    local: str = ""
    device: str = ""
    place: dict[str, Any] = {}


class OverlayDriver:
    """See drivers.base.Driver and drivers.spanning.SpanningDriver."""

    name = "overlay"
    options_type = OverlayOptions
    owns_subnets = True
    chained = False

    def __init__(self) -> None:
        self._bridge = BridgeDriver()

    def needs(self, network: Network, attachment: Attachment | None) -> FactsQuery | None:
        """Links, addresses and routes once for each network; nothing for an attachment."""
        query = self._bridge.needs(network, attachment)
        if query and network.options.get("encrypted") is True:
            query = FactsQuery(links=True, routes=True, addresses=True, firewall=True, encryption=True)
        return query

    def settle(self, network: Network, facts: Facts) -> Network:
        """Underlay address, MTU and slice length filled in, what is listed checked; the place is still missing."""
        asked = {key: value for key, value in network.options.items() if key != "place"}
        options = decode_options(plain_without_secrets(asked), OverlayOptions)  # errors show what they decode
        if asked.get("etcd") is not None:
            checked_etcd(asked["etcd"])
        _check(options, network)
        link, local = _underlay(options, facts)
        family = 6 if ":" in local else 4
        _check_devices(options, _vxlan(network), facts)
        lacking = facts.no_encryption[family == 6]
        if options.encrypted and lacking:
            raise HostLacks(f"encrypted: this kernel lacks {lacking}", "load the module, or use another kernel")
        overhead = OVERHEAD[family] + (ENCRYPTION_OVERHEAD if options.encrypted else 0)
        settled: dict[str, Any] = {
            **asked,
            "subnet": common.subnet_of(options.subnet),  # as the kernel writes it
            "local": local,
            "device": link.name,
            "mtu": options.mtu or link.mtu - overhead,
            "slicePrefix": options.slice_prefix or SLICE_PREFIX[6 if ":" in options.subnet else 4],
            "bridge": options.bridge or derived_name("ndov", network.name),
        }
        found = msgspec.structs.replace(network, options=settled)
        bridge = self._bridge.settle(_as_bridge(found), facts)  # checks of shared options apply
        return msgspec.structs.replace(found, firewall=bridge.firewall)

    def place(self, network: Network, place: Place) -> Network:
        """Its own slice is what the network leases from on this host."""
        from netdrivers.ipam import ranges

        options = {**network.options, "place": packed(place)}
        ipam = ranges.complete(Ipam("host-local", (Pool((Range(place.slice),)),)))
        return msgspec.structs.replace(network, options=options, ipam=ipam)

    def placed(self, network: Network) -> Place | None:
        """See SpanningDriver."""
        return unpacked(network.options.get("place") or {})

    def keeps_place(self, before: Network, after: Network) -> bool:
        """See SpanningDriver."""
        keys = ("subnet", "slicePrefix", "vni", "port", "encrypted", "local")
        same = all(before.options.get(key) == after.options.get(key) for key in keys)
        return same and (before.options.get("etcd") is None) == (after.options.get("etcd") is None)

    def whole(self, network: Network) -> str:
        """See SpanningDriver."""
        return decode_options(network.options, OverlayOptions).subnet

    def links(self, network: Network) -> tuple[str, ...]:
        """The bridge and the VXLAN device."""
        options = decode_options(network.options, OverlayOptions)
        return (options.bridge, _vxlan(network))

    def plan_network(self, network: Network, facts: Facts) -> Operations:
        """The bridge with this host's slice, the VXLAN device, and what leads to each peer."""
        options, place = _placed(network)
        link, backend = _vxlan(network), _backend(network)
        found: list[AnyOperation] = [Forwarding(6 if ":" in options.subnet else 4)]
        found += [op for op in self._bridge.plan_network(_as_bridge(network), facts) if op not in found]
        if options.encrypted:
            found.append(IpsecGuard(options.local, options.port))
        found += [
            Vxlan(
                link, options.vni, options.port, options.local, options.device, _vtep_mac(options.local), options.mtu
            ),
            LinkUp("host", link),
            InterfaceAddress("host", link, _base(place.slice)),
            Tunnel(options.bridge, link, backend),
            KeepSource(options.subnet, backend),
        ]
        return (*found, *self.plan_peers(network))

    def plan_peers(self, network: Network) -> Operations:
        """For each host but this one: the means to encrypt, a forwarding entry, a neighbour, a route."""
        options, place = _placed(network)
        link = _vxlan(network)
        found: list[AnyOperation] = []
        for peer in place.hosts:
            if peer.host == options.local:
                continue
            if options.encrypted:
                found += _secured(network.name, options, place, peer)
            gateway, mac = _base(peer.slice).partition("/")[0], _vtep_mac(peer.host)
            found += [
                ForwardingEntry(link, mac, peer.host),
                Neighbour("host", link, gateway, mac),
                InterfaceRoute("host", link, peer.slice, gateway, onlink=True),
            ]
        return tuple(found)

    def plan_shared(self, network: Network, attachment: Attachment, lease: Lease) -> Operations:
        """Nothing."""
        return ()

    def plan(self, network: Network, attachment: Attachment, lease: Lease, facts: Facts) -> Plan:
        """As a bridge's, with a route to the whole subnet. Conflict when this host's slice is another's by now."""
        options = decode_options(network.options, OverlayOptions)
        if options.place.get("lost"):
            raise Conflict(
                options.place["lost"], f"delete this host's containers on network {network.name}, then add again"
            )
        gateway = lease.addresses[0].gateway if lease.addresses else ""
        whole = Route(options.subnet, gateway)
        lease = msgspec.structs.replace(lease, routes=(*lease.routes, whole))
        return self._bridge.plan(_as_bridge(network), attachment, lease, facts)


def _placed(network: Network) -> tuple[OverlayOptions, Place]:
    options = decode_options(network.options, OverlayOptions)
    place = unpacked(options.place)
    assert place is not None
    return options, place


def _backend(network: Network) -> Backend:
    return "iptables" if network.firewall == "iptables" else "nft"


def _secured(name: str, options: OverlayOptions, place: Place, peer: Peer) -> list[AnyOperation]:
    """What encrypts between this host and a peer: sent with the newest secret that the peer is known to hold.

    A host says that it holds a secret when it understands it; without one in common nothing passes.
    """
    shared = [number for number, _ in place.secrets if number <= peer.keys]
    if not shared:
        return []
    found: list[AnyOperation] = []
    for number, path in place.secrets:
        for src, dst in ((peer.host, options.local), (options.local, peer.host)):
            found.append(IpsecState(src, dst, _spi(name, number, src, dst), options.vni, path))
    spi = _spi(name, max(shared), options.local, peer.host)
    return [*found, IpsecPolicy(options.local, peer.host, options.port, spi, options.vni)]


def _spi(name: str, number: int, src: str, dst: str) -> int:
    """The same on both hosts; the first 256 are reserved (RFC 4303, section 2.1)."""
    return max(256, int.from_bytes(digest("spi", name, str(number), src, dst)[:4], "big"))


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
    if subnet.ip != subnet.network:
        raise ConfigError("subnet", options.subnet, f"a subnet without host bits, such as {subnet.cidr}")
    least, most = subnet.prefixlen + 1, 126 if subnet.version == 6 else 30
    prefix = options.slice_prefix or (SLICE_PREFIX[subnet.version] if options.etcd is not None else least)
    if not least <= prefix <= most:
        raise ConfigError("slicePrefix", prefix, f"a prefix length from {least} to {most}: a part of {options.subnet}")
    spans = []
    hosts: dict[str, int] = {}
    for i, peer in enumerate(options.peers):
        ranges.address(peer.host, f"peers[{i}].host")
        part = ranges.network(peer.slice, f"peers[{i}].slice")
        if part.ip != part.network or part not in subnet:
            raise ConfigError(f"peers[{i}].slice", peer.slice, f"a part of {options.subnet} without host bits")
        if hosts.setdefault(peer.host, i) != i:
            raise ConfigError(f"peers[{i}].host", peer.host, f"another host than peers[{hosts[peer.host]}]")
        spans.append((part.first, part.last, i))
    spans.sort()
    for (_, last, before), (first, _, after) in pairwise(spans):
        if first <= last:
            i, j = sorted((before, after))
            other = options.peers[i].slice
            raise ConfigError(f"peers[{j}].slice", options.peers[j].slice, f"apart from {other} of peers[{i}]")


def _check_devices(options: OverlayOptions, own: str, facts: Facts) -> None:
    """A VNI is used once on a port, and an encrypted network has its port for itself: policies tell ports, not VNIs."""
    for other in facts.links:
        if other.name == own or not other.vni or other.port not in (0, options.port):
            continue
        if other.vni == options.vni:
            raise ConfigError("vni", options.vni, f"a number that is not in use on this host, as by {other.name}")
        if options.encrypted or other.name.startswith(SECURED):
            words = f"one that no other VXLAN device of this host has, as {other.name}: encryption goes by ports"
            raise ConfigError("port", options.port, words)


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
        raise HostLacks(f"underlay: {chosen.name} has no address", "give it one, or name another device")
    return chosen, (listed or own)[0]


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
            "names": options.names,
        },
        network.ipam,
        network.dns,
        network.firewall,
    )


def _vxlan(network: Network) -> str:
    return derived_name(SECURED if network.options.get("encrypted") else PLAIN, network.name)


def _vtep_mac(host: str) -> str:
    """Every host derives the same MAC for a peer, so that none need be told."""
    return derived_mac("vtep", host)


def _base(part: str) -> str:
    """A slice's first address, which is its VXLAN device's, as a host prefix."""
    address = part.partition("/")[0]
    return f"{address}/{128 if ':' in address else 32}"
