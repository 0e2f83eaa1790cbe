"""Many hosts of one overlay network against a real etcd: their keepers are ours, their kernels are not there.

Run by scripts/simulate-hosts, in a network namespace made for it. All keepers share this process and its
interpreter lock, so a real host, which has one of its own, is faster than what is measured here.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from netdrivers.cluster.etcd import Etcd
from netdrivers.cluster.join import Identity
from netdrivers.cluster.keeper import Keeper
from netdrivers.cluster.layout import SCHEMA, SCHEMA_KEY, AttachmentEntry, HostEntry, Keys, Owner, Settings, encode
from netdrivers.cluster.messages import put
from netdrivers.cluster.options import EtcdOptions
from netdrivers.cluster.view import View
from netdrivers.model import Network

ENDPOINT = "http://127.0.0.1:2379"
SETTINGS = Settings("10.0.0.0/8", 24, 42, 4789)
NETWORK = Network("simulated", "overlay", {})
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


class Host:
    """A keeper's backend without a kernel: remembers how many hosts it was told of last, and when."""

    def __init__(self, number: int, containers: int, options: EtcdOptions) -> None:
        self.address = f"172.{16 + number // 65025}.{number // 255 % 255}.{number % 255 + 1}"
        self.containers = {(f"container{number:05}x{i:05}", "eth0"): self._entry(number, i) for i in range(containers)}
        self.applied = 0
        self.keeper = Keeper(Identity(NETWORK, self.address, SETTINGS), options, self)

    def _entry(self, number: int, i: int) -> AttachmentEntry:
        return AttachmentEntry((f"10.{number // 256}.{number % 256}.{i % 250 + 2}/24",), f"name{i}", "podman")

    def attach(self, name: str) -> None:
        """One more container."""
        self.containers = {**self.containers, (name, "eth0"): AttachmentEntry(("10.255.255.9/24",), name, "podman")}
        self.keeper.nudge()

    def wanted(self) -> bool:
        """Always."""
        return True

    def attachments(self) -> Mapping[tuple[str, str], AttachmentEntry]:
        """As simulated."""
        return self.containers

    def apply(self, view: View) -> None:
        """Nothing but a note."""
        self.applied = len(view.hosts)

    def neighbours(self, view: View) -> None:
        """Of no interest."""

    def lost(self, reason: str) -> None:
        """Cannot be."""
        raise AssertionError(reason)


class Server:
    """A real etcd in this namespace, on data that go with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.process = self._run()

    def _run(self) -> subprocess.Popen[bytes]:
        with open(self._folder / "log", "ab") as log:
            return subprocess.Popen(
                ["etcd", "--data-dir", str(self._folder / "data"), "--log-level", "error"], stdout=log, stderr=log
            )

    def restart(self, down_seconds: float) -> None:
        """Kill it, wait, run it again."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        time.sleep(down_seconds)
        self.process = self._run()

    def cpu_seconds(self) -> float:
        """What it has used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def megabytes(self) -> float:
        """What it has resident."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * _PAGE / 2**20

    def stop(self) -> None:
        """End."""
        self.process.terminate()
        self.process.wait()


def wait(hosts: list[Host], condition: Callable[[Host], bool], what: str, limit: float = 600.0) -> float:
    """Seconds until it is true of every host. Each is looked at until it is, and no more: looking takes time, too."""
    began = time.monotonic()
    for host in hosts:
        while not condition(host):
            if time.monotonic() - began > limit:
                sys.exit(f"gave up after {limit:.0f} s: {what}")
            time.sleep(0.002)
    return time.monotonic() - began


