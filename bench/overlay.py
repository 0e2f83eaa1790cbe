"""Throughput of our overlay and of a VXLAN made by hand, between the same two hosts, in turns.

Run by scripts/bench-overlay. The hosts are network namespaces on a wire. By hand: ip link, a bridge on each host, the
device as its port.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lab import Host, Namespace, wire

STREAMS = (1, 8)


def hosts(folder: Path) -> tuple[Host, Host]:
    """Two hosts on a wire."""
    made = (Host("left", folder / "left"), Host("right", folder / "right"))
    wire(made[0], "eth0", made[1], "eth0")
    for last, host in enumerate(made, 1):
        host.run("ip", "addr", "add", f"192.0.2.{last}/24", "dev", "eth0")
    return made


def ours(pair: tuple[Host, Host], encrypted: bool) -> tuple[list[Namespace], str]:
    """A container on each host, by our driver; the second one's address."""
    peers = [{"host": f"192.0.2.{n}", "slice": f"10.210.{n}.0/24"} for n in (1, 2)]
    config = {"cniVersion": "1.1.0", "name": "ours", "type": "overlay", "vni": 1, "subnet": "10.210.0.0/16",
              "port": 4790, "underlay": "eth0", "peers": peers, "encrypted": encrypted}  # fmt: skip
    made, address = [], ""
    for i, host in enumerate(pair):
        made.append(Namespace(f"ours{i}", loopback=False))
        result = host.call("overlay", "ADD", config, made[-1], f"ours{i}")
        address = result["ips"][0]["address"].partition("/")[0]
    return made, address


def by_hand(pair: tuple[Host, Host]) -> tuple[list[Namespace], str]:
    """A container on each host, by ip-link(8); the second one's address."""
    made = []
    for i, host in enumerate(pair):
        space = Namespace(f"hand{i}", loopback=False)
        for words in (
            f"link add hand0 type vxlan id 2 dstport 4789 local 192.0.2.{i + 1} remote 192.0.2.{2 - i} dev eth0",
            "link add handbr type bridge", "link set hand0 master handbr up", "link set handbr up",
            f"link add handveth type veth peer name eth0 netns {space.path}", "link set handveth master handbr up",
        ):  # fmt: skip
            host.run("ip", *words.split())
        for words in ("link set eth0 mtu 1450 up", f"addr add 10.99.0.{i + 1}/24 dev eth0"):
            space.run("ip", *words.split())
        host.run("ip", "link", "set", "handveth", "mtu", "1450")
        made.append(space)
    return made, "10.99.0.2"


@contextmanager
def listening(space: Namespace) -> Iterator[None]:
    """iperf3's server in a namespace."""
    server = subprocess.Popen(
        ["nsenter", f"--net={space.path}", "--", "iperf3", "-s"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not space.run("ss", "-Hltn", "sport", "=", ":5201").stdout:
            time.sleep(0.05)
        yield
    finally:
        server.terminate()
        server.wait()


def gigabits(space: Namespace, address: str, streams: int, seconds: int) -> float:
    """What one run of iperf3 receives, in Gbit/s."""
    done = space.run("iperf3", "-J", "-c", address, "-P", str(streams), "-t", str(seconds))
    received: float = json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]
    return received / 1e9


def main() -> None:
    """Print what each reached, and the median of how they compare in each round, for each number of streams."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=int, default=1, help="of each run")
    parser.add_argument("--encrypted", action="store_true", help="ours with ESP, for the price of it")
    given = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        pair = hosts(Path(folder))
        spaces = {"ours": ours(pair, given.encrypted), "by hand": by_hand(pair)}
        with listening(spaces["ours"][0][1]), listening(spaces["by hand"][0][1]):
            for streams in STREAMS:
                runs: dict[str, list[float]] = {name: [] for name in spaces}
                for _ in range(given.rounds):
                    for name in random.sample(sorted(spaces), len(spaces)):  # who goes first is chance
                        (client, _), address = spaces[name]
                        runs[name].append(gigabits(client, address, streams, given.seconds))
                found[f"{streams} streams"] = _compared(runs)
    json.dump(found, sys.stdout, indent=2)
    print()


def _compared(runs: dict[str, list[float]]) -> dict[str, Any]:
    """Neighbours in time are compared, so that other work on the machine weighs on both."""
    percent = [(mine / other - 1) * 100 for mine, other in zip(runs["ours"], runs["by hand"], strict=True)]
    low, middle, high = statistics.quantiles(percent, n=4)
    return {
        "gbit": {name: round(statistics.median(values), 2) for name, values in runs.items()},
        "ours_is_better_by_percent": {"quarter": round(low, 1), "median": round(middle, 1), "three": round(high, 1)},
    }


if __name__ == "__main__":
    main()
