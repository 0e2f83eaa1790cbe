"""Docker's port bindings as port mappings; where Docker leaves the host's port open, a free one.

Source: moby, daemon/libnetwork/types, PortBinding.
"""

from __future__ import annotations

import _socket
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from netdrivers.errors import ConfigError
from netdrivers.frontends.docker.options import PREFIX
from netdrivers.frontends.reading import Document, get, need, objects
from netdrivers.lifecycle import Lifecycle
from netdrivers.model import PortMapping
from netdrivers.publish import check_mapping

PORTMAP = f"{PREFIX}portmap"
PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}
DYNAMIC = (49153, 65535)
"""Where a free port is taken from when none is said, as Docker does."""


class Binding(Struct, frozen=True):
    """A mapping of one port, whose host port may be any up to last."""

    mapping: PortMapping
    last: int


def bindings(options: Document, host_ip: str, where: str = "Options.") -> list[Binding]:
    """What Docker wants published. host_ip: of those that name none. ConfigError for what cannot be."""
    found = []
    for i, item in enumerate(objects(options, PORTMAP, where)):
        field = f"{where}{PORTMAP}[{i}]"
        number = need(item, "Proto", int, f"{field}.")
        if number not in PROTOCOLS:
            raise ConfigError(f"{field}.Proto", number, "6 (tcp), 17 (udp) or 132 (sctp)")
        first = get(item, "HostPort", int, 0, f"{field}.")
        last = get(item, "HostPortEnd", int, 0, f"{field}.") or first
        if first == 0:
            first, last = DYNAMIC
        mapping = PortMapping(
            PROTOCOLS[number],
            first,
            need(item, "Port", int, f"{field}."),
            _host_ip(get(item, "HostIP", str, "", f"{field}."), field) or host_ip,
        )
        check_mapping(mapping, field)
        if not first <= last <= 65535:
            raise ConfigError(f"{field}.HostPortEnd", last, f"a port from {first} to 65535")
        found.append(Binding(mapping, last))
    return found


def _host_ip(text: str, field: str) -> str:
    try:
        family = _socket.AF_INET6 if ":" in text else _socket.AF_INET
        return _socket.inet_ntop(family, _socket.inet_pton(family, text)) if text else ""
    except (OSError, ValueError):
        raise ConfigError(f"{field}.HostIP", text, "an IP address of the host") from None


def chosen(
    wanted: Iterable[Binding], published: Sequence[PortMapping], lifecycle: Lifecycle, key: str
) -> tuple[PortMapping, ...]:
    """The mappings with their host ports: those that are published already, else free ones; neighbours joined.

    published: of the attachment with that key. Exhausted when a range has no free port.
    """
    singles = [single for mapping in published for single in _singles(mapping)]
    found: list[PortMapping] = []
    for binding in wanted:
        first = binding.mapping.host_port
        kept = (m for m in singles if replace(m, host_port=first) == binding.mapping and m not in found)
        mapping = next((m for m in kept if first <= m.host_port <= binding.last), None)
        if mapping is None and first == binding.last:
            mapping = binding.mapping
        elif mapping is None:
            taken = {m.host_port for m in [*found, *singles] if m.protocol == binding.mapping.protocol}
            mapping = lifecycle.publishing.free_port(key, binding.mapping, binding.last, taken)
        found.append(mapping)
    return joined(found)


def _singles(mapping: PortMapping) -> list[PortMapping]:
    return [
        replace(mapping, host_port=mapping.host_port + step, container_port=mapping.container_port + step, count=1)
        for step in range(mapping.count)
    ]


def joined(singles: Iterable[PortMapping]) -> tuple[PortMapping, ...]:
    """Mappings of one port each as ranges, where one follows the other."""
    found: list[PortMapping] = []
    for mapping in sorted(dict.fromkeys(singles), key=lambda m: (m.protocol, m.host_ip, m.host_port)):
        last = found[-1] if found else None
        if last and mapping == replace(
            last, host_port=last.host_port + last.count, container_port=last.container_port + last.count, count=1
        ):
            found[-1] = replace(last, count=last.count + 1)
        else:
            found.append(mapping)
    return tuple(found)


def shown(mapping: PortMapping) -> dict[str, Any]:
    """A mapping in the form of Docker's binding, for EndpointOperInfo."""
    number = next(number for number, word in PROTOCOLS.items() if word == mapping.protocol)
    last = mapping.host_port + mapping.count - 1
    return {
        "Proto": number, "Port": mapping.container_port, "HostIP": mapping.host_ip, "HostPort": mapping.host_port,
        "HostPortEnd": last,
    }  # fmt: skip
