"""Results in each spec version's form, and back (spec, section 5)."""

from __future__ import annotations

from typing import Any

from netdrivers.errors import VersionError
from netdrivers.frontends.reading import Document, get, need, objects, strings
from netdrivers.model import Address, Dns, Interface, Result, Route

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")


def checked_version(version: str) -> str:
    """A version that we speak. VersionError names those that there are."""
    if version not in VERSIONS:
        raise VersionError(f"cniVersion: {version!r} is not supported: one of {', '.join(VERSIONS)}")
    return version


def at_least(version: str, other: str) -> bool:
    """Whether one of our versions is another or later."""
    return VERSIONS.index(version) >= VERSIONS.index(other)


def format_result(result: Result, version: str) -> dict[str, Any]:
    """A result in the form of a spec version."""
    if not at_least(version, "0.3.0"):
        return _first_form(result, version)
    document: dict[str, Any] = {"cniVersion": version}
    if result.interfaces:
        document["interfaces"] = [_interface(item, version) for item in result.interfaces]
    document["ips"] = [_address(item, version) for item in result.addresses]
    document["routes"] = [_route(route, version) for route in result.routes]
    document["dns"] = _dns(result.dns)
    return document


def _interface(item: Interface, version: str) -> dict[str, Any]:
    document: dict[str, Any] = {"name": item.name}
    if item.mac:
        document["mac"] = item.mac
    if item.mtu and at_least(version, "1.1.0"):
        document["mtu"] = item.mtu
    if item.sandbox:
        document["sandbox"] = item.sandbox
    return document


def _address(item: Address, version: str) -> dict[str, Any]:
    document: dict[str, Any] = {"address": item.address}
    if not at_least(version, "1.0.0"):
        document["version"] = "6" if ":" in item.address else "4"
    if item.gateway:
        document["gateway"] = item.gateway
    if item.interface >= 0:
        document["interface"] = item.interface
    return document


def _route(route: Route, version: str) -> dict[str, Any]:
    document: dict[str, Any] = {"dst": route.dst}
    if route.via:
        document["gw"] = route.via
    if at_least(version, "1.1.0"):
        for key in ("mtu", "advmss", "priority", "table"):
            if getattr(route, key):
                document[key] = getattr(route, key)
        if route.scope >= 0:
            document["scope"] = route.scope
    return document


def _dns(dns: Dns) -> dict[str, Any]:
    document: dict[str, Any] = {}
    if dns.nameservers:
        document["nameservers"] = list(dns.nameservers)
    if dns.domain:
        document["domain"] = dns.domain
    if dns.search:
        document["search"] = list(dns.search)
    if dns.options:
        document["options"] = list(dns.options)
    return document


def _first_form(result: Result, version: str) -> dict[str, Any]:
    """0.1.0 and 0.2.0: one address of each family, with its routes."""
    document: dict[str, Any] = {"cniVersion": version}
    for item in result.addresses:
        key = "ip6" if ":" in item.address else "ip4"
        if key in document:
            continue
        entry: dict[str, Any] = {"ip": item.address}
        if item.gateway:
            entry["gateway"] = item.gateway
        routes = [_route(r, version) for r in result.routes if (":" in r.dst) == (key == "ip6")]
        if routes:
            entry["routes"] = routes
        document[key] = entry
    document["dns"] = _dns(result.dns)
    return document


def parse_result(document: Document, where: str = "prevResult.") -> Result:
    """A result of any version; ConfigError names what is mistyped."""
    interfaces = tuple(
        Interface(
            need(item, "name", str, f"{where}interfaces[{i}]."),
            get(item, "mac", str, "", f"{where}interfaces[{i}]."),
            get(item, "sandbox", str, "", f"{where}interfaces[{i}]."),
            get(item, "mtu", int, 0, f"{where}interfaces[{i}]."),
        )
        for i, item in enumerate(objects(document, "interfaces", where))
    )
    addresses = [
        Address(
            need(item, "address", str, f"{where}ips[{i}]."),
            get(item, "gateway", str, "", f"{where}ips[{i}]."),
            get(item, "interface", int, -1, f"{where}ips[{i}]."),
        )
        for i, item in enumerate(objects(document, "ips", where))
    ]
    routes = [_parse_route(item, f"{where}routes[{i}].") for i, item in enumerate(objects(document, "routes", where))]
    for key in ("ip4", "ip6"):
        entry = get(document, key, dict, None, where)
        if entry is not None:
            addresses.append(Address(need(entry, "ip", str, f"{where}{key}."), get(entry, "gateway", str, "", where)))
            routes += [
                _parse_route(item, f"{where}{key}.routes[{i}].") for i, item in enumerate(objects(entry, "routes"))
            ]
    return Result(interfaces, tuple(addresses), tuple(routes), parse_dns(get(document, "dns", dict, {}, where), where))


def parse_dns(document: Document, where: str) -> Dns:
    """The dns object of a result."""
    where += "dns."
    return Dns(
        strings(document, "nameservers", where),
        get(document, "domain", str, "", where),
        strings(document, "search", where),
        strings(document, "options", where),
    )


def _parse_route(item: Document, where: str) -> Route:
    return Route(
        need(item, "dst", str, where),
        get(item, "gw", str, "", where),
        get(item, "mtu", int, 0, where),
        get(item, "advmss", int, 0, where),
        get(item, "priority", int, 0, where),
        get(item, "table", int, 0, where),
        get(item, "scope", int, -1, where),
    )
