"""Leases of Docker's pools in the store, beside those of attachments."""

from __future__ import annotations

import _socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from msgspec import Struct

from netdrivers.errors import AddressTaken, ConfigError, Exhausted
from netdrivers.frontends.docker.kept import DockerPool
from netdrivers.frontends.named import named_network
from netdrivers.ipam import ranges
from netdrivers.lifecycle import Lifecycle
from netdrivers.model import Attachment, Range
from netdrivers.state.store import Store

LEASED, GATEWAY, BEFORE = "leased", "gateway", "before"
"""What a lease is: an endpoint's (or an auxiliary address), the pool's gateway, or asked for before the last boot."""


class Place(Struct, frozen=True):
    """Where leases are in the store: under which network's name, in which of its pools; and the ranges there."""

    network: str
    index: int
    ranges: tuple[Range, ...]


def packed(address: str) -> bytes:
    """The bytes of an address. ConfigError."""
    try:
        return _socket.inet_pton(_socket.AF_INET6 if ":" in address else _socket.AF_INET, address)
    except (OSError, ValueError):
        raise ConfigError("Address", address, "an IP address") from None


def unpacked(raw: bytes) -> str:
    """The address of some bytes."""
    return _socket.inet_ntop(_socket.AF_INET6 if len(raw) == 16 else _socket.AF_INET, raw)


def places_of(name: str, lifecycle: Lifecycle, env: Mapping[str, str]) -> list[Place]:
    """The places of a named network's own pools, ready to lease from. NotFound, and what its making raises."""
    network = lifecycle.networks.ensure(named_network(name, env)).record.network
    return [Place(network.name, index, pool.ranges) for index, pool in enumerate(network.ipam.pools)]


def place_of(pool: DockerPool, lifecycle: Lifecycle, env: Mapping[str, str]) -> Place:
    """Where a pool's addresses are leased, ready to lease from. The caller may not be writing yet."""
    if pool.named:
        for place in places_of(pool.named, lifecycle, env):
            if any(part.subnet == pool.subnet for part in place.ranges):
                return place
        raise ConfigError("PoolID", pool.id, f"a pool of the network {pool.named}, whose subnets have changed")
    place = Place(own_name(pool), 0, (Range(pool.subnet),))
    if not lifecycle.store.pool_spans(place.network, 0):
        _restore(pool, place, lifecycle.store)
    return place


def own_name(pool: DockerPool) -> str:
    """The name of a pool's leases in the store."""
    return f"docker pool {pool.id}"


def _restore(pool: DockerPool, place: Place, store: Store) -> None:
    """A pool that the store does not know: new, or kept since an earlier boot."""
    with store.writing():
        store.set_pool(place.network, 0, spans(pool))
        for kind, addresses in ((GATEWAY, pool.gateways), (BEFORE, pool.asked)):
            for address in addresses:
                store.take(place.network, 0, packed(address), _owner(kind, place.network, address))


def spans(pool: DockerPool) -> list[ranges.Span]:
    """What may be chosen: the hosts of the subnet that are in its part."""
    subnet = ranges.network(pool.subnet, "Pool")
    first, last = subnet.first + 1, subnet.last - (1 if subnet.version == 4 else 0)
    if pool.part:
        part = ranges.network(pool.part, "SubPool")
        first, last = max(first, part.first), min(last, part.last)
    width = 4 if subnet.version == 4 else 16
    return [(first.to_bytes(width, "big"), last.to_bytes(width, "big"))]


def lease(place: Place, asked: str, gateway: bool, store: Store) -> str:
    """Lease the address asked for, or a free one for ""; with its prefix length. In the store's write transaction."""
    if asked:
        raw = packed(asked)
    else:
        free = store.next_free(place.network, place.index)
        if free is None:
            raise Exhausted(f"no free address in {', '.join(part.subnet for part in place.ranges)}")
        raw = free
    address = unpacked(raw)
    prefix = _prefix(place, address)
    if any(part.gateway == address for part in place.ranges):
        raise AddressTaken(f"address {address} is the gateway of {place.network}")
    owner = _owner(GATEWAY if gateway else LEASED, place.network, address)
    holder = store.holder(place.network, raw)
    if holder is None:
        store.take(place.network, place.index, raw, owner)
    elif holder == _owner(BEFORE, place.network, address):
        store.hand_lease(place.network, raw, owner)
    else:
        raise AddressTaken(f"address {address} is leased already")
    return f"{address}/{prefix}"


def release(pool: DockerPool, address: str, store: Store) -> None:
    """Free an address that we leased to Docker; one that an attachment has by now stays. In a write transaction."""
    name = pool.named or own_name(pool)
    holder = store.holder(name, packed(address))
    ours = {_owner(kind, name, address) for kind in (LEASED, GATEWAY, BEFORE)}
    if holder is not None and holder in ours:
        store.release(holder)


@contextmanager
def take_over(attachment: Attachment, store: Store) -> Iterator[None]:
    """Addresses of a named network that were leased to Docker for an attachment are its own from now on.

    If the block fails they are as they were.
    """
    name = attachment.network
    wanted = [unpacked(packed(address.partition("/")[0])) for address in attachment.addresses]
    with store.writing():
        moved = [item for item in wanted if store.holder(name, packed(item)) == _owner(LEASED, name, item)]
        for item in moved:
            store.hand_lease(name, packed(item), attachment.key)
    try:
        yield
    except BaseException:
        with store.writing():
            for item in moved:
                if store.holder(name, packed(item)) == attachment.key:
                    store.hand_lease(name, packed(item), _owner(LEASED, name, item))
        raise


def _prefix(place: Place, address: str) -> int:
    """The prefix length of the range whose subnet holds an address. ConfigError."""
    for part in place.ranges:
        subnet = ranges.network(part.subnet, "Pool")
        low, high = subnet.first + 1, subnet.last - (1 if subnet.version == 4 else 0)
        value = ranges.address(address, "Address")
        if value.version == subnet.version and low <= int(value) <= high:
            return int(subnet.prefixlen)
    allowed = f"an address of a host in {' or '.join(part.subnet for part in place.ranges)}"
    raise ConfigError("Address", address, allowed)


def _owner(kind: str, network: str, address: str) -> str:
    return f"docker {kind} {network} {address}"
