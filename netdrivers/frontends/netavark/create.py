"""``podman network create``: a new network checked, and what was left open chosen. Nothing is made yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from netdrivers import errors, networks_file
from netdrivers.drivers.registry import driver as find_driver
from netdrivers.errors import ConfigError, MissingField
from netdrivers.frontends.named import named_network
from netdrivers.frontends.netavark import options
from netdrivers.frontends.netavark.network import network_of, range_of
from netdrivers.frontends.reading import Document, check_name, decode, get, need, objects
from netdrivers.lifecycle import Lifecycle
from netdrivers.model import FactsQuery, derived_name, digest

ENGINE = "podman"
PODMAN_NETWORKS = "/etc/containers/networks"
FIRST_BLOCK, LAST_BLOCK = (10, 89), (10, 255)
"""Where Podman takes its own default subnets from: 10.89.0.0/24 to 10.255.255.0/24."""


def create(document: Document, driver: str, lifecycle: Lifecycle, env: Mapping[str, str]) -> dict[str, Any]:
    """The network as Podman shall keep it. ConfigError, SubnetOverlap, HostLacks, Conflict; nothing is changed."""
    name = check_name(need(document, "name", str), "name")
    network = dict(document)
    given = options.read(get(document, "options", dict, {}), driver)
    if given.network:
        return _standing_for(network, given.network, driver, lifecycle, env)
    if driver == "bridge" and not get(network, "network_interface", str, ""):
        network["network_interface"] = _bridge_name(name)
    if "parent" in get(network, "options", dict, {}):
        _move_parent(network)
    if get(get(network, "ipam_options", dict, {}), "driver", str, "", "ipam_options.") != "none":
        network["subnets"] = _subnets(network, name, driver, lifecycle, env)
        network["ipv6_enabled"] = any(":" in item["subnet"] for item in network["subnets"])
    wanted = network_of(network, driver, env, "")
    lifecycle.networks.settle(wanted, find_driver(driver))
    refuse_other(wanted.name, wanted, lifecycle)
    return network


def refuse_other(name: str, wanted: object, lifecycle: Lifecycle) -> None:
    """Conflict where another engine's containers are on a network of that name and another configuration."""
    record = lifecycle.store.network(name)
    if record is None or record.source == wanted:
        return
    others = {item.attachment.engine for item in lifecycle.store.attachments(network=name)} - {ENGINE}
    if others:
        raise errors.Conflict(
            f"network {name} is in use by {', '.join(sorted(others))} with another configuration",
            "choose another name, or share a named network with --opt network=NAME",
        )


def _standing_for(
    network: dict[str, Any], named: str, driver: str, lifecycle: Lifecycle, env: Mapping[str, str]
) -> dict[str, Any]:
    """A network that stands for a named one: its addresses, options and name service are that one's."""
    for key in ("subnets", "routes", "network_interface", "internal", "network_dns_servers"):
        if network.get(key):
            raise ConfigError(key, network[key], f"none: the network {named} has its own")
    if get(network, "ipv6_enabled", bool, False):
        raise ConfigError("ipv6_enabled", True, f"false: the network {named} has its own addresses")
    others = sorted(key for key in network["options"] if key != "network")
    if others:
        raise ConfigError(f"options.{others[0]}", network["options"][others[0]], f"none: {named} has its own options")
    wanted = network_of(network, driver, env, "")
    lifecycle.networks.settle(wanted, find_driver(driver))
    return {**network, "ipam_options": {"driver": "none"}}


def _bridge_name(name: str) -> str:
    """nd-NAME where that fits a link's name, else a short one derived from it."""
    plain = f"nd-{name}"
    return plain if len(plain) <= 15 else derived_name("nd-", name)


def _move_parent(network: dict[str, Any]) -> None:
    """The option parent becomes the network's interface, as netavark keeps it."""
    kept = dict(network["options"])
    parent = kept.pop("parent")
    if network.get("network_interface") not in (None, "", parent):
        raise ConfigError("options.parent", parent, f"the same as --interface-name, {network['network_interface']!r}")
    network["options"], network["network_interface"] = kept, parent


