"""Overlay networks over three machines with a kernel each: listed peers, etcd, encryption; one machine off and on."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.vm.machines import Machine
from tests.vm.node import DEVICE, until

pytestmark = [pytest.mark.feature("several machines"), pytest.mark.nodes(3), pytest.mark.whole]
MEMBERS = ",".join(f"node{n}=http://10.77.0.1{n}:2380" for n in (1, 2, 3))
ENDPOINTS = [f"http://10.77.0.1{n}:2379" for n in (1, 2, 3)]


@pytest.fixture(scope="module")
def machines() -> list[Machine]:
    """All three, ready."""
    return [Machine(number).ready() for number in (1, 2, 3)]


@pytest.fixture(autouse=True)
def _clean(machines: list[Machine]) -> Iterator[None]:
    """No containers and no networks after a test."""
    yield
    for machine in machines:
        machine.run(
            "pkill -f 'busybox [h]ttpd'; for n in $(ls /run/netns); do ip netns del $n; done;"
            " /opt/netdrivers/bin/netctl gc",
            check=False,
        )
        assert machine.run("/opt/netdrivers/bin/netctl ls --json").strip() == "[]"


def static(**more: Any) -> dict[str, Any]:
    """A network whose hosts are listed."""
    peers = [{"host": f"10.77.0.1{n}", "slice": f"10.210.{n}.0/24"} for n in (1, 2, 3)]
    return {
        "cniVersion": "1.1.0", "name": "shop", "type": "overlay", "vni": 4242, "subnet": "10.210.0.0/16",
        "peers": peers, **more,
    }  # fmt: skip


def attach_all(machines: list[Machine], config: dict[str, Any]) -> dict[str, str]:
    """A container on each machine; addresses by name."""
    return {f"c{machine.number}": machine.attach(config, f"c{machine.number}") for machine in machines}


def all_talk(machines: list[Machine], addresses: dict[str, str]) -> None:
    """Every pair, in both directions, with more than fits into a packet."""
    for left, right in itertools.permutations(machines, 2):
        there = f"c{right.number}"
        assert left.fetches(f"c{left.number}", addresses[there], there, right), f"{left.name} from {right.name}"


def off_and_on(machines: list[Machine], config: dict[str, Any], addresses: dict[str, str]) -> None:
    """The third machine loses its power with a container on it; the others go on; it comes back with nothing stale."""
    first, second, third = machines
    third.pull_the_plug()
    assert first.reaches("c1", addresses["c2"]), "the others do not notice"
    assert not first.reaches("c1", addresses["c3"], tries=1)
    third.ready()
    assert third.run("/opt/netdrivers/bin/netctl ls --json").strip() == "[]"
    assert "ndvx" not in third.run("ip -br link")
    addresses["c3"] = third.attach(config, "c3")
    until(lambda: second.reaches("c2", addresses["c3"], tries=1), "the new container is found")
    all_talk(machines, addresses)


def test_listed_peers_one_off_and_on(machines: list[Machine]) -> None:
    addresses = attach_all(machines, static())
    assert addresses == {f"c{n}": f"10.210.{n}.2" for n in (1, 2, 3)}
    all_talk(machines, addresses)
    off_and_on(machines, static(), addresses)
    assert addresses["c3"] == "10.210.3.2", "its lease of before is free"


@pytest.mark.feature("esp")
def test_encrypted_between_machines(machines: list[Machine]) -> None:
    """On the wire there is ESP and no VXLAN that could be read."""
    second = machines[1]
    for machine in machines:
        machine.run("install -d -m 700 /etc/netdrivers/keys && umask 077 && cat >/etc/netdrivers/keys/shop", "a7" * 32)
    addresses = attach_all(machines, static(encrypted=True))
    second.run(
        "nft add table netdev seen &&"
        f" nft 'add chain netdev seen c {{ type filter hook ingress device {DEVICE} priority 0; }}' &&"
        " nft 'add rule netdev seen c ip protocol esp counter comment \"esp\"' &&"
        " nft 'add rule netdev seen c udp dport 4789 counter comment \"clear\"'"
    )
    try:
        all_talk(machines, addresses)
        rules = json.loads(second.run("nft -j list table netdev seen"))["nftables"]
    finally:
        second.run("nft delete table netdev seen")
    counts = {
        item["rule"]["comment"]: next(part["counter"]["packets"] for part in item["rule"]["expr"] if "counter" in part)
        for item in rules
        if "rule" in item
    }
    assert counts["esp"] > 100
    assert counts["clear"] == 0


@pytest.fixture
def etcd(machines: list[Machine]) -> Iterator[None]:
    """A cluster with a member on each machine, by a unit that comes back at boot."""
    for machine in machines:
        options = {
            "name": machine.name, "data-dir": "/var/lib/etcd/vm", "initial-cluster": MEMBERS,
            "initial-advertise-peer-urls": f"http://{machine.address}:2380",
            "listen-peer-urls": f"http://{machine.address}:2380",
            "advertise-client-urls": f"http://{machine.address}:2379",
            "listen-client-urls": f"http://{machine.address}:2379",
            # Emulated disks and clocks are slow.
            "heartbeat-interval": "1000", "election-timeout": "10000",
        }  # fmt: skip
        words = " ".join(f"--{key} {value}" for key, value in options.items())
        unit = f"[Service]\nExecStart=/usr/bin/etcd {words}\nRestart=always\n[Install]\nWantedBy=multi-user.target\n"
        machine.run("cat >/etc/systemd/system/vm-etcd.service", unit)
        machine.run("systemctl daemon-reload && systemctl enable -q vm-etcd && systemctl start --no-block vm-etcd")
    until(lambda: healthy(machines[0]), "etcd has a leader")
    yield
    for machine in machines:
        machine.run("systemctl disable -q --now vm-etcd; rm -rf /var/lib/etcd/vm")


def healthy(machine: Machine) -> bool:
    """Whether etcd answers there, with a leader."""
    command = f"ETCDCTL_API=3 etcdctl --endpoints http://{machine.address}:2379 --command-timeout 10s endpoint health"
    return "is healthy" in machine.run(f"{command} 2>&1", check=False)


def test_etcd_on_the_machines_one_off_and_on(machines: list[Machine], etcd: None) -> None:
    config = static(underlay=DEVICE, etcd={"endpoints": ENDPOINTS, "lease": 30})
    del config["peers"]
    addresses = attach_all(machines, config)
    for machine, address in itertools.product(machines, addresses.values()):
        until(lambda: machine.reaches(f"c{machine.number}", address, tries=1), f"{machine.name} reaches {address}")  # noqa: B023
    all_talk(machines, addresses)
    off_and_on(machines, config, addresses)
