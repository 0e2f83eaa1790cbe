"""A named network as every front end attaches to it: the same name gives the same network, whatever the engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from netdrivers import networks_file
from netdrivers.errors import ConfigError
from netdrivers.frontends.cni.config import CALL_KEYS, network_of
from netdrivers.frontends.reading import Document, check_name, get, need, spelled
from netdrivers.model import Network


def named_network(name: str, env: Mapping[str, str]) -> Network:
    """The network of a file in networks.d. NotFound names the near one; DecodeError, ConfigError for a bad file."""
    found = networks_file.find(networks_file.directory(env), name)
    return network_of(found.config, found.driver)


def name_in(config: Document) -> str:
    """The name of the network that a CNI plugin's configuration is about: a named one's, or its own."""
    return check_name(get(config, "network", str, "") or need(config, "name", str), "name")


def full_config(config: Document, plugin: str, env: Mapping[str, str]) -> Document:
    """A CNI plugin's configuration; if it says ``network``, that network's, with what belongs to the call.

    ConfigError when the named network is another driver's; what find() raises.
    """
    name = get(config, "network", str, "")
    if not name:
        return config
    found = networks_file.find(networks_file.directory(env), name)
    if found.driver != plugin:
        raise ConfigError("network", name, f"a network of type {plugin}; that one is of type {found.driver}")
    if spelled(get(config, "runtimeConfig", dict, {}), "ipRanges").get("ipRanges"):
        raise ConfigError("runtimeConfig.ipRanges", "given", f"absent: the network {name} has its own addresses")
    calls: dict[str, Any] = {key: value for key, value in config.items() if key in CALL_KEYS}
    return {**found.config, **calls}


def network_in(config: Document, plugin: str, env: Mapping[str, str]) -> Network:
    """The network that a CNI plugin's configuration is about, a named one as every front end has it."""
    full = full_config(config, plugin, env)
    if full is config:
        return network_of(config, plugin)
    return network_of({key: value for key, value in full.items() if key != "runtimeConfig"}, plugin)
