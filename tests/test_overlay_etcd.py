"""The overlay driver with etcd: hosts on one switch, each with its own service, and real etcd servers."""

from __future__ import annotations

import json
import signal
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

from netdrivers.cluster.peers import Clustered
from netdrivers.drivers.overlay import OverlayDriver
from netdrivers.drivers.spanning import Peer
from netdrivers.model import Network
from tests.lab import CniFailed, Host, Namespace, pings
from tests.overlay_lab import (
    LEASE_SECONDS,
    LONG,
    World,
    echoed,
    hosts_of,
    needs_etcd,
    until,
)

pytestmark = needs_etcd
OUTAGE_SECONDS = 60.0 if LONG else 7.0
ADDS = 100


def test_every_pair_talks_and_nothing_is_asked_on_the_underlay(world: Callable[..., World]) -> None:
    here = world()
    here.everybody(10)
    switch = here.switch.namespace
    switch.run("nft", "add", "table", "bridge", "seen")
    switch.run("nft", "add chain bridge seen c { type filter hook prerouting priority 0; }")
    # Inside the tunnel: inner ethertype 0x0806 is ARP; nothing of that kind may cross.
    for kind, word in (("0x0806", "arp"), ("0x0800", "all")):
        switch.run("nft", f'add rule bridge seen c udp dport 4789 @th,224,16 {kind} counter comment "{word}"')
    assert not here.containers.silent(("tcp", "udp", "ping"))
    rules = json.loads(switch.run("nft", "-j", "list", "table", "bridge", "seen").stdout)["nftables"]
    counts = {
        item["rule"]["comment"]: next(part["counter"]["packets"] for part in item["rule"]["expr"] if "counter" in part)
        for item in rules
        if "rule" in item
    }
    assert counts["all"] > 1000, "the traffic crossed the switch in the tunnel"
    assert counts["arp"] == 0


def test_add_to_first_answer_from_another_host(world: Callable[..., World], lab: Callable[..., Namespace]) -> None:
    here = world(hosts=2)
    here.everybody()
    (client, _), (_, there) = here.containers.all
    assert echoed(client, there, 8, 1.0)
    took = []
    for i in range(ADDS):
        namespace = lab(f"new{i}")
        result = here.call(here.hosts[1], "ADD", namespace, f"new{i}")
        began = time.perf_counter()
        address = result["ips"][0]["address"].partition("/")[0]
        until(lambda address=address: echoed(client, address, 8, 0.2), what=f"{address} never answered")
        took.append((time.perf_counter() - began) * 1000)
    print(f"{ADDS} adds: the first answer after {statistics.median(took):.1f} ms (median), {max(took):.1f} ms (most)")


def test_etcd_stopped_and_started(world: Callable[..., World]) -> None:
    here = world()
    here.everybody()
    here.etcd.stop()
    time.sleep(OUTAGE_SECONDS)
    for number, host in enumerate(here.hosts):
        here.add(host, f"meanwhile{number}")  # from each host's own slice
    assert not here.containers.silent()
    for member in here.etcd.members:
        member.start()
    here.etcd.ready()
    here.settled("etcd's return")
    until(lambda: len([key for key in here.etcd.names() if "/attachments/" in key]) == 6)


def test_the_leader_of_three_is_killed(world: Callable[..., World]) -> None:
    here = world(members=3)
    here.everybody()
    leader = here.etcd.leader()
    leader.end(signal.SIGKILL)
    here.etcd.members.remove(leader)
    host = here.new_host()

    def added() -> bool:
        """A host's first container may meet the election, and is told to try again later."""
        try:
            return bool(here.add(host, "new"))
        except CniFailed as failed:
            if failed.code != 11:
                raise
            return False

    until(added)
    here.settled("the leader's end")
    leader.start()
    here.etcd.members.append(leader)
    here.etcd.ready()
    here.settled("its return")


