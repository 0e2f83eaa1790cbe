"""The macvlan driver with real packets: modes, the shim, masters of the host and of the container."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab import CniFailed, Echo, Host, Namespace, ask, pings

Lab = Callable[..., Namespace]


def config(mode: str = "bridge", **more: Any) -> dict[str, Any]:
    """Containers on the wire that the host shares with the outside, dual stack."""
    ranges = [
        [{"subnet": "192.0.2.0/24", "rangeStart": "192.0.2.10", "gateway": "192.0.2.2"}],
        [{"subnet": "2001:db8:1::/64", "rangeStart": "2001:db8:1::10", "gateway": "2001:db8:1::2"}],
    ]
    return {
        "cniVersion": "1.1.0", "name": "lan", "type": "macvlan", "master": "wire0", "mode": mode,
        "ipam": {"type": "host-local", "ranges": ranges}, **more,
    }  # fmt: skip


def attach(host: Host, given: dict[str, Any], *containers: Namespace) -> list[dict[str, Any]]:
    """Each container on the network; the results."""
    return [host.call("macvlan", "ADD", given, container, container.name) for container in containers]


def link(namespace: Namespace, name: str = "eth0") -> dict[str, Any]:
    """A link as ip(8) sees it."""
    found: dict[str, Any] = json.loads(namespace.run("ip", "-j", "-d", "link", "show", name).stdout)[0]
    return found


def test_containers_and_the_outside_reach_each_other(host: Host, outside: Namespace, lab: Lab) -> None:
    one, two = lab("one"), lab("two")
    results = attach(host, config(), one, two)
    assert [item["address"] for item in results[1]["ips"]] == ["192.0.2.11/24", "2001:db8:1::11/64"]
    for family, address in ((4, "192.0.2.11"), (6, "2001:db8:1::11")):
        server = Echo(two, 80, "two", family=family)
        try:
            assert ask(one, address, 80) == f"two {'192.0.2.10' if family == 4 else '2001:db8:1::10'}"
            assert ask(outside, address, 80) == f"two {'192.0.2.2' if family == 4 else '2001:db8:1::2'}"
        finally:
            server.close()
    server = Echo(outside, 7000, "out", "udp")
    try:
        assert ask(one, "192.0.2.2", 7000, "udp") == "out 192.0.2.10"
    finally:
        server.close()
    assert not pings(host, "192.0.2.10"), "macvlan keeps host and container apart"


def test_shim_lets_host_and_container_reach_each_other(host: Host, outside: Namespace, lab: Lab) -> None:
    before = host.snapshot()
    one, two = lab("one"), lab("two")
    attach(host, config(hostShim=True), one, two)
    for family, inside, own in ((4, "192.0.2.10", "192.0.2.1"), (6, "2001:db8:1::10", "2001:db8:1::1")):
        for server_at, client, address, seen in ((one, host, inside, own), (host, one, own, inside)):
            server = Echo(server_at, 80, "here", family=family)
            try:
                assert ask(client, address, 80) == f"here {seen}"
            finally:
                server.close()
    assert pings(outside, "192.0.2.10")
    shim = next(name for name in host.links() if name.startswith("ndsh"))
    assert not host.addresses(shim), "the shim has no address of its own"
    host.call("macvlan", "DEL", config(), one, "one")
    assert shim in host.links()
    assert pings(host, "192.0.2.11"), "the other container's way stays"
    host.call("macvlan", "DEL", config(), two, "two")
    with host.lifecycle() as lifecycle:
        lifecycle.gc_dead()
    assert host.snapshot() == before


@pytest.mark.parametrize(("mode", "together"), [("bridge", True), ("private", False), ("vepa", False)])
def test_modes(host: Host, outside: Namespace, lab: Lab, mode: str, together: bool) -> None:
    one, two = lab("one"), lab("two")
    attach(host, config(mode), one, two)
    assert link(one)["linkinfo"]["info_data"]["mode"] == mode
    assert pings(one, "192.0.2.2")
    assert pings(two, "192.0.2.2")
    assert pings(one, "192.0.2.11") is together


def test_passthru_takes_the_master_for_one_container(host: Host, outside: Namespace, lab: Lab) -> None:
    mac = link(host, "wire0")["address"]
    host.run("ip", "addr", "flush", "dev", "wire0")
    one, two = lab("one"), lab("two")
    result = attach(host, config("passthru"), one)[0]
    assert link(one)["linkinfo"]["info_data"]["mode"] == "passthru"
    assert link(one)["address"] == mac
    assert pings(one, "192.0.2.2")
    own = next(item for item in result["interfaces"] if item.get("sandbox"))
    assert own["mac"] == mac, "the result says the MAC that the link has"
    before = host.snapshot()
    with pytest.raises(CniFailed, match="macvlan eth0") as failed:
        attach(host, config("passthru"), two)
    assert failed.value.code == 103
    assert host.snapshot() == before
    assert two.links() == {"lo"}


def test_default_master_is_the_default_routes_device(host: Host, outside: Namespace, container: Namespace) -> None:
    given = config()
    del given["master"]
    result = attach(host, given, container)[0]
    assert result["interfaces"][0]["name"] == "wire0"
    assert pings(container, "192.0.2.2")


def test_without_master_or_default_route(host: Host, container: Namespace) -> None:
    given = config()
    del given["master"]
    with pytest.raises(CniFailed, match="master: missing, and the host has no default route") as failed:
        attach(host, given, container)
    assert failed.value.code == 102


@pytest.mark.parametrize("master", ["wire9", "lo"])
def test_missing_master_is_named_with_those_there_are(
    host: Host, outside: Namespace, container: Namespace, master: str
) -> None:
    before = host.snapshot()
    with pytest.raises(CniFailed, match=f"master: '{master}'.*there are: wire0") as failed:
        attach(host, config(master=master), container)
    assert failed.value.code == 102
    assert host.snapshot() == before
    assert not host.rows()


def test_master_in_the_container(host: Host, lab: Lab) -> None:
    """linkInContainer: the parent is a link that some other plugin gave to the container."""
    container, peer = lab("container"), lab("peer")
    container.run("ip", "link", "add", "net0", "type", "veth", "peer", "name", "net0", "netns", peer.path)
    for namespace in (container, peer):
        namespace.run("ip", "link", "set", "net0", "up")
    peer.run("ip", "addr", "add", "192.0.2.2/24", "dev", "net0")
    before = host.snapshot()
    given = config(master="net0", linkInContainer=True)
    result = attach(host, given, container)[0]
    assert [item.get("sandbox") for item in result["interfaces"]] == [container.path, container.path]
    assert pings(peer, "192.0.2.10")
    host.call("macvlan", "DEL", given, container, "container")
    assert container.links() == {"lo", "net0"}
    with host.lifecycle() as lifecycle:
        lifecycle.gc_dead()
    assert host.snapshot() == before
    with pytest.raises(CniFailed, match="no link net9 in sandbox"):
        attach(host, config(master="net9", linkInContainer=True), container)


def test_mac_mtu_and_queue_length(host: Host, outside: Namespace, lab: Lab) -> None:
    container, derived, again = lab("container"), lab("derived"), lab("again")
    given = config(mtu=1400, bcqueuelen=250, runtimeConfig={"mac": "02:AB:00:00:00:07"})
    result = attach(host, given, container)[0]
    seen = link(container)
    assert (seen["address"], seen["mtu"]) == ("02:ab:00:00:00:07", 1400)
    assert seen["linkinfo"]["info_data"]["bcqueuelen"] == 250
    assert result["interfaces"][-1] == {
        "name": "eth0", "mac": "02:ab:00:00:00:07", "mtu": 1400, "sandbox": container.path,
    }  # fmt: skip
    attach(host, config(), derived)
    mac = link(derived)["address"]
    assert link(derived)["mtu"] == 1500, "the master's"
    host.call("macvlan", "DEL", config(), derived, "derived")
    host.call("macvlan", "ADD", config(), again, "derived")
    assert link(again)["address"] == mac, "the same for the same container"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"mode": "bridged"}, "mode: 'bridged' is not valid: bridge, private, vepa, passthru"),
        ({"mtu": 1501}, "mtu: 1501 is not valid: at most the master's, 1500"),
        ({"mtu": 67}, "mtu: 67"),
        ({"bcqueuelen": -1}, "bcqueuelen: -1"),
        ({"hostShim": True, "mode": "private"}, "hostShim: True"),
        ({"hostShim": True, "linkInContainer": True}, "hostShim: True"),
        ({"linkInContainer": True, "master": ""}, "master: ''"),
        ({"mac": "03:00:00:00:00:01"}, "mac: '03:00:00:00:00:01'"),
        ({"runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 80}]}}, "portMappings: '80->80/tcp'"),
    ],
)
def test_what_macvlan_cannot_do(
    host: Host, outside: Namespace, container: Namespace, more: dict[str, Any], words: str
) -> None:
    before = host.snapshot()
    with pytest.raises(CniFailed) as failed:
        attach(host, config(**more), container)
    assert words in failed.value.msg
    assert failed.value.code == 7
    assert host.snapshot() == before
    assert not host.rows()


def test_routes_and_gateway(host: Host, outside: Namespace, container: Namespace) -> None:
    outside.run("ip", "addr", "add", "198.51.100.1/24", "dev", "lo")
    given = config()
    given["ipam"]["routes"] = [{"dst": "0.0.0.0/0"}]
    result = attach(host, given, container)[0]
    assert result["ips"][0] == {"address": "192.0.2.10/24", "gateway": "192.0.2.2", "interface": 1}
    assert pings(container, "198.51.100.1"), "by the gateway of its range"


def test_two_networks_on_one_master_do_not_lease_one_address_twice(host: Host, outside: Namespace, lab: Lab) -> None:
    """They share the wire, so each must keep to its range; an address taken by hand shows as a failed ADD."""
    one, two = lab("one"), lab("two")
    attach(host, config(), one)
    other = config(name="lan2")
    other["ipam"]["ranges"] = [[{"subnet": "192.0.2.0/24", "rangeStart": "192.0.2.100"}]]
    attach(host, other, two)
    assert pings(one, "192.0.2.100")
    host.call("macvlan", "DEL", config(), one, "one")
    assert pings(two, "192.0.2.2")
