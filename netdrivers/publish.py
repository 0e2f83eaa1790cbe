"""Port mappings to publish operations; pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from netdrivers.errors import ConfigError
from netdrivers.model import Lease, PortMapping
from netdrivers.operations import AnyOperation, Publish

PROTOCOLS = ("tcp", "udp", "sctp")
WILDCARDS = {"0.0.0.0": 4, "::": 6}


def families_of(mapping: PortMapping, lease: Lease) -> list[int]:
    """The families a mapping is published in: those that the container has and the host address allows."""
    available = sorted({item.family for item in lease.addresses})
    if not mapping.host_ip:
        return available
    return [family for family in available if family == (6 if ":" in mapping.host_ip else 4)]


def check_mapping(mapping: PortMapping, field: str) -> None:
    """Protocol, ports and range within what can be published."""
    if mapping.protocol not in PROTOCOLS:
        raise ConfigError(f"{field}.protocol", mapping.protocol, "tcp, udp or sctp")
    for name, port in (("hostPort", mapping.host_port), ("containerPort", mapping.container_port)):
        if not 1 <= port <= 65535:
            raise ConfigError(f"{field}.{name}", port, "a port from 1 to 65535")
        if port + mapping.count - 1 > 65535:
            raise ConfigError(f"{field}.{name}", port, f"a port that leaves room for {mapping.count} in a row")
    if mapping.count < 1:
        raise ConfigError(f"{field}.range", mapping.count, "a number of ports from 1")


def publish_operations(mappings: Sequence[PortMapping], lease: Lease, backend: Any) -> list[AnyOperation]:
    """One operation for each mapping and family, leading to the container's first address of it."""
    found: list[AnyOperation] = []
    for i, mapping in enumerate(mappings):
        families = families_of(mapping, lease)
        if not families:
            family = 6 if ":" in mapping.host_ip else 4
            raise ConfigError(
                f"portMappings[{i}].hostIP", mapping.host_ip, f"no IPv{family} address: the container has none"
            )
        for family in families:
            target = next(item.ip for item in lease.addresses if item.family == family)
            host_ip = "" if mapping.host_ip in WILDCARDS else mapping.host_ip
            found.append(
                Publish(
                    mapping.protocol, mapping.host_port, target, mapping.container_port, host_ip, mapping.count, backend
                )
            )
    return found
