"""What a driver is whose networks span hosts, and where a host stands in such a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeGuard

import msgspec
from msgspec import Struct

from netdrivers.model import Network
from netdrivers.operations import ForwardingEntry, InterfaceRoute, IpsecPolicy, IpsecState, Neighbour, Operations

PEER_OPERATIONS = (ForwardingEntry, Neighbour, InterfaceRoute, IpsecState, IpsecPolicy)
"""The kinds of operation that lead to other hosts; in a spanning driver's plan_network they do nothing else."""


class Peer(Struct, frozen=True, omit_defaults=True):
    """A host of the network: its underlay address, and the slice of the subnet that is its own.

    keys: the newest generation of an encrypted network's secret that it is known to hold.
    """

    host: str
    slice: str
    keys: int = 0


class Place(Struct, frozen=True, omit_defaults=True):
    """Where this host stands: its slice, and the hosts that are there (itself may be among them).

    secrets: the generations of an encrypted network's secret that are to be understood, oldest first,
    and the files that hold them. cluster: the id of the etcd cluster that keeps the network, 0 for
    none. lost: in words, that the slice was taken from this host; "" as it should be.
    """

    slice: str
    hosts: tuple[Peer, ...] = ()
    secrets: tuple[tuple[int, str], ...] = ()
    cluster: int = 0
    lost: str = ""


def packed(place: Place) -> dict[str, Any]:
    """A place as a network's options hold it: its hosts in one text, as an add reads the options and not the hosts."""
    hosts = "\n".join(f"{peer.host} {peer.slice} {peer.keys}" for peer in place.hosts)
    return {**msgspec.to_builtins(msgspec.structs.replace(place, hosts=())), "hosts": hosts}


def unpacked(options: Mapping[str, Any]) -> Place | None:
    """The place that was packed so; None for empty options."""
    if not options:
        return None
    lines = (line.split() for line in options["hosts"].splitlines())
    hosts = tuple(Peer(host, part, int(keys)) for host, part, keys in lines)
    return msgspec.structs.replace(msgspec.convert({**options, "hosts": ()}, Place), hosts=hosts)


class SpanningDriver(Protocol):
    """Beside drivers.base.Driver, what turns a place into a plan. No I/O."""

    def place(self, network: Network, place: Place) -> Network:
        """A settled network with this host's place in it, or with another one than before."""

    def placed(self, network: Network) -> Place | None:
        """The place that a network was given."""

    def keeps_place(self, before: Network, after: Network) -> bool:
        """Whether a network's place is as good after a change of its configuration."""

    def whole(self, network: Network) -> str:
        """The subnet of all hosts."""

    def plan_peers(self, network: Network) -> Operations:
        """What of plan_network leads to other hosts, in order."""


def spans(driver: object) -> TypeGuard[SpanningDriver]:
    """Whether a driver's networks span hosts; isinstance with a protocol would import inspect (Python 3.13)."""
    return hasattr(driver, "placed")
