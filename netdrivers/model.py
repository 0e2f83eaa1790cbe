"""The nouns: Network, Attachment, Lease, PortMapping, Facts, Result; frozen, typed, without I/O.

Addresses are text ("10.1.2.3"), interface addresses and subnets are CIDR text ("10.1.2.3/24"),
MACs are lower-case colon text; MTUs are bytes.
"""

from __future__ import annotations

from _blake2 import blake2b  # hashlib would load OpenSSL: 2 ms of every call
from typing import Any, Literal

from msgspec import Struct

Where = Literal["host", "sandbox"]
"""Which network namespace something is in: the host's (the caller's) or the container's."""


class PortMapping(Struct, frozen=True, omit_defaults=True):
    """Publish ``count`` consecutive host ports to as many container ports.

    protocol: tcp, udp or sctp. host_ip "" means every address of both families.
    """

    protocol: str
    host_port: int
    container_port: int
    host_ip: str = ""
    count: int = 1

    def __str__(self) -> str:
        def ports(first: int) -> str:
            return str(first) if self.count == 1 else f"{first}-{first + self.count - 1}"

        host = f"[{self.host_ip}]:" if ":" in self.host_ip else f"{self.host_ip}:" if self.host_ip else ""
        return f"{host}{ports(self.host_port)}->{ports(self.container_port)}/{self.protocol}"


class Route(Struct, frozen=True, omit_defaults=True):
    """A route of the container (CNI spec, Result.routes). via "" means the address's own gateway."""

    dst: str
    via: str = ""
    mtu: int = 0
    advmss: int = 0
    priority: int = 0
    table: int = 0
    scope: int = -1


class Range(Struct, frozen=True, omit_defaults=True):
    """Part of a subnet to lease from; start, end and gateway are filled in by validation."""

    subnet: str
    start: str = ""
    end: str = ""
    gateway: str = ""


class Pool(Struct, frozen=True, omit_defaults=True):
    """One address for each attachment comes from one pool: ranges of one family, in order."""

    ranges: tuple[Range, ...]
    excludes: tuple[str, ...] = ()


