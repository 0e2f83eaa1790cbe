"""Podman's options (``--opt KEY=VALUE``, all text) as the keys of a driver; an unknown one names the likely meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from netdrivers.drivers.registry import driver as find_driver
from netdrivers.errors import ConfigError
from netdrivers.near import near

DEFAULT_METRIC = 100
"""netavark's metric of default routes."""

_SHARED = ("metric", "no_default_route", "network", "firewall")
"""Options of every driver that are about the network and not for the driver."""

_ELSEWHERE = {
    "bridge": "--interface-name",
    "master": "--opt parent=NAME",
    "internal": "--internal",
    "names": "--disable-dns to have none",
    "unmanaged": "--opt mode=unmanaged",
    "ip_masq_backend": "--opt firewall=nft or firewall=iptables",
    "mac": "--mac-address of podman run",
    "is_gateway": "nothing: Podman's networks have a gateway",
    "is_default_gateway": "--opt no_default_route=true to have none",
}
"""Keys of ours for which Podman has a word of its own."""

_REFUSED = {
    "vrf": "not supported: attach the host's bridge to a VRF instead, with --opt mode=unmanaged",
    "outbound_addr4": "not supported: masquerading takes the address of the outgoing device",
    "outbound_addr6": "not supported: masquerading takes the address of the outgoing device",
    "bclim": "not supported: bcqueuelen=N sets the length of the broadcast queue",
}
"""Options of netavark that we have nothing for."""

DOCKER = {"com.docker.network.driver.mtu": "mtu", "com.docker.network.bridge.enable_icc": "icc"}
"""Docker's names, as compose files carry them to Podman."""

ON_PARENT = ("macvlan", "ipvlan")
"""Drivers of links on a device of the host, which publish no ports."""

MODES = ("managed", "unmanaged")


class Options(Struct, frozen=True):
    """What a network's options say. driver: the driver's own keys and values; network: a named network, or ""."""

    driver: dict[str, Any]
    metric: int = DEFAULT_METRIC
    default_route: bool = True
    network: str = ""
    firewall: str = "auto"


def known(driver: str) -> dict[str, msgspec.structs.FieldInfo | None]:
    """Every option of a driver by its name, with the driver's field where it is one of a single value."""
    fields = {
        field.name: field
        for field in msgspec.structs.fields(find_driver(driver).options_type)
        if field.name not in _ELSEWHERE and field.type in (bool, int, str, bool | str)
    }
    own = ("mode",) if driver == "bridge" else ("parent",) if driver in ON_PARENT else ()
    return {**dict.fromkeys(sorted({*_SHARED, *own})), **fields}


def read(given: Mapping[str, Any], driver: str, where: str = "options.") -> Options:
    """A network's options for a driver. ConfigError names option, value and what is allowed."""
    fields = known(driver)
    own: dict[str, Any] = {}
    shared: dict[str, Any] = {}
    for key, value in given.items():
        if not isinstance(value, str):
            raise ConfigError(f"{where}{key}", value, "a string")
        name = DOCKER.get(key, key)
        _refuse_unknown(f"{where}{key}", name, value, fields)
        field = fields[name]
        if field is not None:
            own[field.encode_name] = converted(value, field.type, f"{where}{key}")
        else:
            shared[name] = value
    if "mode" in shared:
        if shared["mode"] not in MODES:
            raise ConfigError(f"{where}mode", shared["mode"], " or ".join(MODES))
        own["unmanaged"] = shared["mode"] == "unmanaged"
    if shared.get("parent"):
        own["master"] = shared["parent"]
    metric = converted(shared.get("metric", str(DEFAULT_METRIC)), int, f"{where}metric")
    if not 0 <= metric < 1 << 32:
        raise ConfigError(f"{where}metric", metric, "a whole number from 0 to 4294967295")
    no_default = converted(shared.get("no_default_route", "false"), bool, f"{where}no_default_route")
    return Options(own, metric, not no_default, shared.get("network", ""), shared.get("firewall", "auto"))


def _refuse_unknown(field: str, name: str, value: str, fields: Mapping[str, object]) -> None:
    if name in fields:
        return
    if name in _REFUSED:
        raise ConfigError(field, value, _REFUSED[name])
    if name in _ELSEWHERE:
        raise ConfigError(field, value, f"not an option: use {_ELSEWHERE[name]}")
    raise ConfigError(field, value, "not an option of this driver", near(name, fields))


def converted(text: str, kind: Any, field: str) -> Any:
    """An option's text as a value of the kind. ConfigError says which texts are allowed."""
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError:
        raise ConfigError(field, text, {bool: "true or false", int: "a whole number"}.get(kind, "text")) from None
