"""Ranges of addresses: complete and check a pool's configuration, and the spans that may be leased; pure.

netaddr does the arithmetic. This runs when a network is new or has changed, not at every add.
"""

from __future__ import annotations

from collections.abc import Iterable

from netaddr import AddrFormatError, IPAddress, IPNetwork, IPRange, IPSet

from netdrivers.errors import ConfigError
from netdrivers.model import Ipam, LeasedAddress, Pool, Range, Route

Span = tuple[bytes, bytes]
"""First and last address, packed, both included."""


def network(text: str, field: str) -> IPNetwork:
    """A subnet in CIDR form. ConfigError naming the field."""
    try:
        if "/" not in str(text):
            raise ValueError
        return IPNetwork(str(text))
    except (AddrFormatError, ValueError):
        raise ConfigError(field, text, "a subnet in CIDR form, such as 10.1.0.0/24 or fd00:1::/64") from None


def address(text: str, field: str) -> IPAddress:
    """An address. ConfigError naming the field."""
    try:
        return IPAddress(str(text))
    except (AddrFormatError, ValueError):
        raise ConfigError(field, text, "an IP address, such as 10.1.0.1 or fd00:1::1") from None


def complete_range(given: Range, field: str) -> Range:
    """Fill in start, end and gateway as host-local does, and check that all lie in the subnet.

    The gateway defaults to the subnet's first address, the range to all addresses but the network's
    own and the broadcast address. A /31 (/127) has no room for a gateway and two hosts.
    """
    subnet = network(given.subnet, f"{field}.subnet")
    if subnet.ip != subnet.network:
        raise ConfigError(f"{field}.subnet", given.subnet, f"a subnet without host bits, such as {subnet.cidr}")
    if subnet.size < 4:
        raise ConfigError(f"{field}.subnet", given.subnet, "a subnet of at least four addresses (/30 or /126)")
    first, last = subnet.first + 1, subnet.last - (1 if subnet.version == 4 else 0)

    def inside(text: str, name: str, low: int, high: int) -> int:
        value = address(text, f"{field}.{name}")
        if value.version != subnet.version or not low <= int(value) <= high:
            allowed = f"an address from {IPAddress(low, subnet.version)} to {IPAddress(high, subnet.version)}"
            raise ConfigError(f"{field}.{name}", text, allowed)
        return int(value)

    gateway = inside(given.gateway, "gateway", subnet.first, subnet.last) if given.gateway else subnet.first + 1
    start = inside(given.start, "rangeStart", first, last) if given.start else first
    end = inside(given.end, "rangeEnd", start, last) if given.end else last
    texts = (str(IPAddress(value, subnet.version)) for value in (start, end, gateway))
    return Range(str(subnet.cidr), *texts)


def complete_pool(pool: Pool, field: str) -> Pool:
    """Complete each range; all of one family, none overlapping another."""
    ranges = tuple(complete_range(r, f"{field}[{i}]") for i, r in enumerate(pool.ranges))
    if not ranges:
        raise ConfigError(field, [], "at least one range")
    spans = [IPRange(r.start, r.end) for r in ranges]
    for i, span in enumerate(spans):
        if span.version != spans[0].version:
            raise ConfigError(f"{field}[{i}].subnet", ranges[i].subnet, f"of one family with {ranges[0].subnet}")
        for j in range(i):
            if span.first <= spans[j].last and spans[j].first <= span.last:
                raise ConfigError(f"{field}[{i}]", str(span), f"apart from range {spans[j]} of the same set")
    for exclude in pool.excludes:
        excluded(exclude, f"{field}.excludes")
    return Pool(ranges, pool.excludes)


def excluded(text: str, field: str) -> IPSet:
    """Excluded addresses: one address, a CIDR, or first-last."""
    first, dash, last = text.partition("-")
    if dash:
        low, high = address(first, field), address(last, field)
        if low.version != high.version or low > high:
            raise ConfigError(field, text, "a range first-last of one family")
        return IPSet(IPRange(low, high))
    return IPSet([network(text, field) if "/" in text else address(text, field)])


def complete(ipam: Ipam) -> Ipam:
    """The IPAM configuration with everything filled in and checked."""
    pools = tuple(complete_pool(pool, f"ipam.ranges[{i}]") for i, pool in enumerate(ipam.pools))
    subnets = [(i, IPNetwork(r.subnet)) for i, pool in enumerate(pools) for r in pool.ranges]
    for i, left in subnets:
        for j, right in subnets:
            if i < j and left.first <= right.last and right.first <= left.last and left.version == right.version:
                raise ConfigError("ipam.ranges", str(right.cidr), f"apart from {left.cidr} of another range set")
    for i, route in enumerate(ipam.routes):
        check_route(route, f"ipam.routes[{i}]")
    addresses = tuple(_static(item, f"ipam.addresses[{i}]") for i, item in enumerate(ipam.addresses))
    if ipam.kind == "host-local" and not pools:
        raise ConfigError("ipam.ranges", [], "at least one range set (or a subnet)")
    return Ipam(ipam.kind, pools, addresses, ipam.routes, ipam.dns, ipam.plugin)


def _static(item: LeasedAddress, field: str) -> LeasedAddress:
    subnet = network(item.address, f"{field}.address")
    if item.gateway:
        gateway = address(item.gateway, f"{field}.gateway")
        if gateway.version != subnet.version:
            raise ConfigError(f"{field}.gateway", item.gateway, f"an IPv{subnet.version} address, as {item.address} is")
    return LeasedAddress(f"{subnet.ip}/{subnet.prefixlen}", item.gateway)


def check_route(route: Route, field: str) -> None:
    """A route's destination and gateway are of one family."""
    dst = network(route.dst, f"{field}.dst")
    if route.via and address(route.via, f"{field}.gw").version != dst.version:
        raise ConfigError(f"{field}.gw", route.via, f"an IPv{dst.version} address, as {route.dst} is")


def spans(pool: Pool) -> list[Span]:
    """What may be leased from a completed pool: its ranges without gateways and excludes, in order."""
    allowed = IPSet()
    for part in pool.ranges:
        allowed.update(IPSet(IPRange(part.start, part.end)))
    for part in pool.ranges:
        allowed.remove(IPAddress(part.gateway))
    for i, text in enumerate(pool.excludes):
        allowed -= excluded(text, f"excludes[{i}]")
    width = 16 if ":" in pool.ranges[0].subnet else 4
    return [(r.first.to_bytes(width, "big"), r.last.to_bytes(width, "big")) for r in allowed.iter_ipranges()]


def overlap(subnet: str, others: Iterable[str]) -> str | None:
    """The first of some subnets that shares an address with this one."""
    own = IPNetwork(subnet)
    for text in others:
        other = IPNetwork(text)
        if other.version == own.version and own.first <= other.last and other.first <= own.last:
            return text
    return None
