"""A named network as every front end attaches to it: the same name gives the same network, whatever the engine."""

from __future__ import annotations

from collections.abc import Mapping

from netdrivers import networks_file
from netdrivers.frontends.cni.config import network_of
from netdrivers.model import Network


def named_network(name: str, env: Mapping[str, str]) -> Network:
    """The network of a file in networks.d. NotFound names the near one; DecodeError, ConfigError for a bad file."""
    found = networks_file.find(networks_file.directory(env), name)
    return network_of(found.config, found.driver)
