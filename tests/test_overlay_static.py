"""The overlay driver with listed peers: three test hosts on one switch, every pair of containers, no floods."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from netdrivers.kernel.host import Kernel
from netdrivers.lifecycle import Lifecycle
from netdrivers.state.store import Store
from tests.lab import CniFailed, Echo, Host, Namespace, ask, pings

HOSTS = 3
PER_HOST = 3


class Cluster:
    """Test hosts with underlay addresses 192.0.2.N (or 2001:db8::N) on one switch."""

    def __init__(self, lab: Callable[..., Namespace], family: int = 4) -> None:
        self.family = family
        self.switch = lab("switch")
        self.switch.run("ip", "link", "add", "sw", "type", "bridge")
        self.switch.run("ip", "link", "set", "sw", "up")
        self.hosts: list[Host] = []
        for number in range(1, HOSTS + 1):
            host = lab(f"host{number}", host=True)
            assert isinstance(host, Host)
            host.run(
                "ip", "link", "add", "eth0", "type", "veth", "peer", "name", f"p{number}", "netns", self.switch.path
            )
            self.switch.run("ip", "link", "set", f"p{number}", "master", "sw", "up")
            if family == 4:
                host.run("ip", "addr", "add", f"192.0.2.{number}/24", "dev", "eth0")
            else:
                host.run("ip", "addr", "add", f"2001:db8::{number}/64", "dev", "eth0", "nodad")
            host.run("ip", "link", "set", "eth0", "up")
            self.hosts.append(host)

    def config(self, **more: Any) -> dict[str, Any]:
        """The network's configuration, the same on every host."""
        base = "192.0.2." if self.family == 4 else "2001:db8::"
        return {
            "cniVersion": "1.1.0",
            "name": "shop",
            "type": "overlay",
            "vni": 4242,
            "subnet": "10.210.0.0/16",
            "peers": [{"host": f"{base}{n}", "slice": f"10.210.{n}.0/24"} for n in range(1, HOSTS + 1)],
            **more,
        }


@pytest.fixture(params=[4, 6], ids=["underlay4", "underlay6"])
def cluster(request: pytest.FixtureRequest, lab: Callable[..., Namespace]) -> Cluster:
    """Three hosts."""
    return Cluster(lab, request.param)


def attach_all(cluster: Cluster, lab: Callable[..., Namespace]) -> list[tuple[Namespace, str]]:
    """Containers on every host, with their addresses."""
    found = []
    for number, host in enumerate(cluster.hosts, 1):
        for i in range(PER_HOST):
            container = lab(f"c{number}-{i}")
            result = host.cni("overlay", "ADD", cluster.config(), container, f"c{number}-{i}")
            found.append((container, result["ips"][0]["address"].partition("/")[0]))
    return found


def test_every_pair_talks_and_nothing_is_asked_on_the_underlay(cluster: Cluster, lab: Callable[..., Namespace]) -> None:
    before = [host.snapshot() for host in cluster.hosts]
    containers = attach_all(cluster, lab)
    cluster.switch.run("nft", "add", "table", "bridge", "seen")
    cluster.switch.run("nft", "add chain bridge seen c { type filter hook prerouting priority 0; }")
    # Inside the tunnel: inner ethertype 0x0806 is ARP; nothing of that kind may cross.
    cluster.switch.run("nft", 'add rule bridge seen c udp dport 4789 @th,224,16 0x0806 counter comment "arp"')
    cluster.switch.run("nft", 'add rule bridge seen c udp dport 4789 @th,224,16 0x0800 counter comment "all"')
    servers = [Echo(container, 80, address) for container, address in containers]
    servers += [Echo(container, 53, address, "udp") for container, address in containers]
    try:
        for (left, own), (_, address) in itertools.permutations(containers, 2):
            assert ask(left, address, 80) == f"{address} {own}"
            assert ask(left, address, 53, "udp") == f"{address} {own}"
        for (left, _), (_, address) in itertools.product(containers[:2], containers[-2:]):
            assert pings(left, address, "-s", "9000")
    finally:
        for server in servers:
            server.close()
    listing = json.loads(cluster.switch.run("nft", "-j", "list", "table", "bridge", "seen").stdout)
    counts = {
        rule["rule"]["comment"]: next(e["counter"]["packets"] for e in rule["rule"]["expr"] if "counter" in e)
        for rule in listing["nftables"]
        if "rule" in rule
    }
    assert counts["all"] > 100, "the traffic crossed the switch in the tunnel"
    assert counts["arp"] == 0
    for number, host in enumerate(cluster.hosts, 1):
        for i in range(PER_HOST):
            host.cni("overlay", "DEL", cluster.config(), None, f"c{number}-{i}")
        with host.entered():
            Lifecycle(Store(str(host.state_dir)), Kernel()).gc_dead()
    assert [host.snapshot() for host in cluster.hosts] == before


