"""netctl peers and fdb, and the life of a slice: claimed, kept, given back, taken away."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from netdrivers.names import server
from netdrivers.names.asking import answers
from tests.lab import CniFailed, Host, Namespace
from tests.netctl.runner import Netctl
from tests.overlay_lab import LEASE_SECONDS, Switch, World, differences, hosts_of, needs_etcd, until


def _netctl(host: Host, folder: Path) -> Netctl:
    place = folder / f"netctl-{host.name}"
    place.mkdir()
    return Netctl(host, place)


@needs_etcd
def test_peers_shows_hosts_and_what_is_attached(world: Callable[..., World], tmp_path: Path) -> None:
    here = world(hosts=2)
    here.everybody(2)
    netctl = _netctl(here.hosts[0], tmp_path)
    until(lambda: [len(row["attachments"]) for row in netctl.json("peers")] == [2, 2])
    rows = netctl.json("peers", "shop")
    assert [(row["host"], row["state"], row["own"]) for row in rows] == [
        ("192.0.2.1", "alive", True),
        ("192.0.2.2", "alive", False),
    ]
    for row in rows:
        assert 0 <= row["seen"] <= LEASE_SECONDS
    there = {address for _, address in here.containers.all}
    known = {item["addresses"][0].partition("/")[0] for row in rows for item in row["attachments"]}
    assert known == there
    assert "192.0.2.2" in netctl.ok("peers", "-a")
    assert "alive" in netctl.fails(4, "peers", "shop", "--forget", "192.0.2.2")

    here.call(here.hosts[1], "DEL", None, "c2-0")
    until(lambda: [len(row["attachments"]) for row in netctl.json("peers")] == [2, 1])
    here.services[1].end(signal.SIGKILL)
    until(lambda: [row["state"] for row in netctl.json("peers")] == ["alive", "gone"])
    gone = netctl.json("peers")[1]
    assert gone["seen"] < 30
    assert gone["attachments"] == []

    here.etcd.stop()
    done = netctl.run("peers", "--json")
    assert done.returncode == 0
    assert '"known"' in done.stdout
    assert "etcd is not to be had" in done.stderr


def test_fdb_finds_what_is_missing_and_what_is_too_much(lab: Callable[..., Namespace], tmp_path: Path) -> None:
    switch = Switch(lab)
    host = switch.host(1)
    peers = [{"host": f"192.0.2.{n}", "slice": f"10.210.{n}.0/24"} for n in (1, 2, 3)]
    config = {"cniVersion": "1.1.0", "name": "shop", "type": "overlay", "vni": 7, "subnet": "10.210.0.0/16",
              "underlay": "eth0", "peers": peers}  # fmt: skip
    host.call("overlay", "ADD", config, lab("c"))
    netctl = _netctl(host, tmp_path)
    assert [row["state"] for row in netctl.json("peers")] == ["listed"] * 3
    assert [row["state"] for row in netctl.json("fdb")] == ["ok"] * 6
    assert netctl.json("fdb", "--check") == []
    device = next(name for name in host.links() if name.startswith("ndvx"))
    host.run("ip", "route", "del", "10.210.2.0/24")
    host.run("ip", "neigh", "del", "10.210.3.0", "dev", device)
    host.run("bridge", "fdb", "add", "02:00:00:00:00:99", "dev", device, "dst", "192.0.2.99", "self")
    host.run("ip", "neigh", "add", "10.210.99.0", "lladdr", "02:00:00:00:00:99", "dev", device, "nud", "permanent")
    host.run("ip", "route", "add", "10.210.99.0/24", "via", "10.210.99.0", "dev", device, "onlink")
    found = {row["entry"].split()[0] + " " + row["state"] for row in netctl.json("fdb", "shop", "--check", status=6)}
    assert found == {"route route missing", "neighbour neighbour missing", "fdb not recorded",
                     "neighbour not recorded", "route not recorded"}  # fmt: skip
    with host.lifecycle() as life:
        assert len(life.networks.reconcile("shop")) == 5
    assert differences(host) == []
    assert netctl.ok("fdb", "--check") == "no difference\n"


@needs_etcd
def test_the_service_reconciles_when_it_starts(world: Callable[..., World]) -> None:
    here = world(hosts=2)
    here.everybody()
    here.services[0].end(signal.SIGKILL)
    device = next(name for name in here.hosts[0].links() if name.startswith("ndvx"))
    here.hosts[0].run("ip", "link", "del", device)
    assert here.containers.silent()
    here.services[0].start()
    here.settled("a deleted device")


@needs_etcd
def test_a_removed_network_gives_its_slice_back_and_an_idle_one_does_not(
    world: Callable[..., World], tmp_path: Path
) -> None:
    here = world(hosts=2)
    here.everybody()
    first, second = here.hosts
    here.call(first, "DEL", None, "c1-0")
    with first.lifecycle() as life:
        assert life.networks.remove_idle(0) == ["shop"]
    until(lambda: hosts_of(second) == ["192.0.2.2"])
    assert _owners(here) == ["192.0.2.1", "192.0.2.2"]
    netctl = _netctl(second, tmp_path)
    assert netctl.json("peers", "shop", "--forget", "192.0.2.1")["freed"]
    assert _owners(here) == ["192.0.2.2"]
    assert "owns no slice" in netctl.fails(3, "peers", "shop", "--forget", "192.0.2.1")
    here.call(second, "DEL", None, "c2-0")
    netctl.ok("network", "rm", "shop")
    assert [name for name in here.etcd.names() if "/settings" not in name and "schema" not in name] == []


def _owners(here: World) -> list[str]:
    return sorted(name.rpartition("/")[2] for name in here.etcd.names() if "/owners/" in name)


@needs_etcd
def test_a_slice_taken_away_stops_new_containers_until_the_old_ones_are_gone(
    world: Callable[..., World], lab: Callable[..., Namespace], tmp_path: Path
) -> None:
    here = world(hosts=2, subnet="10.210.0.0/25", slicePrefix=26)
    here.everybody()
    first, second = here.hosts
    here.services[0].end(signal.SIGKILL)
    netctl = _netctl(second, tmp_path)
    until(lambda: netctl.json("peers")[0]["state"] == "gone")
    netctl.ok("peers", "shop", "--forget", "192.0.2.1")
    here.add(here.new_host(), "c3-0")
    here.services[0].start()
    until(lambda: "belongs to 192.0.2.3 now" in here.services[0].network().get("error", ""))
    with pytest.raises(CniFailed, match=r"belongs to 192\.0\.2\.3 now") as failed:
        here.call(first, "ADD", lab("c1-1"), "c1-1")
    assert failed.value.code == 100
    here.call(first, "DEL", None, "c1-0")
    until(lambda: not _recorded(first))
    with pytest.raises(CniFailed, match="all 2 slices"):
        here.call(first, "ADD", lab("c1-2"), "c1-2")


def _recorded(host: Host) -> Any:
    with host.lifecycle() as life:
        return life.store.network("shop")


@needs_etcd
@pytest.mark.skipif(server.executable() is None, reason="needs aardvark-dns: apt-get install aardvark-dns")
def test_names_resolve_across_hosts_also_while_etcd_is_down(world: Callable[..., World]) -> None:
    here = world(hosts=2, names=True)
    here.everybody()

    def known(at: int, name: str) -> bool:
        client, address = here.containers.all[at]
        with client.entered():
            return answers(f"{address.rpartition('.')[0]}.1", server.PORT, name, 4, 1.0)

    for at in (0, 1):
        until(lambda at=at: known(at, "c1-0") and known(at, "c2-0"), what="a name is not known")
    here.add(here.hosts[1], "late")
    until(lambda: known(0, "late"))
    here.etcd.stop()
    here.services[0].end(signal.SIGKILL)
    here.services[0].start()
    assert known(0, "late")
    here.etcd.members[0].start()
    here.etcd.ready()
    here.call(here.hosts[1], "DEL", None, "late")
    until(lambda: not known(0, "late"), what="a name is known for ever")


@needs_etcd
def test_a_stop_of_the_service_changes_nothing_for_the_others(world: Callable[..., World]) -> None:
    here = world(hosts=2)
    here.everybody()
    here.services[0].end()
    time.sleep(LEASE_SECONDS / 2)
    assert not here.containers.silent()
    here.services[0].start()
    here.settled("an orderly restart")