def megabytes() -> float:
    """What this process has resident."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE / 2**20


def bytes_on_wire() -> int:
    """What the only device of this namespace has carried so far."""
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.partition(":")[2].split()[0])


def seed(options: EtcdOptions, first: int, count: int, containers: int) -> None:
    """Write down hosts with their containers as if they were there; nobody watches for them."""
    with Etcd(options, budget_seconds=30.0) as etcd:
        lease = etcd.grant(3600)
        keys = Keys(NETWORK.name)
        operations = [put(SCHEMA_KEY, SCHEMA.encode()), put(keys.settings, encode(SETTINGS))]
        for number in range(first, first + count):
            host = Host(number, containers, options)
            part = f"10.{number // 256}.{number % 256}.0/24"
            operations.append(put(keys.slice(part), host.address.encode()))
            operations.append(put(keys.owner(host.address), encode(Owner(part))))
            operations.append(put(keys.host(host.address), encode(HostEntry(part, f"host{number}", "0.1.0")), lease))
            operations += [
                put(keys.attachment(host.address, container, ifname), encode(entry), lease)
                for (container, ifname), entry in host.containers.items()
            ]
        for i in range(0, len(operations), 100):
            etcd.transaction(operations[i : i + 100])


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The figures of a run."""
    options = EtcdOptions((ENDPOINT,))
    server = Server(folder)
    time.sleep(2)
    seed(options, 5000, given.known_hosts, given.known_containers)
    hosts = [Host(number, given.containers, options) for number in range(given.hosts)]
    extra = Host(given.hosts, 0, options)
    count = given.hosts + given.known_hosts
    total = given.hosts * given.containers + given.known_hosts * given.known_containers
    found: dict[str, Any] = {"simulated": given.hosts, "hosts": count, "containers": total}
    try:
        wire, cpu, memory = bytes_on_wire(), server.cpu_seconds(), megabytes()
        for i, host in enumerate(hosts, 1):
            host.keeper.start()
            if given.per_second and i % given.per_second == 0:
                time.sleep(1)
        found["joined_s"] = wait(hosts, lambda host: host.applied == count, "joining")
        found["attachments_known_s"] = found["joined_s"] + wait(
            hosts, lambda host: host.keeper.report()["attachments"] == total, "attachments"
        )
        found["joining"] = {
            "megabytes_carried": (bytes_on_wire() - wire) / 1e6,
            "etcd_cpu_s": server.cpu_seconds() - cpu,
            "memory_of_a_host_mb": (megabytes() - memory) / given.hosts,
        }

        took = []
        wire = bytes_on_wire()
        for i in range(10):
            key, address = f"late{i}/eth0".encode(), hosts[0].address
            hosts[0].attach(f"late{i}")
            took.append(
                wait(
                    hosts,
                    lambda host, key=key, address=address: key in host.keeper.view.attachments.get(address, {}),
                    "an attachment",
                )
            )
        found["attachment_reaches_all_ms"] = {
            "median": statistics.median(took) * 1000,
            "most": max(took) * 1000,
            "bytes_for_each_host": (bytes_on_wire() - wire) / 10 / given.hosts,
        }

        extra.keeper.start()
        found["new_host_known_s"] = wait(hosts, lambda host: host.applied == count + 1, "a new host")
        extra.keeper.stop(withdraw=True)
        found["left_host_dropped_s"] = wait(hosts, lambda host: host.applied == count, "a host that left")

        cpu, wire, own = server.cpu_seconds(), bytes_on_wire(), time.process_time()
        time.sleep(given.idle)
        found["idle"] = {
            "etcd_cpu_percent": (server.cpu_seconds() - cpu) / given.idle * 100,
            "bytes_per_second_and_host": (bytes_on_wire() - wire) / given.idle / given.hosts,
            "cpu_percent_of_a_host": (time.process_time() - own) / given.idle / given.hosts * 100,
        }
        found["etcd"] = {
            "resident_mb": server.megabytes(),
            "data_mb": sum(path.stat().st_size for path in (folder / "data").rglob("db")) / 1e6,
        }

        sessions = {host.address: host.keeper.report()["sessions"] for host in hosts}
        server.restart(5.0)
        found["back_after_restart_s"] = wait(
            hosts, lambda host: host.keeper.report()["sessions"] > sessions[host.address], "etcd's return"
        )
        assert all(host.applied == count for host in hosts), "nobody was forgotten"
    finally:
        threads = [threading.Thread(target=host.keeper.stop) for host in hosts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        server.stop()
    return found


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=200, help="that are simulated")
    parser.add_argument("--containers", type=int, default=10, help="of each of them")
    parser.add_argument("--per-second", type=int, default=0, help="hosts that start in a second; 0: all at once")
    parser.add_argument("--known-hosts", type=int, default=0, help="more hosts, which stand in etcd and do nothing")
    parser.add_argument("--known-containers", type=int, default=100, help="of each of them")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds to look at a network that rests")
    given = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    threading.stack_size(512 * 1024)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(given, Path(folder))
    print(json.dumps(_rounded(found), indent=2))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