def test_publish_and_way_out(lab: Callable[..., Namespace]) -> None:
    cluster = Cluster(lab)
    web, other = lab("web"), lab("other")
    ports = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
    cluster.hosts[0].cni("overlay", "ADD", cluster.config(runtimeConfig=ports), web, "web")
    cluster.hosts[1].cni("overlay", "ADD", cluster.config(), other, "other")
    server, beyond = Echo(web, 80, "web"), Echo(cluster.hosts[2], 9000, "beyond")
    try:
        assert ask(cluster.hosts[2], "192.0.2.1", 8080) == "web 192.0.2.3"
        assert ask(other, "192.0.2.1", 8080).startswith("web ")
        assert ask(web, "192.0.2.1", 8080).startswith("web ")
        assert ask(cluster.hosts[1], "10.210.1.2", 80).startswith("web "), "another host reaches the container"
        assert ask(web, "192.0.2.3", 9000) == "beyond 192.0.2.1"
    finally:
        server.close()
        beyond.close()


def test_internal_overlay_spans_hosts_but_has_no_way_out(lab: Callable[..., Namespace]) -> None:
    cluster = Cluster(lab)
    left, right = lab("left"), lab("right")
    cluster.hosts[0].cni("overlay", "ADD", cluster.config(internal=True), left, "left")
    cluster.hosts[1].cni("overlay", "ADD", cluster.config(internal=True), right, "right")
    assert pings(left, "10.210.2.2")
    assert not pings(left, "192.0.2.3")


def test_check_names_a_lost_entry_and_reload_mends_it(lab: Callable[..., Namespace]) -> None:
    cluster = Cluster(lab)
    host, container, far = cluster.hosts[0], lab("near"), lab("far")
    result = host.cni("overlay", "ADD", cluster.config(), container)
    cluster.hosts[1].cni("overlay", "ADD", cluster.config(), far)
    assert pings(container, "10.210.2.2")
    device = next(name for name in host.links() if name.startswith("ndvx"))
    for command, words in (
        (("bridge", "fdb", "show", "dev", device), "fdb"),
        (("ip", "neigh", "flush", "dev", device, "nud", "permanent"), "neighbour missing"),
        (("ip", "route", "del", "10.210.2.0/24"), "route missing"),
    ):
        if words == "fdb":
            entry = next(line for line in host.run(*command).stdout.splitlines() if "192.0.2.2" in line)
            host.run("bridge", "fdb", "del", entry.split()[0], "dev", device, "dst", "192.0.2.2", "self")
            words = "entry missing"
        else:
            host.run(*command)
        with pytest.raises(CniFailed, match=words) as failed:
            host.cni("overlay", "CHECK", cluster.config(prevResult=result), container)
        assert failed.value.code == 104
        assert not pings(container, "10.210.2.2")
        with host.entered():
            assert Lifecycle(Store(str(host.state_dir)), Kernel()).reload()
        assert pings(container, "10.210.2.2")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vni": 0}, "vni: 0 "),
        ({"vni": "x"}, "vni: 'x' "),
        ({"underlay": "eth9"}, "underlay: 'eth9'"),
        ({"peers": []}, "peers: "),
        ({"peers": [{"host": "192.0.2.1", "slice": "10.210.1.0/24"}, {"host": "192.0.2.2", "slice": "10.210.1.0/25"}]},
         r"peers\[1\].slice: '10.210.1.0/25' .*10.210.1.0/24"),
        ({"peers": [{"host": "192.0.2.1", "slice": "10.99.1.0/24"}]}, "10.99.1.0/24"),
        ({"underlay": "eth0", "peers": [{"host": "192.0.2.77", "slice": "10.210.1.0/24"}]}, "192.0.2.77.*192.0.2.1"),
        ({"port": 70000}, "port: 70000"),
        ({"mtu": 20}, "mtu: 20"),
    ],
)  # fmt: skip
def test_bad_configuration_makes_nothing(lab: Callable[..., Namespace], change: dict[str, Any], words: str) -> None:
    cluster = Cluster(lab)
    host, container = cluster.hosts[0], lab("c")
    before = host.snapshot()
    with pytest.raises(CniFailed, match=words) as failed:
        host.cni("overlay", "ADD", cluster.config(**change), container)
    assert failed.value.code == 7
    assert host.snapshot() == before


def test_a_vni_in_use_is_refused_with_its_holder(lab: Callable[..., Namespace]) -> None:
    cluster = Cluster(lab)
    host = cluster.hosts[0]
    host.run("ip", "link", "add", "vxother", "type", "vxlan", "id", "4242", "dstport", "4789", "dev", "eth0")
    with pytest.raises(CniFailed, match=r"vni: 4242 .*vxother"):
        host.cni("overlay", "ADD", cluster.config(), lab("c"))
