"""The operations a plan is made of: small frozen values that say themselves in one line.

What each does to a kernel, how it is undone and how its absence is noticed is the kernel room's
business. Values are recorded as JSON, so names and fields are part of the store's schema.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

from netdrivers.model import Result, Where

Backend = Literal["nft", "iptables"]
PolicySet = Literal["bridges", "isolated", "strict", "internal", "noicc"]


class Operation(Struct, frozen=True, tag_field="op", omit_defaults=True):
    """Base of all operations."""

    def line(self) -> str:
        """The operation in one line, for people."""
        raise NotImplementedError


class Forwarding(Operation, frozen=True, tag="forwarding"):
    """The host forwards packets of a family (4 or 6). Stays on: others may rely on it by then."""

    family: int

    def line(self) -> str:
        return f"forward IPv{self.family} on the host"


class Sysctl(Operation, frozen=True, tag="sysctl"):
    """A value below /proc/sys; key is slash-separated ("net/ipv4/conf/br0/route_localnet")."""

    where: Where
    key: str
    value: str

    def line(self) -> str:
        return f"sysctl {self.key} = {self.value} in {self.where}"


class FirewallTable(Operation, frozen=True, tag="firewall-table"):
    """Our static rules are loaded; goes with the last network that needs them."""

    backend: Backend = "nft"

    def line(self) -> str:
        return f"firewall table netdrivers ({self.backend})"


class BridgePolicy(Operation, frozen=True, tag="bridge-policy"):
    """A bridge is a member of one of our policy sets."""

    policy: PolicySet
    link: str
    backend: Backend = "nft"

    def line(self) -> str:
        return f"policy {self.policy} for {self.link}"


class Masquerade(Operation, frozen=True, tag="masquerade"):
    """Traffic from a subnet to other places leaves with the host's address."""

    subnet: str
    backend: Backend = "nft"

    def line(self) -> str:
        return f"masquerade {self.subnet}"


class Hairpin(Operation, frozen=True, tag="hairpin"):
    """Published ports opened from inside the subnet are masqueraded; the rest stays untouched."""

    subnet: str
    backend: Backend = "nft"

    def line(self) -> str:
        return f"hairpin within {self.subnet}"


class ForwardAccept(Operation, frozen=True, tag="forward-accept"):
    """Another firewall that drops forwarded packets by default lets our bridge's pass (DOCKER-USER)."""

    link: str

    def line(self) -> str:
        return f"accept {self.link} in DOCKER-USER"


class Publish(Operation, frozen=True, tag="publish"):
    """``count`` host ports lead to a container's. host_ip "" is every local address of the family."""

    protocol: str
    host_port: int
    target_ip: str
    target_port: int
    host_ip: str = ""
    count: int = 1
    backend: Backend = "nft"

    def line(self) -> str:
        host = self.host_ip or ("[::]" if ":" in self.target_ip else "0.0.0.0")
        last = f"-{self.host_port + self.count - 1}" if self.count > 1 else ""
        target_last = f"-{self.target_port + self.count - 1}" if self.count > 1 else ""
        return (
            f"publish {self.protocol} {host}:{self.host_port}{last} to {self.target_ip}:{self.target_port}{target_last}"
        )


class AllowSource(Operation, frozen=True, tag="allow-source"):
    """Frames that enter by a link must bear this source MAC (macspoofchk)."""

    link: str
    mac: str

    def line(self) -> str:
        return f"only source {self.mac} from {self.link}"


class Bridge(Operation, frozen=True, tag="bridge"):
    """A bridge on the host, up, its MAC pinned. mtu 0 leaves the kernel's; adopted bridges stay on undo."""

    name: str
    mac: str = ""
    mtu: int = 0
    vlan_filtering: bool = False
    default_pvid: int = -1
    promiscuous: bool = False
    adopt: bool = False
    multicast_snooping: bool = True

    def line(self) -> str:
        extra = f" mtu {self.mtu}" if self.mtu else ""
        return f"{'use' if self.adopt else 'create'} bridge {self.name}{extra}"


class VlanLink(Operation, frozen=True, tag="vlan-link"):
    """The host's own end in a VLAN of a bridge, up: what carries the gateway's addresses there."""

    name: str
    bridge: str
    vlan: int
    mac: str
    mtu: int = 0

    def line(self) -> str:
        return f"host's end {self.name} in VLAN {self.vlan} of {self.bridge}"