class Dns(Struct, frozen=True, omit_defaults=True):
    """What a resolver in the container should be told."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class LeasedAddress(Struct, frozen=True, omit_defaults=True):
    """One address of an attachment, with its prefix length, and its gateway ("" for none)."""

    address: str
    gateway: str = ""

    @property
    def ip(self) -> str:
        """The address without its prefix length."""
        return self.address.partition("/")[0]

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.address else 4


class Lease(Struct, frozen=True, omit_defaults=True):
    """What IPAM gave to one attachment."""

    addresses: tuple[LeasedAddress, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = Dns()


class Ipam(Struct, frozen=True, omit_defaults=True):
    """How addresses are chosen.

    kind: "host-local" (pools, ours), "static" (addresses as given), "delegated" (an executable
    named ``plugin`` on the CNI path), "none".
    """

    kind: str = "none"
    pools: tuple[Pool, ...] = ()
    addresses: tuple[LeasedAddress, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = Dns()
    plugin: str = ""


class Network(Struct, frozen=True, omit_defaults=True):
    """A named network: which driver, with which options (the driver's own keys), and its IPAM.

    firewall: "auto", "nft" or "iptables".
    """

    name: str
    driver: str
    options: dict[str, Any] = {}
    ipam: Ipam = Ipam()
    dns: Dns = Dns()
    firewall: str = "auto"


class Interface(Struct, frozen=True, omit_defaults=True):
    """An interface of a result; sandbox is the namespace's path, "" for the host."""

    name: str
    mac: str = ""
    sandbox: str = ""
    mtu: int = 0


class Address(Struct, frozen=True, omit_defaults=True):
    """An address of a result; interface indexes Result.interfaces, -1 for none."""

    address: str
    gateway: str = ""
    interface: int = -1


class Result(Struct, frozen=True, omit_defaults=True):
    """What an add made, in no engine's format."""

    interfaces: tuple[Interface, ...] = ()
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = Dns()


class Attachment(Struct, frozen=True, omit_defaults=True):
    """One container's interface on one network, as asked for.

    netns: path of the namespace ("" when unknown, as in a late DEL). addresses: CIDR or bare
    addresses asked for. engine, label and aliases are for people and for name resolution.
    options: a driver's keys for this attachment alone (bridge: hostInterfaceName, the host's end).
    standby: ports that another attachment of the same container publishes, taken over when it leaves.
    keepers: names of the engine's processes that hold published ports open, so that nobody else listens.
    previous: the result of the plugin before us in a chain, if any. handover: the engine itself moves
    the container's link from the host into the namespace, and configures it there (Docker).
    origin: the name of the CNI configuration that asked for it, whose GC may remove it; "" for others.
    """

    network: str
    driver: str
    container: str
    ifname: str
    netns: str = ""
    mac: str = ""
    addresses: tuple[str, ...] = ()
    ports: tuple[PortMapping, ...] = ()
    engine: str = ""
    label: str = ""
    aliases: tuple[str, ...] = ()
    options: dict[str, Any] = {}
    keepers: tuple[str, ...] = ()
    previous: Result | None = None
    handover: bool = False
    standby: tuple[PortMapping, ...] = ()
    origin: str = ""

    @property
    def key(self) -> str:
        """What the store knows the attachment by."""
        return f"{self.network}/{self.container}/{self.ifname}/{self.driver}"


class LinkFact(Struct, frozen=True, omit_defaults=True):
    """A link of the host. kind is IFLA_INFO_KIND ("" for hardware); vni and port are a VXLAN device's.

    vlan_filtering is a bridge's.
    """

    name: str
    index: int
    kind: str = ""
    mtu: int = 0
    mac: str = ""
    up: bool = False
    loopback: bool = False
    master: int = 0
    vni: int = 0
    port: int = 0
    vlan_filtering: bool = False


class RouteFact(Struct, frozen=True, omit_defaults=True):
    """A route of the host's main table; dst "" is a default route."""

    dst: str
    link: str
    metric: int = 0
    gateway: str = ""


class AddressFact(Struct, frozen=True, omit_defaults=True):
    """An address of the host, as CIDR."""

    link: str
    address: str


class Facts(Struct, frozen=True, omit_defaults=True):
    """What planning may know of the host; gathered by the kernel room, only what was asked for.

    same_namespace: the attachment's namespace is the host's own. taken_routes: (destination, table,
    metric) of the routes that the container has by its other networks. no_encryption: what the kernel
    lacks to encrypt between hosts, over IPv4 and over IPv6.
    """

    links: tuple[LinkFact, ...] = ()
    routes: tuple[RouteFact, ...] = ()
    addresses: tuple[AddressFact, ...] = ()
    firewall: str = "nft"
    docker_user: bool = False
    same_namespace: bool = False
    ipv6: bool = True
    no_encryption: tuple[str, str] = ("", "")
    taken_routes: tuple[tuple[str, int, int], ...] = ()

    def link(self, name: str) -> LinkFact | None:
        """The host's link of that name."""
        return next((link for link in self.links if link.name == name), None)

    def default_link(self) -> LinkFact | None:
        """The device of the default route with the lowest metric, IPv4 before IPv6."""
        for family in (4, 6):
            found = [r for r in self.routes if r.dst == "" and (":" in r.gateway) == (family == 6)]
            for route in sorted(found, key=lambda r: r.metric):
                link = self.link(route.link)
                if link:
                    return link
        return None


class FactsQuery(Struct, frozen=True):
    """Which facts a driver wants: each costs a dump, so none is gathered unasked.

    links: dump links; names of links looked up one by one; routes; addresses; firewall state;
    encryption: what is lacking for it.
    """

    links: bool = False
    names: tuple[str, ...] = ()
    routes: bool = False
    addresses: bool = False
    firewall: bool = False
    encryption: bool = False


def digest(*parts: str) -> bytes:
    """A stable hash of the parts, for names and addresses derived from them."""
    return blake2b("\0".join(parts).encode(), digest_size=32).digest()


def derived_mac(*parts: str) -> str:
    """A locally administered unicast MAC, the same for the same parts."""
    raw = digest("mac", *parts)
    return ":".join(f"{byte:02x}" for byte in (0x02, *raw[:5]))


def derived_name(prefix: str, *parts: str) -> str:
    """An interface name of at most 15 bytes (IFNAMSIZ - 1), the same for the same parts."""
    return prefix + digest("name", *parts).hex()[: 15 - len(prefix)]
