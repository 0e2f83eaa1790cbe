"""netctl inspect: all that is known of a network or a container."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from netdrivers.netctl import output


@click.command("inspect")
@click.argument("name", metavar="NETWORK|CONTAINER")
@output.json_option
def inspect(name: str, as_json: bool) -> None:
    """Show a network (by name) or a container's attachments (by id, its beginning, or name).

    The record, each operation, the leases, the result, and where the kernel differs.
    """
    from netdrivers.netctl.details import details

    found = details(name)
    if as_json:
        output.show_json(found)
        return
    for position, item in enumerate(found):
        if position:
            output.show_lines([""])
        output.show_lines(list(network_lines(item) if item["kind"] == "network" else _attachment_lines(item)))


def network_lines(item: dict[str, Any]) -> Iterator[str]:
    """A network's details for people."""
    settled = item["network"]
    yield f"network {item['name']}"
    yield f"  file: {item['file'] or 'none'}"
    if settled is None:
        yield "  not made yet: the first attachment makes it"
        return
    yield f"  driver: {settled['driver']}"
    yield f"  state: {'ready' if item['ready'] else 'being made or removed'}"
    yield from _section("options", [f"{key}: {value}" for key, value in settled.get("options", {}).items()])
    yield from _section("operations", [operation["line"] for operation in item["operations"]])
    yield from _section("leases", [f"{lease['address']} of {lease['owner']}" for lease in item["leases"]])
    yield from _section("attachments", [_who(row) for row in item["attachments"]])
    yield from _section("names", list(_names(item["names"])) if item["names"] else [])
    yield from _section("differs", item["drift"])


def _names(found: dict[str, Any]) -> Iterator[str]:
    if found["note"]:
        yield f"note: {found['note']}"
    if found["servers"]:
        yield f"servers: {', '.join(found['servers'])}, search {found['domain']}"
    for entry in found["entries"]:
        yield f"{', '.join(entry['names'])}: {', '.join(entry['addresses'])}"


def _attachment_lines(item: dict[str, Any]) -> Iterator[str]:
    yield f"container {_who(item)} on network {item['network']}"
    yield f"  driver: {item['driver']}"
    yield f"  engine: {item['engine'] or 'unknown'}"
    yield f"  state: {item['state']}, {output.age(item['age'])} old"
    yield f"  netns: {item['netns']}"
    yield from _section("addresses", _addresses(item["lease"]))
    yield from _section("routes", [_route(route) for route in item["result"].get("routes", [])])
    yield from _section("ports", item["ports"])
    yield from _section("interfaces", [_interface(one) for one in item["result"].get("interfaces", [])])
    yield from _section("operations", [operation["line"] for operation in item["operations"]])
    yield from _section("differs", item["drift"])


def _section(title: str, lines: list[str]) -> Iterator[str]:
    if lines:
        yield f"  {title}:"
        yield from (f"    {line}" for line in lines)


def _who(row: dict[str, Any]) -> str:
    name = f" ({row['label']})" if row["label"] else ""
    return f"{row['container']}{name} {row['ifname']}"


def _addresses(lease: dict[str, Any]) -> list[str]:
    return [
        one["address"] + (f" gateway {one['gateway']}" if one.get("gateway") else "")
        for one in lease.get("addresses", [])
    ]


def _route(route: dict[str, Any]) -> str:
    return str(route["dst"]) + (f" via {route['via']}" if route.get("via") else "")


def _interface(one: dict[str, Any]) -> str:
    parts = [one["name"], one.get("mac", ""), "in the container" if one.get("sandbox") else "on the host"]
    return " ".join(part for part in parts if part)
