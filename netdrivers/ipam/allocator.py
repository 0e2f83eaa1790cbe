"""Lease addresses from a network's pools: host-local's semantics (next-fit with wrap-around) on the store."""

from __future__ import annotations

import _socket
from typing import Protocol

from netdrivers.errors import AddressTaken, ConfigError, Exhausted
from netdrivers.model import Lease, LeasedAddress, Network, Pool, Range


class LeaseStore(Protocol):
    """What the allocator asks of the store, inside one write transaction."""

    def next_free(self, network: str, pool: int) -> bytes | None:
        """The free address after the last one leased from a pool, wrapping around; None when full."""

    def take(self, network: str, pool: int, address: bytes, owner: str) -> str | None:
        """Lease one address; the owner's key when somebody holds it, None when it is ours now.

        pool -1 is an address of no pool.
        """


def _packed(text: str, field: str) -> bytes:
    try:
        return _socket.inet_pton(_socket.AF_INET6 if ":" in text else _socket.AF_INET, text)
    except (OSError, ValueError):
        raise ConfigError(field, text, "an IP address") from None


def _text(raw: bytes) -> str:
    return _socket.inet_ntop(_socket.AF_INET6 if len(raw) == 16 else _socket.AF_INET, raw)


def _holds(part: Range, raw: bytes) -> bool:
    base, _, prefix = part.subnet.partition("/")
    own = _packed(base, "subnet")
    shift = len(own) * 8 - int(prefix)
    return len(own) == len(raw) and int.from_bytes(own, "big") >> shift == int.from_bytes(raw, "big") >> shift


def _place(network: Network, raw: bytes) -> tuple[int, Range] | None:
    """The pool and range whose subnet holds an address."""
    for index, pool in enumerate(network.ipam.pools):
        for part in pool.ranges:
            if _holds(part, raw):
                return index, part
    return None


def _reserved(part: Range) -> tuple[bytes, ...]:
    """The subnet's own address (IPv6: of all its routers) and its broadcast address."""
    base, _, prefix = part.subnet.partition("/")
    first = _packed(base, "subnet")
    last = int.from_bytes(first, "big") | (1 << (len(first) * 8 - int(prefix))) - 1
    return (first, last.to_bytes(4, "big")) if len(first) == 4 else (first,)


def _leased(part: Range, raw: bytes) -> LeasedAddress:
    return LeasedAddress(f"{_text(raw)}/{part.subnet.partition('/')[2]}", part.gateway)


def _range_of(pool: Pool, raw: bytes) -> Range:
    return next(part for part in pool.ranges if _holds(part, raw))


def allocate(network: Network, requested: tuple[str, ...], owner: str, store: LeaseStore) -> Lease:
    """One address from each pool, the requested ones where given. Runs in the store's write transaction.

    Exhausted names the pool's ranges, AddressTaken the holder, ConfigError an address of no subnet.
    """
    ipam = network.ipam
    if ipam.kind == "static":
        return _static(network, requested, owner, store)
    wanted: dict[int, list[tuple[Range, bytes]]] = {}
    for text in dict.fromkeys(requested):
        raw = _packed(text.partition("/")[0], "requested address")
        place = _place(network, raw)
        if place is None:
            subnets = ", ".join(part.subnet for pool in ipam.pools for part in pool.ranges)
            raise ConfigError("requested address", text, f"an address of {subnets}")
        if raw in _reserved(place[1]):
            raise ConfigError("requested address", text, f"an address of {place[1].subnet} that a host may have")
        wanted.setdefault(place[0], []).append((place[1], raw))
    found: list[LeasedAddress] = []
    for index, pool in enumerate(ipam.pools):
        for part, raw in wanted.get(index, ()):
            if raw == _packed(part.gateway, "gateway"):
                raise AddressTaken(f"requested address: {_text(raw)} is the gateway of {part.subnet}")
            _take(network, index, raw, owner, store)
            found.append(_leased(part, raw))
        if index in wanted:
            continue
        free = store.next_free(network.name, index)
        if free is None:
            ranges = ", ".join(f"{part.start}-{part.end}" for part in pool.ranges)
            raise Exhausted(
                f"no free address in {ranges} of network {network.name}", "netctl gc removes stale attachments"
            )
        _take(network, index, free, owner, store)
        found.append(_leased(_range_of(pool, free), free))
    return Lease(tuple(found), ipam.routes, ipam.dns)


def _take(network: Network, pool: int, raw: bytes, owner: str, store: LeaseStore) -> None:
    holder = store.take(network.name, pool, raw, owner)
    if holder is not None:
        raise AddressTaken(f"address {_text(raw)} of network {network.name} is leased to {holder}")


def _static(network: Network, requested: tuple[str, ...], owner: str, store: LeaseStore) -> Lease:
    """The configured addresses, and those requested in CIDR form; recorded so that two cannot hold one."""
    found = list(network.ipam.addresses)
    for text in dict.fromkeys(requested):
        ip, slash, prefix = text.partition("/")
        raw = _packed(ip, "requested address")
        if not slash or not prefix.isdigit() or int(prefix) > len(raw) * 8:
            raise ConfigError("requested address", text, "an address in CIDR form, such as 10.1.0.5/24")
        found.append(LeasedAddress(text))
    for item in found:
        _take(network, -1, _packed(item.ip, "ipam.addresses"), owner, store)
    return Lease(tuple(found), network.ipam.routes, network.ipam.dns)


def record_given(network: Network, lease: Lease, owner: str, store: LeaseStore) -> None:
    """Record addresses that a foreign IPAM chose, so that listing and overlaps know them."""
    for item in lease.addresses:
        _take(network, -1, _packed(item.ip, "ips"), owner, store)
