"""Options of ``docker network create`` (``-o KEY=VALUE``, all text) as a driver's keys; Docker's names and ours.

Source: moby, daemon/libnetwork/netlabel/labels.go, drivers/bridge/labels.go, drivers/macvlan.
"""

from __future__ import annotations

import _socket
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from netdrivers.drivers.common import check_link_name
from netdrivers.drivers.registry import driver as find_driver
from netdrivers.errors import ConfigError
from netdrivers.frontends.reading import Document, get
from netdrivers.near import near

PREFIX = "com.docker.network."
GENERIC = f"{PREFIX}generic"

DOCKER: dict[str, dict[str, str]] = {
    "bridge": {
        f"{PREFIX}bridge.name": "bridge",
        f"{PREFIX}bridge.enable_ip_masquerade": "ip_masq",
        f"{PREFIX}bridge.enable_icc": "icc",
        f"{PREFIX}driver.mtu": "mtu",
    },
    "macvlan": {"parent": "master", "macvlan_mode": "mode", f"{PREFIX}driver.mtu": "mtu"},
}
"""Docker's name of a driver's key."""

IFACE_PREFIX = f"{PREFIX}container_iface_prefix"
BINDING = f"{PREFIX}bridge.host_binding_ipv4"
MODES = {4: f"{PREFIX}bridge.gateway_mode_ipv4", 6: f"{PREFIX}bridge.gateway_mode_ipv6"}
INHIBIT = f"{PREFIX}bridge.inhibit_ipv4"
DEFAULT_BRIDGE = f"{PREFIX}bridge.default_bridge"
BRIDGE_ONLY = (BINDING, *MODES.values(), INHIBIT, DEFAULT_BRIDGE)

REFUSED = {
    f"{PREFIX}host_ipv4": "not supported: masquerading takes the address of the outgoing device",
    f"{PREFIX}host_ipv6": "not supported: masquerading takes the address of the outgoing device",
    f"{PREFIX}bridge.trusted_host_interfaces": "not supported: containers are not closed to other interfaces",
}
"""Options of Docker that we have nothing for."""

ELSEWHERE = {
    "internal": "--internal",
    "is_gateway": f"{MODES[4]}=isolated to have none",
    "is_default_gateway": "--internal to have none",
    "ip_masq_backend": "-o firewall=nft or firewall=iptables",
    "mac": "--mac-address of docker run",
    "link_in_container": "a parent on the host: Docker moves the link from there",
    "disable_container_interface": "--ipam-driver null to have no address",
}
"""Keys of ours for which Docker has a word of its own."""


class Options(Struct, frozen=True):
    """What a network's options say; see kept.DockerNetwork for the last four. driver: the driver's keys and values."""

    driver: dict[str, Any]
    firewall: str = "auto"
    named: str = ""
    prefix: str = "eth"
    host_ip: str = ""
    publish: bool = True


def generic(options: Document, where: str = "Options.") -> dict[str, Any]:
    """The options that a person gave, out of a request's Options."""
    found: dict[str, Any] = get(options, GENERIC, dict, {}, where)
    return found


def read(given: Mapping[str, Any], driver: str, ipv6: bool, where: str = "Options.") -> Options:
    """The person's options for a driver. ConfigError names option, value and what is allowed."""
    fields = _fields(driver)
    names = DOCKER.get(driver, {})
    others = ("network", "firewall", IFACE_PREFIX, *(BRIDGE_ONLY if driver == "bridge" else ()))
    own: dict[str, Any] = {}
    rest: dict[str, str] = {}
    for key, value in given.items():
        if not isinstance(value, str):
            raise ConfigError(f"{where}{key}", value, "a string")
        field = fields.get(names.get(key, key))
        if field is not None:
            own[field.encode_name] = converted(value, field.type, f"{where}{key}")
        elif key in others:
            rest[key] = value
        else:
            _refuse(f"{where}{key}", key, value, [*names, *fields, *others])
    made = {**own, **_gateway(rest, ipv6, where)} if driver == "bridge" else own
    prefix = rest.get(IFACE_PREFIX, "eth")
    check_link_name(f"{prefix}0", f"{where}{IFACE_PREFIX}")
    return Options(
        made,
        rest.get("firewall", "auto"),
        rest.get("network", ""),
        prefix,
        _address(rest.get(BINDING, ""), f"{where}{BINDING}"),
        MODES[4] not in rest or rest[MODES[4]] == "nat",
    )


def _fields(driver: str) -> dict[str, msgspec.structs.FieldInfo]:
    """A driver's keys that have one value, by name."""
    return {
        field.name: field
        for field in msgspec.structs.fields(find_driver(driver).options_type)
        if field.name not in ELSEWHERE and field.type in (bool, int, str, bool | str)
    }


def _refuse(field: str, key: str, value: str, known: list[str]) -> None:
    if key in REFUSED:
        raise ConfigError(field, value, REFUSED[key])
    if key in ELSEWHERE:
        raise ConfigError(field, value, f"not an option: use {ELSEWHERE[key]}")
    raise ConfigError(field, value, "not an option of this driver", near(key, known))


def _gateway(rest: Mapping[str, str], ipv6: bool, where: str) -> dict[str, bool]:
    """Whether the bridge has the gateways' addresses and whether what leaves is masqueraded, if anything is said.

    Modes: "nat"; "routed" leaves addresses as they are and publishes nothing; "isolated" gives the
    host no address. Both families have the same.
    """
    if converted(rest.get(DEFAULT_BRIDGE, "false"), bool, f"{where}{DEFAULT_BRIDGE}"):
        raise ConfigError(f"{where}{DEFAULT_BRIDGE}", rest[DEFAULT_BRIDGE], "false: Docker's own bridge is Docker's")
    mode = rest.get(MODES[4], "nat")
    if mode not in ("nat", "routed", "isolated"):
        raise ConfigError(f"{where}{MODES[4]}", mode, "nat, routed or isolated")
    other = rest.get(MODES[6], mode)
    if ipv6 and other != mode:
        raise ConfigError(f"{where}{MODES[6]}", other, f"{mode}, as {MODES[4]} is")
    inhibited = converted(rest.get(INHIBIT, "false"), bool, f"{where}{INHIBIT}")
    if inhibited and ipv6:
        raise ConfigError(f"{where}{INHIBIT}", rest[INHIBIT], "false in a network with IPv6")
    found = {}
    if mode == "routed":
        found["ipMasq"] = False
    if mode == "isolated" or inhibited:
        found["isGateway"] = False
    return found


def _address(text: str, field: str) -> str:
    if not text:
        return ""
    try:
        return _socket.inet_ntop(_socket.AF_INET, _socket.inet_pton(_socket.AF_INET, text))
    except (OSError, ValueError):
        raise ConfigError(field, text, "an IPv4 address of the host") from None


def converted(text: str, kind: Any, field: str) -> Any:
    """An option's text as a value of the kind. ConfigError says which texts are allowed."""
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError:
        raise ConfigError(field, text, {bool: "true or false", int: "a whole number"}.get(kind, "text")) from None
