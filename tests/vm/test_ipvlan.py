"""The ipvlan driver with real packets: L2, L3 and L3S, dummy masters, masters of the container; faults."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from netdrivers.errors import KernelError
from tests.lab import CniFailed, Echo, Host, Namespace, ask, nouns, pings
from tests.test_faults import Faulty, operations_of, refuse, settled

pytestmark = pytest.mark.feature("ipvlan")
Lab = Callable[..., Namespace]


def config(mode: str = "l2", **more: Any) -> dict[str, Any]:
    """Containers on the wire that the host shares with the outside (l2), or behind the host's address on it."""
    if mode == "l2":
        ranges = [
            [{"subnet": "192.0.2.0/24", "rangeStart": "192.0.2.10", "gateway": "192.0.2.2"}],
            [{"subnet": "2001:db8:1::/64", "rangeStart": "2001:db8:1::10", "gateway": "2001:db8:1::2"}],
        ]
    else:
        ranges = [[{"subnet": "10.51.0.0/24"}], [{"subnet": "fd00:51::/64"}]]
    ipam = {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}
    return {
        "cniVersion": "1.1.0", "name": f"lan-{mode}", "type": "ipvlan", "master": "wire0", "mode": mode,
        "ipam": ipam, **more,
    }  # fmt: skip


def attach(host: Host, given: dict[str, Any], *containers: Namespace) -> list[dict[str, Any]]:
    """Each container on the network; the results."""
    return [host.call("ipvlan", "ADD", given, container, container.name) for container in containers]


def link(namespace: Namespace, name: str = "eth0") -> dict[str, Any]:
    """A link as ip(8) sees it."""
    found: dict[str, Any] = json.loads(namespace.run("ip", "-j", "-d", "link", "show", name).stdout)[0]
    return found


def test_l2_containers_are_on_the_masters_wire(host: Host, outside: Namespace, lab: Lab) -> None:
    before = host.snapshot()
    one, two = lab("one"), lab("two")
    results = attach(host, config(), one, two)
    assert [item["address"] for item in results[1]["ips"]] == ["192.0.2.11/24", "2001:db8:1::11/64"]
    assert link(one)["address"] == link(two)["address"] == link(host, "wire0")["address"]
    for family, address in ((4, "192.0.2.11"), (6, "2001:db8:1::11")):
        server = Echo(two, 80, "two", family=family)
        try:
            assert ask(one, address, 80) == f"two {'192.0.2.10' if family == 4 else '2001:db8:1::10'}"
            assert ask(outside, address, 80) == f"two {'192.0.2.2' if family == 4 else '2001:db8:1::2'}"
        finally:
            server.close()
    assert not pings(host, "192.0.2.10"), "host and container are apart"
    host.call("ipvlan", "CHECK", {**config(), "prevResult": results[0]}, one, "one")
    for namespace in (one, two):
        host.call("ipvlan", "DEL", config(), namespace, namespace.name)
        assert namespace.links() == {"lo"}
    with host.lifecycle() as lifecycle:
        lifecycle.gc_dead()
    assert host.snapshot() == before
    assert not host.rows().get("leases")


@pytest.mark.parametrize("mode", ["l3", "l3s"])
def test_l3_containers_are_routed_by_the_master(host: Host, outside: Namespace, lab: Lab, mode: str) -> None:
    """No ARP and no broadcast: who wants to reach them has a route by the host."""
    one, two = lab("one"), lab("two")
    attach(host, config(mode), one, two)
    assert link(one)["linkinfo"]["info_data"]["mode"] == mode
    outside.run("ip", "route", "add", "10.51.0.0/24", "via", "192.0.2.1")
    outside.run("ip", "-6", "route", "add", "fd00:51::/64", "via", "2001:db8:1::1")
    for family, first, second, far in (
        (4, "10.51.0.2", "10.51.0.3", "192.0.2.2"),
        (6, "fd00:51::2", "fd00:51::3", "2001:db8:1::2"),
    ):
        servers = [Echo(two, 80, "two", family=family), Echo(outside, 80, "out", family=family)]
        try:
            assert ask(one, second, 80) == f"two {first}"
            assert ask(outside, second, 80) == f"two {far}"
            assert ask(one, far, 80) == f"out {first}"
        finally:
            for server in servers:
                server.close()


