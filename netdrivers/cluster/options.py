"""Where a network's etcd is and who we are to it, from the network's configuration and a file; passwords are hidden."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import fields, replace

from netdrivers.errors import ConfigError, MissingField, NetdriversError
from netdrivers.model import Network
from netdrivers.near import near

DEFAULT_FILE = "/etc/netdrivers/cluster.toml"
LEAST_LEASE, LONGEST_LEASE = 3, 3600
HIDDEN = "(hidden)"
_SECRETS = ("password",)


class EtcdOptions(Struct, frozen=True):
    """How etcd is reached.

    endpoints: URLs. ca, cert, key: paths of PEM files. lease: seconds after which a host that gives no
    sign of life loses its entries on the others.
    """

    endpoints: tuple[str, ...] = ()
    ca: str = ""
    cert: str = ""
    key: str = ""
    username: str = ""
    password: str = ""
    lease: int = 30

    def __repr__(self) -> str:
        return f"EtcdOptions({', '.join(self.endpoints)})"


def checked(given: Any) -> EtcdOptions:
    """The options of an ``etcd`` object, each checked by itself. ConfigError, in which no password stands."""
    if not isinstance(given, Mapping):
        raise ConfigError("etcd", HIDDEN, "an object with endpoints, and ca, cert, key, username, password if needed")
    known = {field.name: field.type for field in fields(EtcdOptions)}
    for key, value in given.items():
        if key not in known:
            raise ConfigError("etcd", key, f"one of the keys {', '.join(known)}", near(key, known))
        if key == "endpoints":
            if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
                raise ConfigError("etcd.endpoints", HIDDEN, "an array of URLs")
        elif not isinstance(value, known[key]) or isinstance(value, bool):
            shown = HIDDEN if key in _SECRETS else value
            raise ConfigError(f"etcd.{key}", shown, "a whole number" if key == "lease" else "a string")
    found = EtcdOptions(**{**given, "endpoints": tuple(given.get("endpoints", ()))})
    for i, endpoint in enumerate(found.endpoints):
        _check_endpoint(endpoint, f"etcd.endpoints[{i}]")
    if not LEAST_LEASE <= found.lease <= LONGEST_LEASE:
        raise ConfigError("etcd.lease", found.lease, f"seconds from {LEAST_LEASE} to {LONGEST_LEASE}")
    return found


def _check_endpoint(endpoint: str, field: str) -> None:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(endpoint)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port is not None
    except ValueError:
        good = False
    if good and (parts.username or parts.password):
        raise ConfigError(field, HIDDEN, "a URL without a user: username and password are keys of their own")
    if not good or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ConfigError(field, endpoint if "@" not in endpoint else HIDDEN, "a URL such as https://192.0.2.1:2379")


def options_of(network: Network) -> EtcdOptions:
    """How a network's etcd is reached: as its configuration says, and the file for what it leaves out.

    ConfigError for a bad value, or for what is missing in both.
    """
    path = os.environ.get("NETDRIVERS_CLUSTER_CONFIG") or DEFAULT_FILE
    own = network.options.get("etcd")
    checked(own)
    found = checked({**_from_file(path), **(own or {})})
    if not found.endpoints:
        raise MissingField("etcd.endpoints", f"URLs of etcd's members, here or in {path}")
    for one, other in (("cert", "key"), ("key", "cert"), ("username", "password"), ("password", "username")):
        if getattr(found, one) and not getattr(found, other):
            raise MissingField(f"etcd.{other}", f"set, as etcd.{one} is")
    return found


def _from_file(path: str) -> dict[str, Any]:
    import tomllib

    try:
        with open(path, "rb") as file:
            table = tomllib.load(file).get("etcd", {})
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise NetdriversError(f"{path} cannot be read: {_reason(error)}") from None
    try:
        checked(table)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.field}", error.value, error.allowed, error.hint) from None
    return dict(table)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    position = str(error).rpartition("(at ")[2]
    return f"it is not TOML (at {position}" if position != str(error) else "it is not TOML"


def without_secrets(network: Network) -> Network:
    """The network as it may be shown to people: no password."""
    return replace(network, options=plain_without_secrets(network.options))


def plain_without_secrets(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration's keys as they may be shown: no password."""
    return dict(_shown(config))


def _shown(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if key == "etcd" and isinstance(value, Mapping):
            value = {name: HIDDEN if name in _SECRETS else item for name, item in value.items()}
        elif key == "etcd" and value is not None:
            value = HIDDEN
        yield key, value
