"""What stands on our VXLAN devices and is in no record: forwarding entries, permanent neighbours, routes."""

from __future__ import annotations

from collections.abc import Iterator

from netdrivers.kernel import rtnl
from netdrivers.kernel.drift import Reader
from netdrivers.operations import AnyOperation, ForwardingEntry, InterfaceRoute, Neighbour, Operations, Vxlan

RTPROT_KERNEL = 2
"""Routes that come with an address (linux/rtnetlink.h)."""


def strays(operations: Operations, reader: Reader) -> Operations:
    """As operations that would make them, so that undoing these removes them."""
    known = {_place(operation) for operation in operations}
    devices = [operation.name for operation in operations if isinstance(operation, Vxlan)]
    return tuple(found for device in devices for found in _on(device, reader) if _place(found) not in known)


def _on(device: str, reader: Reader) -> Iterator[AnyOperation]:
    link = reader.link("host", device)
    if link is None:
        return
    index = link["index"]
    for mac, vtep in reader.forwarding_entries(index).items():
        yield ForwardingEntry(device, mac, vtep)
    for address, mac in reader.neighbours("host", index).items():
        yield Neighbour("host", device, address, mac)
    for family in (rtnl.AF_INET, rtnl.AF_INET6):
        for (device_index, dst), routes in reader.routes("host", family).items():
            for route in routes if device_index == index else ():
                table = route.get("RTA_TABLE") or route["table"]
                if table == rtnl.RT_TABLE_MAIN and route["proto"] != RTPROT_KERNEL:
                    yield InterfaceRoute("host", device, dst, route.get("RTA_GATEWAY") or "", onlink=True)


def _place(operation: AnyOperation) -> object:
    """Where the kernel keeps it: two that differ in nothing else are one there."""
    match operation:
        case ForwardingEntry():
            return "fdb", operation.link, operation.mac
        case Neighbour():
            return "neighbour", operation.link, operation.address
        case InterfaceRoute():
            return "route", operation.link, operation.dst
    return operation