@pytest.mark.parametrize(("mode", "seen"), [("l3", False), ("l3s", True)])
def test_l3s_alone_passes_the_hosts_firewall(host: Host, outside: Namespace, lab: Lab, mode: str, seen: bool) -> None:
    """That is what the S is for: the host's input rules hold for what goes to its containers."""
    one = lab("one")
    attach(host, config(mode), one)
    outside.run("ip", "route", "add", "10.51.0.0/24", "via", "192.0.2.1")
    assert pings(outside, "10.51.0.2")
    host.run("nft", "add", "table", "inet", "guard")
    host.run("nft", "add chain inet guard input { type filter hook input priority 0; }")
    host.run("nft", "add rule inet guard input ip daddr 10.51.0.2 drop")
    assert pings(outside, "10.51.0.2") is not seen


@pytest.mark.feature("dummy")
@pytest.mark.parametrize("driver", ["ipvlan", "macvlan"])
def test_dummy_master_makes_a_network_within_the_host(host: Host, lab: Lab, driver: str) -> None:
    host.run("ip", "link", "add", "dummy0", "type", "dummy")
    host.run("ip", "link", "set", "dummy0", "up")
    before = host.snapshot()
    one, two = lab("one"), lab("two")
    given = config(master="dummy0", type=driver, mode="l2" if driver == "ipvlan" else "bridge")
    given["ipam"] = {"type": "host-local", "ranges": [[{"subnet": "10.52.0.0/24"}], [{"subnet": "fd00:52::/64"}]]}
    for namespace in (one, two):
        host.call(driver, "ADD", given, namespace, namespace.name)
    server = Echo(two, 80, "two")
    try:
        assert ask(one, "10.52.0.3", 80) == "two 10.52.0.2"
    finally:
        server.close()
    assert pings(one, "fd00:52::3")
    for namespace in (one, two):
        host.call(driver, "DEL", given, namespace, namespace.name)
    with host.lifecycle() as lifecycle:
        lifecycle.gc_dead()
    assert host.snapshot() == before


def test_master_in_the_container(host: Host, lab: Lab) -> None:
    container, peer = lab("container"), lab("peer")
    container.run("ip", "link", "add", "net0", "type", "veth", "peer", "name", "net0", "netns", peer.path)
    for namespace in (container, peer):
        namespace.run("ip", "link", "set", "net0", "up")
    peer.run("ip", "addr", "add", "192.0.2.2/24", "dev", "net0")
    given = config(master="net0", linkInContainer=True)
    result = attach(host, given, container)[0]
    assert [item.get("sandbox") for item in result["interfaces"]] == [container.path, container.path]
    assert pings(peer, "192.0.2.10")
    host.call("ipvlan", "DEL", given, container, "container")
    assert container.links() == {"lo", "net0"}
    with pytest.raises(CniFailed, match="no link net9 in sandbox"):
        attach(host, config(master="net9", linkInContainer=True), container)


def test_default_master_is_the_default_routes_device(host: Host, outside: Namespace, container: Namespace) -> None:
    given = config()
    del given["master"]
    assert attach(host, given, container)[0]["interfaces"][0]["name"] == "wire0"
    assert pings(container, "192.0.2.2")


def test_check_names_a_mode_that_another_network_changed(host: Host, outside: Namespace, lab: Lab) -> None:
    """The kernel has one mode for all on a master, and the last one asked for wins."""
    one, two = lab("one"), lab("two")
    result = attach(host, config(), one)[0]
    attach(host, config("l3"), two)
    with pytest.raises(CniFailed, match="eth0 is not in mode l2") as failed:
        host.call("ipvlan", "CHECK", {**config(), "prevResult": result}, one, "one")
    assert failed.value.code == 104


def test_failing_operation_leaves_the_host_as_it_was(host: Host, outside: Namespace, lab: Lab) -> None:
    operations = operations_of(host, config(), lab("first"))
    assert {"Ipvlan", "LinkUp", "InterfaceAddress", "InterfaceRoute"} <= {type(item).__name__ for item in operations}
    container = lab("container")
    before = settled(host)
    for number, operation in enumerate(operations):
        with host.lifecycle(Faulty(number, refuse)) as lifecycle:
            network, attachment = nouns(config(), container)
            with pytest.raises(KernelError, match="injected"):
                lifecycle.add(network, attachment)
        assert settled(host) == before, operation.line()
        assert container.links() == {"lo"}
    attach(host, config(), container)
