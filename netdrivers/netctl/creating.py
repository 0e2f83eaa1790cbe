"""Make and remove named networks: options to configuration, validated against this host and the other files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import fields

from netdrivers import networks_file
from netdrivers.drivers import registry
from netdrivers.drivers.base import Driver
from netdrivers.drivers.options import keys_of, wrong_type
from netdrivers.errors import ConfigError, Conflict, NotFound, SubnetOverlap
from netdrivers.frontends.cni.config import network_of
from netdrivers.frontends.reading import check_name
from netdrivers.ipam import ranges
from netdrivers.model import Network, derived_name
from netdrivers.near import near
from netdrivers.netctl.calls import lifecycle

VERSION = "1.1.0"
_LONGEST_LINK = 15


class Wishes(Struct, frozen=True):
    """What "netctl network create" was told. spans: FIRST-LAST; options: KEY=VALUE; names: resolve, where they can."""

    name: str
    driver: str = "bridge"
    subnets: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    spans: tuple[str, ...] = ()
    internal: bool = False
    options: tuple[str, ...] = ()
    names: bool = True


def directory() -> str:
    """Where the files of named networks are."""
    return networks_file.directory(os.environ)


def create(wishes: Wishes) -> tuple[str, dict[str, Any]]:
    """Write the file of a new network: its path and content. Conflict, ConfigError, SubnetOverlap, HostLacks."""
    config = configuration(wishes)
    if wishes.name in networks_file.names(directory()):
        raise Conflict(f"network {wishes.name} exists already", f"netctl network rm {wishes.name} removes it")
    network = network_of(config, wishes.driver)
    settled, _ = lifecycle().networks.settle(network, registry.driver(wishes.driver))
    _refuse_overlap(settled)
    return networks_file.write(directory(), config), config


def configuration(wishes: Wishes) -> dict[str, Any]:
    """The plugin configuration that the wishes stand for, with what a network is usually wanted to do."""
    check_name(wishes.name, "NAME")
    driver = _driver(wishes.driver)
    config: dict[str, Any] = {"cniVersion": VERSION, "name": wishes.name, "type": wishes.driver}
    if wishes.driver == "bridge":
        config |= _bridge_defaults(wishes)
    elif wishes.internal:
        raise ConfigError("--internal", True, f"given for a bridge network only, not for {wishes.driver}")
    if wishes.driver == "macvlan":
        config["capabilities"] = {"ips": True, "mac": True}
    elif wishes.driver == "ipvlan":
        config["capabilities"] = {"ips": True}
    given = options(driver.options_type, wishes.options)
    config |= given
    if wishes.names and _can_name(config):
        config = {**config, "names": True, **given}
    ipam = _ipam(wishes)
    if ipam:
        config["ipam"] = ipam
    return config


def _driver(name: str) -> Driver:
    """A driver that can make a network by itself. ConfigError names the near one."""
    known = [other for other in registry.names() if not registry.driver(other).chained]
    if name not in known:
        raise ConfigError("--driver", name, f"one of {', '.join(known)}", near(name, known))
    return registry.driver(name)


def _bridge_defaults(wishes: Wishes) -> dict[str, Any]:
    plain = f"nd-{wishes.name}"
    found: dict[str, Any] = {"bridge": plain if len(plain) <= _LONGEST_LINK else derived_name("nd-", wishes.name)}
    found |= {"isGateway": True, "internal": True} if wishes.internal else {"isDefaultGateway": True, "ipMasq": True}
    found["capabilities"] = {"ips": True, "mac": True, "aliases": True}
    if not wishes.internal:
        found["capabilities"]["portMappings"] = True
    return found


def _can_name(config: dict[str, Any]) -> bool:
    """Whether the host has an address in the network, to answer at."""
    gateway = config.get("isGateway") or config.get("isDefaultGateway")
    return config["type"] == "overlay" or bool(config["type"] == "bridge" and gateway and not config.get("unmanaged"))


def options(kind: type[Struct], texts: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE texts as configuration keys of their types; a value in brackets is JSON."""
    raw: dict[str, Any] = {}
    known = keys_of(kind)
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError("--opt", text, "KEY=VALUE")
        if key not in (*known, "firewall"):
            raise ConfigError("--opt", key, "a key of the driver", near(key, (*known, "firewall")))
        try:
            raw[key] = msgspec.json.decode(value) if value[:1] in ("[", "{") else value
        except msgspec.DecodeError as error:
            raise ConfigError(f"--opt {key}", value, f"JSON ({error})") from None
    try:
        converted = msgspec.convert(raw, kind, strict=False)
    except msgspec.ValidationError as error:
        raise wrong_type(str(error), raw) from None
    named = {field.encode_name: field.name for field in fields(kind)}
    return {
        key: msgspec.to_builtins(getattr(converted, named[key])) if key in named else value
        for key, value in raw.items()
    }


