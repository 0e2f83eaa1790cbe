"""What a host's network looks like, in a form where equal means unchanged: links, addresses, routes, rules."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

from .harness import EngineHost, eventually

Run = Callable[..., str]
"""Runs a command given as arguments; returns its standard output."""

Picture = dict[str, list[str]]


def network(run: Run) -> Picture:
    """Links, addresses, routes and the nft ruleset as seen by ``run``, without counters, handles and link state."""
    return {
        "links": sorted(_link(link) for link in _json(run, "ip", "-j", "-d", "link")),
        "addresses": sorted(
            f"{link['ifname']} {address['local']}/{address['prefixlen']}"
            for link in _json(run, "ip", "-j", "address")
            for address in link["addr_info"]
            if address["scope"] != "link"
        ),
        "routes": sorted(
            " ".join(
                f"{key} {route[key]}" for key in ("type", "dst", "gateway", "dev", "table", "metric") if key in route
            )
            for family in ("-4", "-6")
            for route in _json(run, "ip", "-j", family, "route", "show", "table", "all")
            if not str(route["dst"]).startswith(("fe80:", "ff00:", "multicast")) and route.get("type") != "anycast"
        ),
        "rules": sorted(
            json.dumps(_plain(rule), sort_keys=True) for rule in _json(run, "nft", "-j", "list", "ruleset")["nftables"]
        ),
    }


def settled(run: Run) -> Picture:
    """The network once it looks the same twice in a row: links of what ran before may still be going."""
    seen = [network(run)]

    def again() -> bool:
        seen.append(network(run))
        return seen[-1] == seen[-2]

    eventually(again)
    return seen[-1]


def own() -> Picture:
    """The network of the namespace that the tests themselves run in, which no test may change."""
    picture = network(lambda *argv: subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    for path in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
        with open(f"/proc/sys/{path}") as value:
            picture[path] = [value.read().strip()]
    return picture


@contextlib.contextmanager
def unchanged(host: EngineHost) -> Iterator[None]:
    """Asserts that the block leaves the host's network and who is attached to ours (netctl's account) as it was."""

    def attachments() -> set[tuple[str, str, str]]:
        listed = json.loads(host.machine("netctl", "ls", "--json"))
        return {(one["network"], one["container"], one["ifname"]) for one in listed}

    before, attached = settled(host.machine), attachments()
    yield
    # The kernel takes some time to remove a link.
    change = eventually(lambda: difference(before, network(host.machine)), lambda lines: not lines)
    if change:
        lines = [line if len(line) < 240 else line[:240] + " ..." for line in change[:20]]
        raise AssertionError(f"{len(change)} changes of the host's network:\n" + "\n".join(lines))
    if attachments() != attached:
        raise AssertionError(f"attachments before: {attached}; and after: {attachments()}")


def difference(before: Picture, after: Picture) -> list[str]:
    """One line for each thing that came ("+") or went ("-"); empty when nothing changed."""
    return [
        f"{sign} {kind}: {line}"
        for kind in before
        for sign, these, those in (("-", before, after), ("+", after, before))
        for line in these[kind]
        if line not in those[kind]
    ]


def _json(run: Run, *argv: str) -> Any:
    return json.loads(run(*argv) or "[]")


def _link(link: dict[str, Any]) -> str:
    kind = link.get("linkinfo", {}).get("info_kind", "")
    state = "up" if "UP" in link["flags"] else "down"
    return f"{link['ifname']} {kind} {link.get('address')} mtu {link['mtu']} {state} of {link.get('master')}"


def _plain(value: Any) -> Any:
    """The value without what changes by itself."""
    if isinstance(value, dict):
        return {
            key: _plain(item)
            for key, item in value.items()
            if key not in ("handle", "packets", "bytes", "metainfo", "expires")
        }
    if isinstance(value, list):
        return sorted((_plain(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    return value
