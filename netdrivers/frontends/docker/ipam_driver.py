"""The methods of IpamDriver (moby, libnetwork/docs/ipam.md and ipams/remote/api).

A pool's leases are in the store, and go with the boot as containers do. Pools themselves, and addresses asked for by
name (gateways, auxiliary ones, ``--ip``), are kept on disk: Docker does not ask for those of a network again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from netdrivers.errors import ConfigError, NotFound
from netdrivers.frontends.docker import pools
from netdrivers.frontends.docker.kept import DockerPool, Folder
from netdrivers.frontends.docker.networks import OUR_SPACE
from netdrivers.frontends.docker.subnets import free_subnet
from netdrivers.frontends.reading import Document, get, need
from netdrivers.ipam import ranges
from netdrivers.lifecycle import Lifecycle
from netdrivers.model import Range
from netdrivers.state import locks

LOCK = "docker pools"
REQUEST_TYPE = "RequestAddressType"
GATEWAY = "com.docker.network.gateway"

Answer = dict[str, Any]


class Here(Struct, frozen=True):
    """What a call works on. env: the service's environment."""

    env: Mapping[str, str]
    lifecycle: Lifecycle
    pools: Folder[DockerPool]


def capabilities(_: Document, __: Here) -> Answer:
    """Nothing need be replayed after dockerd's restart, as we remember; MACs do not matter."""
    return {"RequiresMACAddress": False, "RequiresRequestReplay": False}


def spaces(_: Document, __: Here) -> Answer:
    """One address space: pools of a host may not overlap."""
    return {"LocalDefaultAddressSpace": OUR_SPACE, "GlobalDefaultAddressSpace": OUR_SPACE}


def request_pool(request: Document, here: Here) -> Answer:
    """The subnet that Docker names (of a named network with the option network), or a free one; repeats are counted."""
    given = get(request, "Options", dict, {})
    for key, value in given.items():
        if key != "network":
            raise ConfigError(f"Options.{key}", value, "not an option of this IPAM driver: network=NAME is")
    space = get(request, "AddressSpace", str, "")
    if space not in ("", OUR_SPACE):
        raise ConfigError("AddressSpace", space, OUR_SPACE)
    wanted, part = get(request, "Pool", str, ""), get(request, "SubPool", str, "")
    family = 6 if ":" in wanted or get(request, "V6", bool, False) else 4
    named = get(given, "network", str, "", "Options.")
    with locks.held(here.lifecycle.store.lock_path, LOCK):
        pool = _named(named, wanted, part, family, here) if named else _own(wanted, part, family, here)
        known = here.pools.get(pool.id)
        here.pools.put(replace(known, references=known.references + 1) if known else pool)
    return {"PoolID": pool.id, "Pool": pool.subnet, "Data": {}}


def _named(name: str, wanted: str, part: str, family: int, here: Here) -> DockerPool:
    places = pools.places_of(name, here.lifecycle, here.env)
    found = [item.subnet for place in places for item in place.ranges if (":" in item.subnet) == (family == 6)]
    if not found:
        raise ConfigError("Options.network", name, f"a network with IPv{family} addresses")
    # Without a subnet Docker would refuse one that a bridge of the host has, and ask for another, for ever.
    if wanted not in found:
        raise ConfigError("Pool", wanted, f"{' or '.join(found)}, as the network {name} has", "give it with --subnet")
    if part:
        raise ConfigError("SubPool", part, f"none: the network {name} says which addresses are leased")
    return DockerPool(f"{OUR_SPACE}/{name}/{wanted}", wanted, named=name)


def _own(wanted: str, part: str, family: int, here: Here) -> DockerPool:
    if part and not wanted:
        raise ConfigError("SubPool", part, "none without a Pool")
    subnet = ranges.complete_range(Range(wanted or free_subnet(family, here.lifecycle, here.env)), "Pool").subnet
    if part:
        inside = ranges.network(part, "SubPool").cidr
        if inside not in ranges.network(subnet, "Pool"):
            raise ConfigError("SubPool", part, f"a part of {subnet}")
        part = str(inside)
    return DockerPool(f"{OUR_SPACE}/{subnet}" + (f"/{part}" if part else ""), subnet, part)


def release_pool(request: Document, here: Here) -> Answer:
    """One request less; the last one's release forgets the pool. An unknown one is released already."""
    key = need(request, "PoolID", str)
    with locks.held(here.lifecycle.store.lock_path, LOCK):
        pool = here.pools.get(key)
        if pool is not None and pool.references > 1:
            here.pools.put(replace(pool, references=pool.references - 1))
        elif pool is not None:
            with here.lifecycle.store.writing():
                here.lifecycle.store.drop_network(pools.own_name(pool))  # a named one has none of its own
            here.pools.drop(key)
    return {}


def request_address(request: Document, here: Here) -> Answer:
    """The address that Docker names, or a free one. The gateway of a named network is that network's."""
    asked = get(request, "Address", str, "")
    gateway = get(get(request, "Options", dict, {}), REQUEST_TYPE, str, "", "Options.") == GATEWAY
    with locks.held(here.lifecycle.store.lock_path, LOCK):
        key = need(request, "PoolID", str)
        pool = here.pools.get(key)
        if pool is None:
            raise NotFound(f"no pool {key}")
        place = pools.place_of(pool, here.lifecycle, here.env)
        if gateway and pool.named:
            return {"Address": _named_gateway(pool, place, asked), "Data": {}}
        with here.lifecycle.store.writing():
            leased = pools.lease(place, asked, gateway, here.lifecycle.store)
        address = leased.partition("/")[0]
        if not pool.named and gateway:
            here.pools.put(replace(pool, gateways=(*pool.gateways, address)))
        elif not pool.named and asked and address not in pool.asked:
            here.pools.put(replace(pool, asked=(*pool.asked, address)))
    return {"Address": leased, "Data": {}}


def _named_gateway(pool: DockerPool, place: pools.Place, asked: str) -> str:
    part = next(part for part in place.ranges if part.subnet == pool.subnet)
    if asked and asked != part.gateway:
        raise ConfigError("Address", asked, f"{part.gateway}, the gateway of the network {pool.named}")
    return f"{part.gateway}/{pool.subnet.partition('/')[2]}"


def release_address(request: Document, here: Here) -> Answer:
    """Freed once or twice is the same; what is not leased to Docker is not Docker's to free."""
    address = pools.unpacked(pools.packed(need(request, "Address", str)))
    with locks.held(here.lifecycle.store.lock_path, LOCK):
        pool = here.pools.get(need(request, "PoolID", str))
        if pool is None:
            return {}
        with here.lifecycle.store.writing():
            pools.release(pool, address, here.lifecycle.store)
        left = {
            "gateways": tuple(item for item in pool.gateways if item != address),
            "asked": tuple(item for item in pool.asked if item != address),
        }
        if replace(pool, **left) != pool:
            here.pools.put(replace(pool, **left))
    return {}


METHODS: dict[str, Callable[[Document, Here], Answer]] = {
    "GetCapabilities": capabilities,
    "GetDefaultAddressSpaces": spaces,
    "RequestPool": request_pool,
    "ReleasePool": release_pool,
    "RequestAddress": request_address,
    "ReleaseAddress": release_address,
}
