"""Podman's network (the JSON of ``podman network inspect``) as one of ours. Source: netavark, types.rs, Network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from netdrivers.errors import ConfigError, MissingField
from netdrivers.frontends.named import named_network
from netdrivers.frontends.netavark import options
from netdrivers.frontends.reading import Document, check_name, get, need, objects, strings
from netdrivers.model import Dns, Ipam, Network, Pool, Range, Route

DEFAULT_ROUTES = {4: "0.0.0.0/0", 6: "::/0"}


def name_of(document: Document, where: str = "network.") -> str:
    """The name that we know a network by: its own, or that of the named network that it stands for."""
    given = get(document, "options", dict, {}, where)
    named = get(given, "network", str, "", f"{where}options.")
    return check_name(named or need(document, "name", str, where), f"{where}name")


def network_of(document: Document, driver: str, env: Mapping[str, str], where: str = "network.") -> Network:
    """The network of a driver. ConfigError for what is wrong; NotFound when it stands for a named one that is not."""
    given = options.read(get(document, "options", dict, {}, where), driver, f"{where}options.")
    if given.network:
        named = named_network(given.network, env)
        if named.driver != driver:
            allowed = f"a network of the driver {driver}; that one is of netdrivers-{named.driver}"
            raise ConfigError(f"{where}options.network", given.network, allowed)
        return named
    if driver != "bridge" and driver not in options.ON_PARENT:
        raise MissingField(f"{where}options.network", f"a named network of the driver {driver} (--opt network=NAME)")
    internal = get(document, "internal", bool, False, where)
    return Network(
        name=name_of(document, where),
        driver=driver,
        options={**_facts(document, driver, given, internal, where), **given.driver},
        ipam=_ipam(document, given, internal, where),
        dns=Dns(strings(document, "network_dns_servers", where)),
        firewall=given.firewall,
    )


def _facts(document: Document, driver: str, given: options.Options, internal: bool, where: str) -> dict[str, Any]:
    """What Podman says outside of the options, as a driver's keys. netavark leaves a plugin's names to the plugin."""
    interface = get(document, "network_interface", str, "", where)
    if driver == "bridge":
        found: dict[str, Any] = {"isGateway": True, "ipMasq": not internal}
        if interface:
            found["bridge"] = interface
        if internal:
            found["internal"] = True
        if get(document, "dns_enabled", bool, False, where) and not given.driver.get("unmanaged"):
            found["names"] = True
        return found
    return {"master": interface} if interface else {}


def _ipam(document: Document, given: options.Options, internal: bool, where: str) -> Ipam:
    """One pool for each subnet: Podman's IPAM chooses the address, which the pool records."""
    kind = get(get(document, "ipam_options", dict, {}, where), "driver", str, "", f"{where}ipam_options.")
    if kind not in ("", "host-local", "none"):
        raise ConfigError(f"{where}ipam_options.driver", kind, "host-local or none")
    subnets = [range_of(item, f"{where}subnets[{i}].") for i, item in enumerate(objects(document, "subnets", where))]
    if not subnets:
        return Ipam()
    routes = [_route(item, f"{where}routes[{i}].") for i, item in enumerate(objects(document, "routes", where))]
    if given.default_route and not internal:
        routes += _default_routes(subnets, given.metric)
    return Ipam("host-local", tuple(Pool((subnet,)) for subnet in subnets), routes=tuple(routes))


def range_of(item: Document, where: str) -> Range:
    """A subnet with its gateway and the part of it that is leased from; "" for what is not said."""
    leased = get(item, "lease_range", dict, {}, where)
    return Range(
        need(item, "subnet", str, where),
        get(leased, "start_ip", str, "", f"{where}lease_range."),
        get(leased, "end_ip", str, "", f"{where}lease_range."),
        get(item, "gateway", str, "", where),
    )


def _default_routes(subnets: list[Range], metric: int) -> list[Route]:
    """By the first gateway of each family."""
    found: dict[int, Route] = {}
    for item in subnets:
        family = 6 if ":" in item.subnet else 4
        if item.gateway:
            found.setdefault(family, Route(DEFAULT_ROUTES[family], item.gateway, priority=metric))
    return list(found.values())


def _route(item: Document, where: str) -> Route:
    kind = get(item, "route_type", str, "unicast", where)
    if kind != "unicast":
        raise ConfigError(f"{where}route_type", kind, "unicast")
    return Route(
        need(item, "destination", str, where),
        get(item, "gateway", str, "", where),
        priority=get(item, "metric", int, options.DEFAULT_METRIC, where),
    )
