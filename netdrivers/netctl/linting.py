"""Find mistakes in network configurations without a look at the host: keys, values, contradictions, overlaps."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from netdrivers import errors
from netdrivers.drivers import registry
from netdrivers.drivers.base import Driver
from netdrivers.drivers.options import keys_of
from netdrivers.frontends import dispatch
from netdrivers.frontends.cni.config import CALL_KEYS, SHARED_KEYS, network_of
from netdrivers.frontends.cni.result import checked_version
from netdrivers.frontends.named import full_config
from netdrivers.ipam import ranges
from netdrivers.model import Facts, LinkFact, Network, RouteFact
from netdrivers.near import nearest
from netdrivers.netctl.conflists import Conflist, read

LIST_KEYS = frozenset(
    {"cniVersion", "cniVersions", "name", "plugins", "disableCheck", "disableGC", "loadOnlyInlinedPlugins"}
)
CAPABILITIES = frozenset(
    {
        "portMappings",
        "ipRanges",
        "bandwidth",
        "dns",
        "ips",
        "mac",
        "infinibandGUID",
        "deviceID",
        "aliases",
        "cgroupPath",
    }
)
"""CNI conventions, "Well-known Capabilities"."""

DNS_KEYS = frozenset({"nameservers", "domain", "search", "options"})
RANGE_KEYS = frozenset({"subnet", "rangeStart", "rangeEnd", "gateway"})
ROUTE_KEYS = frozenset({"dst", "gw", "mtu", "advmss", "priority", "table", "scope"})
IPAM_KEYS = {
    "host-local": frozenset({"type", "ranges", "routes", "resolvConf", "dataDir", "excludes"}) | RANGE_KEYS,
    "static": frozenset({"type", "addresses", "routes", "dns"}),
}
ADDRESS_KEYS = frozenset({"address", "gateway", "version"})
_IMAGINED_MTU = 65535


class Finding(Struct, frozen=True):
    """One mistake. level: error (an add would fail, or do what nobody meant) or warning; plugin: its type."""

    file: str
    plugin: str
    field: str
    level: str
    message: str
    suggestion: str = ""


class _Subnet(Struct, frozen=True):
    """A subnet that a network has for itself, and where it is written."""

    subnet: str
    network: str
    file: str
    plugin: int
    kind: str


def lint(paths: Sequence[str]) -> list[Finding]:
    """The mistakes in some files, each alone and all together."""
    found: list[Finding] = []
    subnets: list[_Subnet] = []
    named: dict[str, str] = {}
    for path in paths:
        try:
            conflist = read(path)
        except errors.NetdriversError as error:
            found.append(Finding(path, "", getattr(error, "field", ""), "error", error.message, error.hint))
            continue
        found += _list(path, conflist)
        if conflist.name in named and named[conflist.name] != path:
            other = named[conflist.name]
            found.append(Finding(path, "", "name", "error", f"network {conflist.name} is in {other} too"))
        named.setdefault(conflist.name, path)
        for position, config in enumerate(conflist.plugins):
            more, own = _plugin(path, position, config, conflist)
            found += more
            subnets += own
    return found + list(_overlaps(subnets))


def _list(path: str, conflist: Conflist) -> Iterator[Finding]:
    """The keys around the plugins, and what the plugins are to each other."""
    if conflist.document.get("plugins") is not None:
        yield from _unknown(path, "", conflist.document, LIST_KEYS, "")
    try:
        checked_version(conflist.version)
    except errors.VersionError as error:
        yield Finding(path, "", "cniVersion", "error", error.message)
    kinds = [config["type"] for config in conflist.plugins]
    publishing = [
        config["type"] for config in conflist.plugins if (config.get("capabilities") or {}).get("portMappings")
    ]
    if "portmap" in kinds and len(publishing) > 1:
        others = ", ".join(kind for kind in publishing if kind != "portmap")
        message = f"{others} publishes ports itself, so portmap would publish them a second time"
        yield Finding(path, "portmap", "capabilities.portMappings", "error", message, "leave portmap out")


def _plugin(
    path: str, position: int, config: dict[str, Any], conflist: Conflist
) -> tuple[list[Finding], list[_Subnet]]:
    kind = config["type"]
    found = list(_capabilities(path, kind, config))
    if kind not in dispatch.CNI_TYPES and kind not in registry.names():
        near = nearest(kind, dispatch.CNI_TYPES)
        if near:
            message = f"{kind} is not a plugin of ours, so an executable of that name must be there"
            found.append(Finding(path, kind, "type", "warning", message, f"did you mean {near}?"))
        return found, []
    if kind == "loopback":
        return found, []
    driver = registry.driver(kind)
    found += _unknown(path, kind, config, SHARED_KEYS | set(keys_of(driver.options_type)), "")
    if isinstance(config.get("dns"), dict):
        found += _unknown(path, kind, config["dns"], DNS_KEYS, "dns.")
    found += _ipam_keys(path, kind, config.get("ipam") or {})
    if config.get("network"):
        return [*found, *_stands_for(path, kind, config)], []
    network = _valid(config, driver, conflist.name)
    if isinstance(network, errors.NetdriversError):
        field = getattr(network, "field", "")
        return [*found, Finding(path, kind, field, "error", network.message, network.hint)], []
    found += _contradictions(path, kind, config)
    if not driver.owns_subnets:
        return found, []
    texts = [part.subnet for pool in network.ipam.pools for part in pool.ranges]
    return found, [_Subnet(text, conflist.name, path, position, kind) for text in texts]


def _stands_for(path: str, kind: str, config: dict[str, Any]) -> Iterator[Finding]:
    """A plugin of which a named network says everything."""
    try:
        full_config(config, kind, os.environ)
    except errors.NetdriversError as error:
        yield Finding(path, kind, "network", "error", error.message, error.hint)
    for key in config:
        if key not in CALL_KEYS and key not in ("name", "type", "network") and config[key]:
            message = f"{key}: without effect, as the network {config['network']} says it"
            yield Finding(path, kind, key, "warning", message)


def _valid(config: dict[str, Any], driver: Driver, name: str) -> Network | errors.NetdriversError:
    """The network as a driver would settle it on a host that has everything, or what is wrong with it."""
    try:
        network = network_of({**config, "name": name}, driver.name)
        network = replace(network, ipam=ranges.complete(network.ipam))
        return driver.settle(network, _imagined(config))
    except errors.HostLacks:
        return network  # a question for the host, not for its file
    except errors.NetdriversError as error:
        return error


def _imagined(config: dict[str, Any]) -> Facts:
    """A host that has the devices that a configuration names."""
    master = config.get("master")
    named = [LinkFact(master, 2, mtu=_IMAGINED_MTU)] if isinstance(master, str) and master else []
    uplink = LinkFact("uplink", 3, mtu=_IMAGINED_MTU)
    return Facts(links=(*named, uplink), routes=(RouteFact("", "uplink", gateway="192.0.2.1"),))


def _capabilities(path: str, kind: str, config: dict[str, Any]) -> Iterator[Finding]:
    yield from _unknown(path, kind, config.get("capabilities") or {}, CAPABILITIES, "capabilities.")


def _ipam_keys(path: str, kind: str, ipam: dict[str, Any]) -> Iterator[Finding]:
    """Keys of our own IPAM types; a foreign type has keys of its own."""
    kind_of_ipam = ipam.get("type")
    known = IPAM_KEYS.get(kind_of_ipam) if isinstance(kind_of_ipam, str) else None
    if known is None:
        return
    yield from _unknown(path, kind, ipam, known, "ipam.")
    for key, inner in (("routes", ROUTE_KEYS), ("addresses", ADDRESS_KEYS)):
        for i, item in enumerate(_objects(ipam.get(key))):
            yield from _unknown(path, kind, item, inner, f"ipam.{key}[{i}].")
    sets = ipam.get("ranges")
    for i, group in enumerate(sets if isinstance(sets, list) else []):
        for j, item in enumerate(_objects(group)):
            yield from _unknown(path, kind, item, RANGE_KEYS, f"ipam.ranges[{i}][{j}].")


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _unknown(path: str, plugin: str, document: dict[str, Any], known: Collection[str], where: str) -> Iterator[Finding]:
    for key in document:
        if key in known:
            continue
        near = nearest(key, known)
        suggestion = f"did you mean {near}?" if near else ""
        if not where and plugin and key in IPAM_KEYS["host-local"]:
            suggestion = f"it belongs into ipam: ipam.{key}"
        yield Finding(path, plugin, f"{where}{key}", "error", f"{where}{key}: unknown key, without effect", suggestion)


def _contradictions(path: str, kind: str, config: dict[str, Any]) -> Iterator[Finding]:
    """Values that are each allowed and together do nothing, or not what was meant."""

    def finding(field: str, message: str, suggestion: str = "") -> Finding:
        return Finding(path, kind, field, "warning", f"{field}: {message}", suggestion)

    publishes = (config.get("capabilities") or {}).get("portMappings")
    if publishes and (kind in ("macvlan", "ipvlan", "none") or config.get("internal")):
        why = "a network that is internal" if config.get("internal") else f"the driver {kind}"
        yield finding("capabilities.portMappings", f"{why} publishes nothing and refuses what is asked for")
    if kind != "bridge":
        return
    gateway = config.get("isGateway") or config.get("isDefaultGateway")
    if config.get("ipMasq") and config.get("internal"):
        yield finding("ipMasq", "without effect in a network that is internal")
    elif config.get("ipMasq") and not gateway:
        yield finding("ipMasq", "the bridge is no gateway, so nothing passes that could be masqueraded", "isGateway")
    if gateway and not config.get("ipam"):
        yield finding("isGateway", "there is no ipam, so there is no address for the gateway", "ipam")
    if publishes and not gateway and not config.get("internal"):
        yield finding("capabilities.portMappings", "answers to published ports need a way back", "isDefaultGateway")


def _overlaps(subnets: list[_Subnet]) -> Iterator[Finding]:
    for i, one in enumerate(subnets):
        for other in subnets[:i]:
            same = (one.file, one.plugin, one.network) == (other.file, other.plugin, other.network)
            if not same and ranges.overlap(one.subnet, [other.subnet]):
                where = "" if one.file == other.file else f" in {other.file}"
                message = f"subnet {one.subnet} overlaps {other.subnet} of network {other.network}{where}"
                yield Finding(one.file, one.kind, "ipam", "error", message)
