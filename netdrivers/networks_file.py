"""Named networks, which every front end can attach to: one file for each, in the form of a CNI plugin configuration.

/etc/netdrivers/networks.d/shop.json holds {"cniVersion": ..., "name": "shop", "type": "bridge", ...}:
the keys are those of a plugin in a conflist, and the file's name is the network's.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from netdrivers.errors import ConfigError, Conflict, NetdriversError, NotFound
from netdrivers.frontends.reading import check_name, decode, get, need
from netdrivers.near import near

DEFAULT_DIR = "/etc/netdrivers/networks.d"
SUFFIX = ".json"


class NamedNetwork(Struct, frozen=True):
    """A named network. driver: the type in its configuration; config: the file's content."""

    name: str
    path: str
    driver: str
    config: dict[str, Any]


def directory(env: Mapping[str, str]) -> str:
    """Where the files are: NETDRIVERS_NETWORKS_DIR of an environment, or the default."""
    return env.get("NETDRIVERS_NETWORKS_DIR") or DEFAULT_DIR


def names(where: str) -> list[str]:
    """The names that have a file, whatever it holds."""
    try:
        return sorted(entry.removesuffix(SUFFIX) for entry in os.listdir(where) if entry.endswith(SUFFIX))
    except FileNotFoundError:
        return []


def find(where: str, name: str) -> NamedNetwork:
    """A network by its name. NotFound names the near one; DecodeError or ConfigError for a bad file."""
    check_name(name, "network")
    path = os.path.join(where, name + SUFFIX)
    try:
        return read(path)
    except FileNotFoundError:
        raise NotFound(f"no network {name!r} in {where}", near(name, names(where))) from None


def read(path: str) -> NamedNetwork:
    """The network of a file. FileNotFoundError; DecodeError, ConfigError for a bad one."""
    with open(path, "rb") as file:
        config = decode(file.read(), path)
    stem = os.path.basename(path).removesuffix(SUFFIX)
    name = get(config, "name", str, stem)
    if name != stem:
        raise ConfigError(f"{path}: name", name, f"{stem!r}, as the file is named")
    return NamedNetwork(name, path, need(config, "type", str, f"{path}: "), {**config, "name": name})


def readable(where: str) -> tuple[list[NamedNetwork], list[NetdriversError]]:
    """Every network whose file is good, and what is wrong with the others."""
    good: list[NamedNetwork] = []
    bad: list[NetdriversError] = []
    for name in names(where):
        try:
            good.append(read(os.path.join(where, name + SUFFIX)))
        except NetdriversError as error:
            bad.append(error)
    return good, bad


def write(where: str, config: Mapping[str, Any]) -> str:
    """Write a new network's file, complete or not at all; its path. Conflict when there is one."""
    name = check_name(need(config, "name", str), "name")
    os.makedirs(where, mode=0o755, exist_ok=True)
    path = os.path.join(where, name + SUFFIX)
    handle, scratch = tempfile.mkstemp(dir=where, prefix=".new-")
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(config, indent=4) + "\n")
            os.fchmod(file.fileno(), 0o644)
        os.link(scratch, path)
    except FileExistsError:
        raise Conflict(f"network {name} exists already: {path}", f"netctl network rm {name} removes it") from None
    finally:
        os.unlink(scratch)
    return path


def remove(where: str, name: str) -> bool:
    """Remove a network's file; whether there was one."""
    check_name(name, "network")
    try:
        os.unlink(os.path.join(where, name + SUFFIX))
    except FileNotFoundError:
        return False
    return True