def _ipam(wishes: Wishes) -> dict[str, Any]:
    """One range set for each subnet, with the gateway and the span that lie in it."""
    if not wishes.subnets:
        if wishes.driver == "bridge":
            raise ConfigError("--subnet", (), "given at least once for a bridge network, such as 10.90.0.0/24")
        for option, given in (("--gateway", wishes.gateways), ("--range", wishes.spans)):
            if given:
                raise ConfigError(option, given[0], "given together with --subnet")
        return {}
    subnets = [(text, ranges.network(text, "--subnet")) for text in wishes.subnets]
    sets: list[dict[str, Any]] = [{"subnet": text} for text, _ in subnets]

    def home(address: str, option: str) -> dict[str, Any]:
        value = ranges.address(address, option)
        for item, (_, subnet) in zip(sets, subnets, strict=True):
            if value in subnet:
                return item
        raise ConfigError(option, address, f"an address of {', '.join(wishes.subnets)}")

    for gateway in wishes.gateways:
        home(gateway, "--gateway")["gateway"] = gateway
    for span in wishes.spans:
        first, dash, last = span.partition("-")
        if not dash:
            raise ConfigError("--range", span, "FIRST-LAST, two addresses of a subnet")
        home(first, "--range").update(rangeStart=first, rangeEnd=last)
    found: dict[str, Any] = {"type": "host-local", "ranges": [[item] for item in sets]}
    if wishes.driver in ("macvlan", "ipvlan") and wishes.gateways:
        found["routes"] = [{"dst": "::/0" if ":" in gateway else "0.0.0.0/0"} for gateway in wishes.gateways]
    return found


def _refuse_overlap(network: Network) -> None:
    """Networks that have a file but were never attached to are in no record."""
    if not registry.driver(network.driver).owns_subnets:
        return
    own = [part.subnet for pool in network.ipam.pools for part in pool.ranges]
    for other in networks_file.readable(directory())[0]:
        if other.driver not in registry.names() or not registry.driver(other.driver).owns_subnets:
            continue
        theirs = [part.subnet for pool in network_of(other.config, other.driver).ipam.pools for part in pool.ranges]
        for subnet in own:
            found = ranges.overlap(subnet, theirs)
            if found:
                raise SubnetOverlap(f"subnet {subnet} overlaps {found} of network {other.name} ({other.path})")


def remove(name: str, force: bool) -> list[str]:
    """Remove a network's file, and what it has in the kernel; what was removed.

    Conflict while containers are attached; with force the file goes all the same, and the rest stays until
    gc. NotFound names the near one.
    """
    check_name(name, "NAME")
    life = lifecycle()
    known = life.store.network(name) is not None
    filed = name in networks_file.names(directory())
    if not known and not filed:
        recorded = [record.network.name for record in life.store.networks()]
        raise NotFound(f"no network {name!r}", near(name, [*networks_file.names(directory()), *recorded]))
    attached = life.store.in_network(name)
    if attached and not force:
        hint = "detach them first, or --force to remove the file alone"
        raise Conflict(f"network {name} has {attached} attachment{'s' if attached > 1 else ''}", hint)
    removed = []
    if known and not attached:
        life.networks.remove(name)
        removed.append("kernel")
    if filed:
        networks_file.remove(directory(), name)
        removed.append("file")
    return removed