def _subnets(
    network: Document, name: str, driver: str, lifecycle: Lifecycle, env: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The subnets with their gateways; chosen where the driver owns them and none of a family is given."""
    from netdrivers.ipam import ranges

    found = []
    for i, item in enumerate(objects(network, "subnets")):
        complete = ranges.complete_range(range_of(item, f"subnets[{i}]."), f"subnets[{i}]")
        found.append({**item, "subnet": complete.subnet, "gateway": complete.gateway})
    kind = get(get(network, "ipam_options", dict, {}), "driver", str, "", "ipam_options.")
    if kind not in ("", "host-local"):
        raise ConfigError("ipam_options.driver", kind, "host-local or none")
    if not find_driver(driver).owns_subnets:
        if not found:
            raise MissingField("subnets", "the subnet of the parent's network (--subnet), or --ipam-driver none")
        return found
    wanted = [4] if not found else []
    if get(network, "ipv6_enabled", bool, False):
        wanted = [4, 6]
    present = {6 if ":" in item["subnet"] else 4 for item in found}
    for family in wanted:
        if family not in present:
            found.append(_free_subnet(family, name, used_subnets(lifecycle, env)))
    return found


def _free_subnet(family: int, name: str, used: list[str]) -> dict[str, Any]:
    """A subnet that nobody is known to use, and its gateway. Exhausted when there is none."""
    from netdrivers.ipam import ranges
    from netdrivers.model import Range

    for subnet in _candidates(family, name):
        if not ranges.overlap(subnet, used):
            return {"subnet": subnet, "gateway": ranges.complete_range(Range(subnet), "subnets").gateway}
    raise errors.Exhausted("subnets: no free one is left", "give one with --subnet")


def _candidates(family: int, name: str) -> Iterator[str]:
    """In an order that begins at a place of the name's own, so that two hosts' networks rarely are alike."""
    place = int.from_bytes(digest("subnet", name)[:8], "big")
    if family == 6:
        for step in range(256):
            text = f"{(place + step) & (1 << 56) - 1:014x}"
            yield f"fd{text[:2]}:{text[2:6]}:{text[6:10]}:{text[10:]}::/64"
        return
    first, last = (a * 256 + b << 8 for a, b in (FIRST_BLOCK, LAST_BLOCK))
    count = last + 256 - first
    for step in range(count):
        block = first + (place + step) % count
        yield f"{block >> 16}.{block >> 8 & 255}.{block & 255}.0/24"


def used_subnets(lifecycle: Lifecycle, env: Mapping[str, str]) -> list[str]:
    """Subnets of the host's routes, of our networks, of named ones and of Podman's own that are not up."""
    routes = lifecycle.kernel.facts(FactsQuery(routes=True)).routes
    found = [route.dst for route in routes if route.dst]
    for record in lifecycle.store.networks():
        found += [part.subnet for pool in record.network.ipam.pools for part in pool.ranges]
    for named in networks_file.readable(networks_file.directory(env))[0]:
        try:
            network = named_network(named.name, env)
        except errors.NetdriversError:
            continue  # not good for anybody
        found += [part.subnet for pool in network.ipam.pools for part in pool.ranges]
    return [*found, *_podman_subnets()]


def _podman_subnets() -> Iterable[str]:
    import os

    from netdrivers.ipam import ranges

    try:
        files = [entry for entry in os.listdir(PODMAN_NETWORKS) if entry.endswith(".json")]
    except OSError:
        return
    for file in files:
        try:
            with open(os.path.join(PODMAN_NETWORKS, file), "rb") as opened:
                document = decode(opened.read(), file)
            for item in objects(document, "subnets"):
                yield str(ranges.network(item.get("subnet", ""), "subnet").cidr)
        except (OSError, errors.NetdriversError):
            continue  # Podman's to complain of