class Veth(Operation, frozen=True, tag="veth"):
    """A veth pair: host_name here, name in the sandbox (down until LinkUp).

    handover: name is made here too, and an engine takes it away into the sandbox.
    """

    host_name: str
    name: str
    mac: str
    host_mac: str
    mtu: int = 0
    handover: bool = False

    def line(self) -> str:
        extra = f" mtu {self.mtu}" if self.mtu else ""
        where = "to be moved into the" if self.handover else "in"
        return f"veth {self.host_name} to {self.name} ({self.mac}) {where} sandbox{extra}"


class BridgePort(Operation, frozen=True, tag="bridge-port"):
    """A host link is an up port of a bridge. vlan 0 is untagged; trunk holds (first, last) ids."""

    link: str
    bridge: str
    hairpin: bool = False
    isolated: bool = False
    vlan: int = 0
    trunk: tuple[tuple[int, int], ...] = ()
    keep_default_vlan: bool = True
    learning: bool = True
    neigh_suppress: bool = False

    def line(self) -> str:
        flags = "".join(
            f" {word}"
            for word, on in (("hairpin", self.hairpin), ("isolated", self.isolated), (f"vlan {self.vlan}", self.vlan))
            if on
        )
        return f"port {self.link} of {self.bridge}{flags}"


class Macvlan(Operation, frozen=True, tag="macvlan"):
    """A macvlan on a parent. where: the namespace it lands in; parent_where: the parent's.

    handover: an engine takes it away from where it lands.
    """

    where: Where
    name: str
    parent: str
    mode: str
    mac: str
    mtu: int = 0
    bcqueuelen: int = 0
    parent_where: Where = "host"
    handover: bool = False

    def line(self) -> str:
        where = "to be moved into the sandbox" if self.handover else f"in {self.where}"
        return f"macvlan {self.name} ({self.mac}) mode {self.mode} on {self.parent} {where}"


class Ipvlan(Operation, frozen=True, tag="ipvlan"):
    """An ipvlan (mode l2, l3 or l3s) on a parent, whose MAC it shares; namespaces and handover as for Macvlan."""

    where: Where
    name: str
    parent: str
    mode: str
    mtu: int = 0
    parent_where: Where = "host"
    handover: bool = False

    def line(self) -> str:
        where = "to be moved into the sandbox" if self.handover else f"in {self.where}"
        return f"ipvlan {self.name} mode {self.mode} on {self.parent} {where}"


class Vxlan(Operation, frozen=True, tag="vxlan"):
    """A VXLAN device on the host that learns nothing; local is the VTEP's address, device carries it."""

    name: str
    vni: int
    port: int
    local: str
    device: str
    mac: str
    mtu: int = 0

    def line(self) -> str:
        return f"vxlan {self.name} vni {self.vni} port {self.port} local {self.local} on {self.device} mtu {self.mtu}"


class ForwardingEntry(Operation, frozen=True, tag="forwarding-entry"):
    """Frames for a MAC leave by a VXLAN device to a VTEP (FDB)."""

    link: str
    mac: str
    vtep: str

    def line(self) -> str:
        return f"fdb {self.mac} to {self.vtep} on {self.link}"


class Neighbour(Operation, frozen=True, tag="neighbour"):
    """A permanent neighbour: nobody need ask for its MAC."""

    where: Where
    link: str
    address: str
    mac: str

    def line(self) -> str:
        return f"neighbour {self.address} is {self.mac} on {self.link}"


class Tunnel(Operation, frozen=True, tag="tunnel"):
    """A bridge and the device that joins it to other hosts count as one network for the firewall."""

    bridge: str
    link: str
    backend: Backend = "nft"

    def line(self) -> str:
        return f"let {self.bridge} and {self.link} pass"


class KeepSource(Operation, frozen=True, tag="keep-source"):
    """Traffic within a subnet, on whatever host, is not masqueraded."""

    subnet: str
    backend: Backend = "nft"

    def line(self) -> str:
        return f"keep source addresses within {self.subnet}"


class IpsecGuard(Operation, frozen=True, tag="ipsec-guard"):
    """A UDP port of the host is for encrypted traffic alone: what no policy of a peer lets pass is dropped."""

    local: str
    port: int

    def line(self) -> str:
        return f"drop what is not encrypted of UDP port {self.port} at {self.local}"


