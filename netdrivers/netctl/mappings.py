"""Published ports as CNI plugins are told of them."""

from __future__ import annotations

from typing import Any

from netdrivers.model import PortMapping


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
