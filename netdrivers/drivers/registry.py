"""Find a driver by name: ours at once, a third party's by the entry point group netdrivers.drivers."""

from __future__ import annotations

from importlib import import_module

from netdrivers.drivers.base import Driver
from netdrivers.errors import ConfigError

_OURS = {
    "bridge": "BridgeDriver",
    "host": "HostDriver",
    "macvlan": "MacvlanDriver",
    "ipvlan": "IpvlanDriver",
    "none": "NoneDriver",
    "overlay": "OverlayDriver",
    "portmap": "PortmapDriver",
    "firewall": "FirewallDriver",
    "tuning": "TuningDriver",
}
"""Known without reading package metadata, which costs 20 ms; pyproject.toml lists the same."""

_loaded: dict[str, Driver] = {}


def driver(name: str) -> Driver:
    """The driver of a name. ConfigError names those that there are."""
    found = _loaded.get(name)
    if found is None:
        found = _loaded[name] = _load(name)
    return found


def _load(name: str) -> Driver:
    if name in _OURS:
        made: Driver = getattr(import_module(f"netdrivers.drivers.{name}"), _OURS[name])()
        return made
    from importlib.metadata import entry_points

    for point in entry_points(group="netdrivers.drivers", name=name):
        third_party: Driver = point.load()()
        return third_party
    raise ConfigError("type", name, f"one of {', '.join(names())}")


def names() -> list[str]:
    """Every driver's name."""
    from importlib.metadata import entry_points

    return sorted({*_OURS, *(point.name for point in entry_points(group="netdrivers.drivers"))})