def test_a_service_is_killed_and_started_again(world: Callable[..., World]) -> None:
    here = world(hosts=2)
    here.everybody()
    here.services[0].end(signal.SIGKILL)
    here.add(here.new_host(), "new")
    time.sleep(LEASE_SECONDS + 2)  # the others take the host for dead
    until(lambda: hosts_of(here.hosts[1]) == ["192.0.2.2", "192.0.2.3"])
    here.services[0].start()
    here.settled("the service's return")


def test_a_host_is_cut_off_and_back_over_a_compaction(world: Callable[..., World]) -> None:
    here = world()
    here.everybody()
    here.switch.cut(3)
    time.sleep(OUTAGE_SECONDS)
    until(lambda: hosts_of(here.hosts[0]) == ["192.0.2.1", "192.0.2.2"], what="a dead host keeps its entries")
    here.add(here.new_host(), "new")
    revision = json.loads(here.etcd.members[0].ctl("get", "x", "-w", "json"))["header"]["revision"]
    here.etcd.members[0].ctl("compact", str(revision), "--physical")
    here.switch.mend(3)
    here.settled("the cable's return")


def test_an_ipv6_network(world: Callable[..., World], lab: Callable[..., Namespace]) -> None:
    here = world(hosts=2, subnet="FD00:210:0::/48")
    found = []
    for number, host in enumerate(here.hosts):
        namespace = lab(f"c{number}")
        result = here.call(host, "ADD", namespace, f"c{number}")
        found.append((namespace, result["ips"][0]["address"].partition("/")[0]))
    (left, own), (_, other) = found
    assert own.split(":")[:2] == other.split(":")[:2] == ["fd00", "210"]
    assert own.rpartition("::")[0] != other.rpartition("::")[0], "each host has a slice of its own"
    for host in here.hosts:
        until(lambda host=host: len(hosts_of(host)) == 2)
    until(lambda: pings(left, other))
    assert pings(left, other, "-s", "9000")


def test_two_hosts_that_claim_at_once_never_get_the_same(
    world: Callable[..., World], lab: Callable[..., Namespace]
) -> None:
    here = world(hosts=0)
    claimants = [here.switch.host(1), here.switch.host(2)]
    for i in range(50):
        # Two slices: both hosts want the same one half of the time, and each must get one.
        options = {**here.config(), "subnet": "10.210.0.0/23", "slicePrefix": 24, "port": 4789}
        found = [""] * len(claimants)
        start = threading.Barrier(len(claimants))

        def claim(at: int, name: str, options: dict[str, Any], found: list[str], start: threading.Barrier) -> None:
            network = Network(name, "overlay", {**options, "local": f"192.0.2.{at + 1}"})
            with claimants[at].entered():
                start.wait()
                found[at] = Clustered(network, str(claimants[at].state_dir)).claim(None).slice

        threads = [threading.Thread(target=claim, args=(at, f"net{i}", options, found, start)) for at in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == ["10.210.0.0/24", "10.210.1.0/24"]


def test_a_host_that_died_loses_its_entries_and_gets_its_slice_back(
    world: Callable[..., World], lab: Callable[..., Namespace]
) -> None:
    here = world(hosts=2)
    here.everybody()
    before = next(peer for peer in _peers(here.hosts[0]) if peer.host == "192.0.2.2")
    here.services[1].end(signal.SIGKILL)
    for path in here.hosts[1].state_dir.glob("state.db*"):  # as after a reboot
        path.unlink()
    for link in here.hosts[1].links():
        if link.startswith("nd"):
            here.hosts[1].run("ip", "link", "del", link, check=False)
    here.hosts[1].run("nft", "flush", "ruleset")
    until(lambda: hosts_of(here.hosts[0]) == ["192.0.2.1"])
    here.containers.all.pop()
    here.services[1].start()
    here.add(here.hosts[1], "again")
    here.settled("the host's return")
    assert before in _peers(here.hosts[0])


def _peers(host: Host) -> tuple[Peer, ...]:
    with host.lifecycle() as life:
        record = life.store.network("shop")
        assert record is not None
        place = OverlayDriver().placed(record.network)
        assert place is not None
        return place.hosts
