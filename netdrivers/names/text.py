"""What aardvark-dns reads of one network: where it listens, and the names of each container. Pure.

Source: aardvark-dns, config.md; of networks that are internal, release notes of 1.11.
"""

from __future__ import annotations

import _socket
import re
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from netdrivers.drivers.common import merged_dns
from netdrivers.model import Attachment, Dns, Lease, Network

DOMAIN = "netdrivers.internal"
"""The search domain: NAME.netdrivers.internal is NAME. (The top-level domain is reserved for private use.)"""

NOWHERE = "127.255.255.254"
"""Where nobody answers: the resolver for outside names in a network that is internal."""

INTERNAL = "%int"
"""What the file of an internal network ends in, so that nothing is asked outside; 1.10 and before ignore it."""

_ID = re.compile(r"[0-9a-f]{64}")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_LONGEST = 253

Attached = tuple[Attachment, Lease]


def wanted(network: Network) -> bool:
    """Whether names are switched on in a network."""
    return network.options.get("names") is True


def file_name(network: Network) -> str:
    """The name of a network's file."""
    return network.name + (INTERNAL if network.options.get("internal") is True else "")


def servers(leases: Iterable[Lease]) -> tuple[str, ...]:
    """The addresses of the host that answer: the gateways, IPv4 first."""
    found = dict.fromkeys(item.gateway for lease in leases for item in lease.addresses if item.gateway)
    return tuple(sorted(found, key=lambda address: ":" in address))


def told(network: Network, lease: Lease, dns: Dns) -> Dns:
    """What a container's resolver is told: our servers, which ask those of the network for names of the outside."""
    found = servers([lease])
    return Dns(found, dns.domain, (DOMAIN, *dns.search), dns.options) if found else dns


def names_of(attachment: Attachment) -> tuple[str, ...]:
    """The names that a container is found by: its name, its aliases, and its id, of a long one the beginning."""
    own = attachment.container
    # Docker's endpoint has an id that nobody knows; its container's is among the aliases.
    own = "" if attachment.handover else own[:12] if _ID.fullmatch(own) else own
    given = (name.lower() for name in (attachment.label, *attachment.aliases, own))
    return tuple(dict.fromkeys(name for name in given if _is_name(name)))


def _is_name(name: str) -> bool:
    return len(name) <= _LONGEST and all(_LABEL.fullmatch(label) for label in name.split("."))


def content(network: Network, attached: Sequence[Attached], elsewhere: Sequence[Attached] = ()) -> str:
    """A network's file; "" when there is nobody to serve, or no address to serve them from.

    elsewhere: containers of the network on other hosts, whose names are known here, too.
    """
    listening = servers(lease for _, lease in attached)
    if not listening:
        return ""
    given = merged_dns(network.dns, network.ipam.dns).nameservers
    outside = [NOWHERE] if file_name(network) != network.name else list(filter(_is_address, given))
    first = " ".join(filter(None, (",".join(listening), ",".join(outside))))
    return "\n".join([first, *_lines((*attached, *elsewhere)), ""])


class Question(Struct, frozen=True):
    """What to ask the servers of a network to see that they serve it: a name that has an address of a family."""

    servers: tuple[str, ...]
    name: str = ""
    family: int = 4


def question(content: str) -> Question:
    """The question for a network's file; the name "" where nobody has one."""
    head, *lines = content.splitlines() or [""]
    listening = tuple(filter(None, head.split(" ")[0].split(",")))
    fields = lines[0].split(" ") if lines else []
    if len(fields) != 4:
        return Question(listening)
    return Question(listening, fields[3].split(",")[0], 4 if fields[1] else 6)


def _lines(attached: Sequence[Attached]) -> Iterator[str]:
    for attachment, lease in attached:
        names = names_of(attachment)
        four = ",".join(item.ip for item in lease.addresses if item.family == 4)
        six = ",".join(item.ip for item in lease.addresses if item.family == 6)
        if names and (four or six):
            yield f"{attachment.container} {four} {six} {','.join(names)}"


def _is_address(text: str) -> bool:
    """aardvark-dns ends at a line that it does not understand."""
    try:
        _socket.inet_pton(_socket.AF_INET6 if ":" in text else _socket.AF_INET, text)
    except OSError:
        return False
    return True
