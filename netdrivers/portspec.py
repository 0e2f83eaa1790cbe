"""Published ports as people write them: [ADDRESS:]PORTS:PORTS[/PROTOCOL]."""

from __future__ import annotations

import _socket
import re

from netdrivers.errors import ConfigError
from netdrivers.model import PortMapping
from netdrivers.publish import check_mapping

FORM = "[ADDRESS:]PORT:PORT[/tcp|udp|sctp], such as 8080:80, 127.0.0.1:8080:80, [::1]:8080:80 or 8000-8009:80-89/udp"

_FORM = re.compile(
    r"^(?:(?P<ip>\[[0-9a-fA-F:.]+\]|[0-9.]+):)?"
    r"(?P<host>\d+)(?:-(?P<host_last>\d+))?:(?P<own>\d+)(?:-(?P<own_last>\d+))?(?:/(?P<protocol>\w+))?$"
)


def mapping(text: str, field: str = "--publish") -> PortMapping:
    """One mapping. ConfigError for what is none."""
    found = _FORM.match(text)
    if not found:
        raise ConfigError(field, text, FORM)
    host, own = int(found["host"]), int(found["own"])
    count = int(found["host_last"] or host) - host + 1
    own_count = int(found["own_last"] or own) - own + 1
    if count < 1 or own_count < 1:
        raise ConfigError(field, text, "a range from a lower to a higher port")
    if count != own_count:
        raise ConfigError(field, text, f"as many ports of the container as of the host ({own_count} and {count})")
    made = PortMapping((found["protocol"] or "tcp").lower(), host, own, _address(found["ip"], text, field), count)
    check_mapping(made, field)
    return made


def _address(given: str | None, text: str, field: str) -> str:
    """The host's address in its plain form, "" for every one."""
    if not given:
        return ""
    plain = given.strip("[]")
    family = _socket.AF_INET6 if ":" in plain else _socket.AF_INET
    try:
        return _socket.inet_ntop(family, _socket.inet_pton(family, plain))
    except OSError:
        raise ConfigError(field, text, FORM) from None
