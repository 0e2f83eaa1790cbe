"""The floor as a peer: floor.c does the kernel calls of a bridge ADD or DEL and nothing else."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

from bench import process
from bench.peers.base import Attachment, Done, Net, Peer

_RULESET = """
table inet floor {
    map publish { type inet_proto . inet_service : ipv4_addr . inet_service; }
    chain prerouting {
        type nat hook prerouting priority -100;
        fib daddr type local dnat ip to meta l4proto . th dport map @publish
    }
    chain postrouting {
        type nat hook postrouting priority 100;
        ip saddr 10.0.0.0/8 ip daddr != 10.0.0.0/8 masquerade
    }
}
"""


@dataclass
class Floor(Peer):
    """Raw netlink from a static C program; the network and the ruleset are made beforehand, untimed."""

    key: str = "floor"
    label: str = "floor (netlink from C)"

    def absent(self) -> str:
        """Never absent: scripts/bench compiles it."""
        return ""

    def start(self) -> None:
        """Load the ruleset with the publish map."""
        subprocess.run(["nft", "-f", "-"], input=_RULESET, text=True, check=True)
        self._bridges: set[str] = set()

    def prepare(self, attachment: Attachment) -> None:
        """The sandbox, and the bridge when it is the network's first."""
        super().prepare(attachment)
        if attachment.net.bridge not in self._bridges:
            self._bridges.add(attachment.net.bridge)
            _make_bridge(attachment.net)

    def add(self, attachment: Attachment) -> Done:
        """One process: veth, port, address, route, map elements."""
        first, target, count = _ports(attachment)
        words = [
            self.tools.floor, "add", attachment.netns, _host_name(attachment), attachment.mac, attachment.address, "16",
            attachment.net.gateway, attachment.net.bridge, str(first), str(target), str(count),
        ]  # fmt: skip
        finished = self.call(words)
        return Done(finished.seconds, attachment.address, inner_us=_inner(finished))

    def delete(self, attachment: Attachment, done: Done) -> float:
        """One process: map elements, then the veth, whose end the kernel makes it wait for."""
        first, _, count = _ports(attachment)
        return self.call([self.tools.floor, "del", _host_name(attachment), str(first), str(count)]).seconds


def _make_bridge(net: Net) -> None:
    for command in (
        ["ip", "link", "add", net.bridge, "address", f"02:00:00:00:00:{net.number:02x}", "type", "bridge"],
        ["ip", "addr", "add", f"{net.gateway}/16", "dev", net.bridge],
        ["ip", "link", "set", net.bridge, "up"],
    ):
        subprocess.run(command, check=True)


def _host_name(attachment: Attachment) -> str:
    return f"f{attachment.net.number}v{attachment.number}"


def _ports(attachment: Attachment) -> tuple[int, int, int]:
    """First host port, first container port and count; floor.c publishes consecutive ports only."""
    if not attachment.ports:
        return 0, 0, 0
    return attachment.ports[0][0], attachment.ports[0][1], len(attachment.ports)


def _inner(finished: process.Finished) -> float:
    return float(finished.stdout.split()[1])


def inner_pairs(tools_floor: str, attachment: Attachment, count: int) -> list[tuple[float, float]]:
    """(ADD, DEL) microseconds of count pairs in one process; the sandbox and the bridge must be there."""
    first, target, ports = _ports(attachment)
    finished = process.check(
        process.run(
            [
                tools_floor, "pairs", str(count), attachment.netns, _host_name(attachment), attachment.mac,
                attachment.address, "16", attachment.net.gateway, attachment.net.bridge,
                str(first), str(target), str(ports),
            ]
        ),
        "floor pairs",
    )  # fmt: skip
    figures = [float(line.split()[1]) for line in finished.stdout.splitlines()]
    return list(zip(figures[::2], figures[1::2], strict=True))
