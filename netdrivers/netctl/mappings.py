"""Published ports as people write them: [ADDRESS:]PORTS:PORTS[/PROTOCOL]."""

from __future__ import annotations

import re
from typing import Any

from netdrivers.errors import ConfigError
from netdrivers.model import PortMapping
from netdrivers.publish import check_mapping

FIELD = "--publish"
FORM = "[ADDRESS:]PORT:PORT[/tcp|udp|sctp], such as 8080:80, 127.0.0.1:8080:80, [::1]:8080:80 or 8000-8009:80-89/udp"

_FORM = re.compile(
    r"^(?:(?P<ip>\[[0-9a-fA-F:.]+\]|[0-9.]+):)?"
    r"(?P<host>\d+)(?:-(?P<host_last>\d+))?:(?P<own>\d+)(?:-(?P<own_last>\d+))?(?:/(?P<protocol>\w+))?$"
)


def mapping(text: str) -> PortMapping:
    """One mapping. ConfigError for what is none."""
    found = _FORM.match(text)
    if not found:
        raise ConfigError(FIELD, text, FORM)
    host, own = int(found["host"]), int(found["own"])
    count = int(found["host_last"] or host) - host + 1
    own_count = int(found["own_last"] or own) - own + 1
    if count < 1 or own_count < 1:
        raise ConfigError(FIELD, text, "a range from a lower to a higher port")
    if count != own_count:
        raise ConfigError(FIELD, text, f"as many ports of the container as of the host ({own_count} and {count})")
    made = PortMapping((found["protocol"] or "tcp").lower(), host, own, (found["ip"] or "").strip("[]"), count)
    check_mapping(made, FIELD)
    return made


def cni(mappings: list[PortMapping]) -> list[dict[str, Any]]:
    """The capability portMappings, one entry for each port, as every plugin reads it (CNI conventions)."""
    found: list[dict[str, Any]] = []
    for item in mappings:
        for step in range(item.count):
            entry: dict[str, Any] = {
                "hostPort": item.host_port + step,
                "containerPort": item.container_port + step,
                "protocol": item.protocol,
            }
            if item.host_ip:
                entry["hostIP"] = item.host_ip
            found.append(entry)
    return found
