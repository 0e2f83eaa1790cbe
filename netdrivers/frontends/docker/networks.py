"""CreateNetwork's request as one of our networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from netdrivers.errors import ConfigError, MissingField
from netdrivers.frontends.docker import options
from netdrivers.frontends.docker.kept import DockerNetwork
from netdrivers.frontends.named import named_network
from netdrivers.frontends.reading import Document, get, need, objects
from netdrivers.model import Ipam, Network, Pool, Range, Route

OUR_SPACE = "netdrivers"
"""The address space of our own IPAM."""

NO_SPACES = ("", "null")
NO_POOLS = ("", "0.0.0.0/0", "::/0")
"""What Docker's driver "null" gives."""

DEFAULT_ROUTES = {4: "0.0.0.0/0", 6: "::/0"}


def id_of(request: Document) -> str:
    """The network that a request is about."""
    found: str = need(request, "NetworkID", str)
    return found


def network_of(request: Document, driver: str, env: Mapping[str, str]) -> DockerNetwork:
    """The network that Docker asks for. ConfigError for what is wrong; NotFound for a name that no network has."""
    asked = need(request, "Options", dict) if request.get("Options") is not None else {}
    _refuse_unknown(asked)
    ipv6 = get(asked, f"{options.PREFIX}enable_ipv6", bool, False, "Options.")
    internal = get(asked, f"{options.PREFIX}internal", bool, False, "Options.")
    key = id_of(request)
    generic = options.generic(asked)
    given = options.read(generic, driver, ipv6)
    if given.named:
        return _standing_for(request, generic, given, driver, internal, env)
    if driver == "overlay":
        raise MissingField("Options.network", "the name of a network in networks.d, which says where its hosts are")
    pools = _pools(request)
    routes: tuple[Route, ...] = ()
    if not internal:
        routes = tuple(Route(DEFAULT_ROUTES[6 if ":" in pool.ranges[0].subnet else 4]) for pool in pools)
    network = Network(
        name=f"docker-{key[:12]}",
        driver=driver,
        options={**_facts(key, driver, internal), **given.driver},
        ipam=Ipam("host-local", pools, routes=routes) if pools else Ipam(),
        firewall=given.firewall,
    )
    return DockerNetwork(key, network, False, given.prefix, given.host_ip, given.publish)


def current(kept: DockerNetwork, env: Mapping[str, str]) -> Network:
    """The network that a kept one stands for, now."""
    return named_network(kept.network.name, env) if kept.named else kept.network


def _facts(key: str, driver: str, internal: bool) -> dict[str, Any]:
    """What Docker says outside of the person's options, as a driver's keys."""
    if driver != "bridge":
        if internal:
            allowed = f"false: containers of the driver {driver} are on their parent's network"
            raise ConfigError(f"Options.{options.PREFIX}internal", True, allowed)
        return {}
    return {"bridge": f"br-{key[:12]}", "isGateway": True, "ipMasq": not internal, "internal": internal}


def _standing_for(
    request: Document, generic: Document, given: options.Options, driver: str, internal: bool, env: Mapping[str, str]
) -> DockerNetwork:
    """A network that stands for a named one: its addresses and options are that one's."""
    name = given.named
    allowed = ("network", options.IFACE_PREFIX, options.BINDING)
    others = sorted(key for key in generic if key not in allowed)
    if others:
        raise ConfigError(f"Options.{others[0]}", generic[others[0]], f"none: {name} has its own options")
    if internal:
        raise ConfigError(f"Options.{options.PREFIX}internal", True, f"false: {name} has its own options")
    network = named_network(name, env)
    if network.driver != driver:
        allowed_here = f"a network of the driver {driver}; that one is of netdrivers-{network.driver}"
        raise ConfigError("Options.network", name, allowed_here)
    for family in ("IPv4Data", "IPv6Data"):
        for i, item in enumerate(objects(request, family)):
            space = get(item, "AddressSpace", str, "", f"{family}[{i}].")
            if space not in (OUR_SPACE, *NO_SPACES):
                hint = f"use --ipam-driver null, or netdrivers-{driver} with --ipam-opt network={name} and --subnet"
                raise ConfigError(f"{family}[{i}].Pool", item.get("Pool"), f"none: {name} has its own addresses", hint)
    return DockerNetwork(id_of(request), network, True, given.prefix, given.host_ip)


def _refuse_unknown(asked: Document) -> None:
    """Docker's own words that we do not know are about what Docker does; others mean something to somebody."""
    for key, value in asked.items():
        if not key.startswith(options.PREFIX):
            raise ConfigError(f"Options.{key}", value, "not an option of a network")


def _pools(request: Document) -> tuple[Pool, ...]:
    """One pool for each family; Docker's IPAM or ours chooses the addresses, which the pool records."""
    found = []
    for family in ("IPv4Data", "IPv6Data"):
        ranges, excludes = [], []
        for i, item in enumerate(objects(request, family)):
            where = f"{family}[{i}]."
            subnet = get(item, "Pool", str, "", where)
            if subnet in NO_POOLS:
                continue
            gateway = get(item, "Gateway", str, "", where).partition("/")[0]
            ranges.append(Range(subnet, gateway=gateway))
            for key in get(item, "AuxAddresses", dict, {}, where):
                excludes.append(need(item["AuxAddresses"], key, str, f"{where}AuxAddresses.").partition("/")[0])
        if ranges:
            found.append(Pool(tuple(ranges), tuple(excludes)))
    return tuple(found)
