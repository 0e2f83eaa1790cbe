"""What several drivers share: checks of common values, the container's side of a link, results."""

from __future__ import annotations

import _socket
import re
from collections.abc import Sequence

from msgspec.structs import replace

from netdrivers.errors import ConfigError, HostLacks
from netdrivers.model import (
    Address,
    Attachment,
    Dns,
    Facts,
    Interface,
    Lease,
    Network,
    Result,
    Route,
    derived_name,
)
from netdrivers.operations import AnyOperation, InterfaceAddress, InterfaceRoute, LinkUp, Sysctl

_MAC = re.compile(r"^([0-9a-fA-F]{2})([:-][0-9a-fA-F]{2}){5}\Z")
_LINK_NAME = re.compile(r"^[^\s/:%\x00]{1,15}\Z")
LEAST_MTU, LARGEST_MTU = 68, 65535
LEAST_IPV6_MTU = 1280
IP6_RT_PRIO_USER = 1024
"""The metric of an IPv6 route that names none (linux/ipv6_route.h)."""
RT_TABLE_MAIN = 254


def check_mtu(mtu: int, field: str = "mtu", ipv6: bool = False) -> None:
    """0 (unset), or within what the kernel takes."""
    least = LEAST_IPV6_MTU if ipv6 else LEAST_MTU
    if mtu and not least <= mtu <= LARGEST_MTU:
        raise ConfigError(field, mtu, f"a number of bytes from {least} to {LARGEST_MTU}, or 0 for the default")


def checked_mac(mac: str, field: str = "mac") -> str:
    """A unicast MAC in lower-case colon form; "" stays "."""
    if not mac:
        return ""
    if not _MAC.match(mac):
        raise ConfigError(field, mac, "six bytes in hexadecimal, such as 02:00:00:00:00:01")
    plain = mac.lower().replace("-", ":")
    if int(plain[:2], 16) & 1 or plain == "00:00:00:00:00:00":
        raise ConfigError(field, mac, "a unicast MAC (the first byte even, not all zero)")
    return plain


def check_link_name(name: str, field: str) -> None:
    """A name that the kernel takes for a link (IFNAMSIZ, dev_valid_name)."""
    if not _LINK_NAME.match(name) or name in (".", ".."):
        raise ConfigError(field, name, "1 to 15 characters without spaces, '/', ':' or '%'")


def subnet_of(cidr: str) -> str:
    """The subnet of an interface address: 10.1.2.3/24 is in 10.1.2.0/24."""
    ip, _, prefix = cidr.partition("/")
    family = _socket.AF_INET6 if ":" in ip else _socket.AF_INET
    raw = _socket.inet_pton(family, ip)
    host = (1 << (len(raw) * 8 - int(prefix))) - 1
    base = (int.from_bytes(raw, "big") & ~host).to_bytes(len(raw), "big")
    return f"{_socket.inet_ntop(family, base)}/{prefix}"


def has_ipv6(network: Network) -> bool:
    """Whether the network's configuration holds IPv6."""
    texts = [part.subnet for pool in network.ipam.pools for part in pool.ranges]
    return any(":" in text for text in [*texts, *(item.address for item in network.ipam.addresses)])


def firewall_of(network: Network, facts: Facts) -> str:
    """The backend for a network: as configured, or as the host has it."""
    if network.firewall not in ("auto", "nft", "iptables"):
        raise ConfigError("firewall", network.firewall, "auto, nft or iptables")
    if network.firewall != "auto":
        return network.firewall
    if not facts.firewall:
        raise HostLacks("the host has neither nft nor iptables", "install nftables")
    return facts.firewall


def route_place(route: Route) -> tuple[str, int, int]:
    """(destination, table, metric) of a route as the kernel keeps it; there is one route in each place."""
    metric = route.priority or (IP6_RT_PRIO_USER if ":" in route.dst else 0)
    return route.dst, route.table or RT_TABLE_MAIN, metric


def routes_of(network: Network, lease: Lease, default: bool, facts: Facts) -> tuple[Route, ...]:
    """The container's routes: IPAM's, with default routes added where the driver is asked for them.

    The kernel takes one route of each metric to a destination, so that of a later network comes after.
    """
    routes = list(lease.routes)
    if default:
        for item in lease.addresses:
            dst = "::/0" if item.family == 6 else "0.0.0.0/0"
            if item.gateway and not any(route.dst == dst for route in routes):
                routes.append(Route(dst, item.gateway))
    return tuple(_behind(route, facts.taken_routes) for route in routes)


def _behind(route: Route, taken: Sequence[tuple[str, int, int]]) -> Route:
    dst, table, metric = route_place(route)
    if (dst, table, metric) not in taken:
        return route
    while (dst, table, metric) in taken:
        metric += 1
    return replace(route, priority=metric)


def container_side(
    ifname: str, lease: Lease, routes: Sequence[Route], detect_duplicates: bool = False, link_local: bool = True
) -> list[AnyOperation]:
    """Operations in the sandbox for a link that exists: IPv6 on where needed, up, addresses, routes.

    link_local False: no IPv6 address of the link's own making, unless IPAM gave it one of IPv6.
    """
    found: list[AnyOperation] = []
    ipv6 = any(item.family == 6 for item in lease.addresses)
    if ipv6:
        found.append(Sysctl("sandbox", f"net/ipv6/conf/{ifname}/disable_ipv6", "0"))
    found.append(LinkUp("sandbox", ifname, link_local or ipv6))
    for item in lease.addresses:
        found.append(InterfaceAddress("sandbox", ifname, item.address, detect_duplicates))
    for route in routes:
        found.append(_route(ifname, route, lease))
    return found


def _route(ifname: str, route: Route, lease: Lease) -> InterfaceRoute:
    family = 6 if ":" in route.dst else 4
    via = route.via
    if not via and route.scope < 0:
        via = next((item.gateway for item in lease.addresses if item.gateway and item.family == family), "")
    return InterfaceRoute(
        "sandbox",
        ifname,
        route.dst,
        via,
        metric=route.priority,
        mtu=route.mtu,
        advmss=route.advmss,
        table=route.table,
        scope=route.scope,
    )


def container_link(network: Network, attachment: Attachment) -> str:
    """The name under which the container's link is made: its own, or one of the host's for an engine to take."""
    if attachment.handover:
        return derived_name("ndct", network.name, attachment.container, attachment.ifname)
    return attachment.ifname


def result_of(
    network: Network,
    attachment: Attachment,
    lease: Lease,
    routes: Sequence[Route],
    host_links: Sequence[Interface],
    mac: str,
    mtu: int = 0,
) -> Result:
    """The result of an attachment whose container link comes after the host's links."""
    own = Interface(container_link(network, attachment), mac, attachment.netns, mtu)
    index = len(host_links)
    addresses = tuple(Address(item.address, item.gateway, index) for item in lease.addresses)
    return Result((*host_links, own), addresses, tuple(routes), merged_dns(network.dns, lease.dns))


def merged_dns(network: Dns, lease: Dns) -> Dns:
    """The network's own resolver settings, else IPAM's."""
    return network if network != Dns() else lease