class IpsecState(Operation, frozen=True, tag="ipsec-state"):
    """What encrypts, or decrypts, from one host to another. secret: the path of the file that holds the secret."""

    src: str
    dst: str
    spi: int
    reqid: int
    secret: str

    def line(self) -> str:
        return f"encryption from {self.src} to {self.dst} by SPI {self.spi:#x}"


class IpsecPolicy(Operation, frozen=True, tag="ipsec-policy"):
    """Traffic to a UDP port between this host and a peer must be encrypted; it leaves by the state of an SPI."""

    local: str
    peer: str
    port: int
    spi: int
    reqid: int

    def line(self) -> str:
        return f"encrypt UDP port {self.port} between {self.local} and {self.peer}, out by SPI {self.spi:#x}"


class LinkUp(Operation, frozen=True, tag="link-up"):
    """A link is up. link_local False: it gets no IPv6 address of its own making, and so sends nothing unasked."""

    where: Where
    link: str
    link_local: bool = True

    def line(self) -> str:
        return f"up {self.link} in {self.where}{'' if self.link_local else ' without link-local address'}"


class InterfaceAddress(Operation, frozen=True, tag="address"):
    """An address (CIDR) on a link; IPv6 duplicate address detection only if asked, as IPAM allocated it."""

    where: Where
    link: str
    address: str
    detect_duplicates: bool = False

    def line(self) -> str:
        return f"address {self.address} on {self.link} in {self.where}"


class InterfaceRoute(Operation, frozen=True, tag="route"):
    """A route by a link. dst is CIDR ("0.0.0.0/0" the default); via "" is on-link; zeros are unset."""

    where: Where
    link: str
    dst: str
    via: str = ""
    metric: int = 0
    mtu: int = 0
    advmss: int = 0
    table: int = 0
    scope: int = -1
    onlink: bool = False

    def line(self) -> str:
        via = f" via {self.via}" if self.via else ""
        metric = f" metric {self.metric}" if self.metric else ""
        table = f" table {self.table}" if self.table else ""
        return f"route {self.dst}{via} dev {self.link}{metric}{table} in {self.where}"


class LinkSettings(Operation, frozen=True, tag="link-settings"):
    """Settings of an existing link in the sandbox (tuning); unset fields are left alone."""

    link: str
    mac: str = ""
    mtu: int = 0
    tx_queue_length: int = 0
    promiscuous: bool | None = None
    allmulticast: bool | None = None

    def line(self) -> str:
        parts = [f"mac {self.mac}"] if self.mac else []
        parts += [f"mtu {self.mtu}"] if self.mtu else []
        parts += [f"txqlen {self.tx_queue_length}"] if self.tx_queue_length else []
        parts += [f"promisc {'on' if self.promiscuous else 'off'}"] if self.promiscuous is not None else []
        parts += [f"allmulticast {'on' if self.allmulticast else 'off'}"] if self.allmulticast is not None else []
        return f"set {self.link} {' '.join(parts)} in sandbox"


AnyOperation = (
    Forwarding
    | Sysctl
    | FirewallTable
    | BridgePolicy
    | Masquerade
    | Hairpin
    | ForwardAccept
    | Publish
    | AllowSource
    | Bridge
    | VlanLink
    | Veth
    | BridgePort
    | Macvlan
    | Ipvlan
    | Vxlan
    | ForwardingEntry
    | Neighbour
    | Tunnel
    | KeepSource
    | IpsecGuard
    | IpsecState
    | IpsecPolicy
    | LinkUp
    | InterfaceAddress
    | InterfaceRoute
    | LinkSettings
)
"""Every operation, for the store's decoder."""


class Plan(Struct, frozen=True):
    """The operations of one attachment, in order, and the result that they make true."""

    operations: tuple[AnyOperation, ...] = ()
    result: Result = Result()


class Drift(Struct, frozen=True):
    """One difference between an operation and the kernel."""

    operation: AnyOperation
    difference: str

    def line(self) -> str:
        """The difference in one line, with the operation that it belongs to."""
        return f"{self.operation.line()}: {self.difference}"


Operations = tuple[AnyOperation, ...]

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Operations] = msgspec.json.Decoder(Operations)


def encode(operations: Operations) -> bytes:
    """The record of a list of operations, as JSON."""
    return _encoder.encode(operations)


def decode(record: bytes) -> Operations:
    """The operations of a record."""
    return _decoder.decode(record)
