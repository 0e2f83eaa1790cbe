"""What a container asks for, in annotations or in the hook's own arguments, as attachments.

Annotations: netdrivers/network (names), netdrivers/publish, netdrivers/ip, netdrivers/mac, netdrivers/ifname,
netdrivers/alias, each a comma-separated list, and netdrivers/name (of the container, else its id). The arguments
--network, --publish (-p), --ip, --mac, --ifname, --alias and --name mean the same; an annotation wins.
"""

from __future__ import annotations

import getopt
from collections.abc import Mapping, Sequence

from msgspec import Struct

from netdrivers.drivers.common import checked_mac
from netdrivers.errors import ConfigError, RequestError
from netdrivers.frontends.named import named_network
from netdrivers.frontends.reading import check_ifname
from netdrivers.model import Attachment, Network
from netdrivers.near import near
from netdrivers.portspec import mapping

PREFIX = "netdrivers/"
KEYS = ("network", "publish", "ip", "mac", "ifname", "alias", "name")


class Wishes(Struct, frozen=True):
    """Lists by the keys' names. mac and ifname go by the position of the network, "" for none."""

    network: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()
    ip: tuple[str, ...] = ()
    mac: tuple[str, ...] = ()
    ifname: tuple[str, ...] = ()
    alias: tuple[str, ...] = ()
    name: tuple[str, ...] = ()


class Wanted(Struct, frozen=True):
    """One attachment and its network."""

    network: Network
    attachment: Attachment


def read(arguments: Sequence[str], annotations: Mapping[str, object]) -> tuple[Wishes, list[str]]:
    """The wishes, and the arguments that are no options. RequestError, ConfigError name the likely meant."""
    try:
        pairs, rest = getopt.gnu_getopt(list(arguments), "p:", [f"{key}=" for key in KEYS])
    except getopt.GetoptError as error:
        hint = near(f"--{error.opt}", [f"--{key}" for key in KEYS])
        raise RequestError("argument", error.opt, f"{error.msg}", hint) from None
    found: dict[str, list[str]] = {}
    for option, value in pairs:
        found.setdefault("publish" if option == "-p" else option.lstrip("-"), []).append(value)
    for name, text in annotations.items():
        if not name.startswith(PREFIX):
            continue
        key = name.removeprefix(PREFIX)
        if key not in KEYS:
            raise ConfigError(f"annotation {name}", text, "none of ours", near(name, [PREFIX + key for key in KEYS]))
        if not isinstance(text, str):
            raise ConfigError(f"annotation {name}", text, "a string")
        found[key] = [text]
    lists = {key: tuple(item.strip() for text in texts for item in text.split(",")) for key, texts in found.items()}
    for key in ("network", "publish", "ip", "alias", "name"):  # whose order means nothing
        lists[key] = tuple(filter(None, lists.get(key, ())))
    return Wishes(**lists), rest


def wanted(wishes: Wishes, container: str, netns: str, engine: str, env: Mapping[str, str]) -> list[Wanted]:
    """An attachment for each network, in order: eth0, eth1 and so on; ports go to the first.

    NotFound for a network without a file, ConfigError for what fits none of them.
    """
    names = wishes.network
    if len(set(names)) < len(names):
        raise ConfigError("network", ",".join(names), "each network once")
    if len(wishes.name) > 1:
        raise ConfigError("name", ",".join(wishes.name), "one name; others as alias")
    for key in ("mac", "ifname"):
        given: tuple[str, ...] = getattr(wishes, key)
        if len(given) > len(names):
            raise ConfigError(key, ",".join(given), f"at most one for each network, of which there are {len(names)}")
    networks = [named_network(name, env) for name in names]
    addresses = _by_network(wishes.ip, networks)
    found = []
    for i, network in enumerate(networks):
        attachment = Attachment(
            network=network.name,
            driver=network.driver,
            container=container,
            ifname=check_ifname(_at(wishes.ifname, i) or f"eth{i}"),
            netns=netns,
            mac=checked_mac(_at(wishes.mac, i)),
            addresses=tuple(addresses[i]),
            ports=tuple(map(mapping, wishes.publish)) if i == 0 else (),
            engine=engine,
            label=_at(wishes.name, 0) or container,
            aliases=wishes.alias,
        )
        found.append(Wanted(network, attachment))
    return found


def _at(values: tuple[str, ...], position: int) -> str:
    return values[position] if position < len(values) else ""


def _by_network(texts: tuple[str, ...], networks: list[Network]) -> list[list[str]]:
    """Each address to the network whose subnet holds it; to the only one, if that has no subnets of its own."""
    import ipaddress

    found: list[list[str]] = [[] for _ in networks]
    subnets = [
        [ipaddress.ip_network(part.subnet, strict=False) for pool in network.ipam.pools for part in pool.ranges]
        for network in networks
    ]
    for text in texts:
        try:
            address = ipaddress.ip_interface(text).ip
        except ValueError:
            raise ConfigError("ip", text, "an address, such as 10.1.0.5 or fd00:1::5") from None
        holding = [i for i, own in enumerate(subnets) if any(address in subnet for subnet in own)]
        if not holding and len(networks) == 1:
            holding = [0]
        if not holding:
            known = ", ".join(str(subnet) for own in subnets for subnet in own) or "no network's"
            raise ConfigError("ip", text, f"an address of {known}")
        found[holding[0]].append(text)
    return found
