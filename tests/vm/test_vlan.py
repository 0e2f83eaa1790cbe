"""VLANs on the bridge with real frames: access ports, trunks, the default VLAN, the gateway of a VLAN, drift."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.lab import CniFailed, Echo, Host, Namespace, ask, pings

pytestmark = pytest.mark.feature("vlan filtering")
Lab = Callable[..., Namespace]
SUBNETS = {"red": "10.31.0.0/24", "blue": "10.32.0.0/24", "plain": "10.33.0.0/24", "trunk": "10.34.0.0/24"}


def config(name: str, **more: Any) -> dict[str, Any]:
    """A network on the bridge that all of them share; each has its own addresses."""
    ipam = {"type": "host-local", "ranges": [[{"subnet": SUBNETS[name]}]]}
    return {"cniVersion": "1.1.0", "name": name, "type": "bridge", "bridge": "br-lan", "ipam": ipam, **more}


def attach(host: Host, given: dict[str, Any], namespace: Namespace, address: str = "") -> dict[str, Any]:
    """The container on the network; with an address of the subnet that all containers get, whatever their VLAN."""
    result: dict[str, Any] = host.call("bridge", "ADD", given, namespace, namespace.name)
    if address:
        namespace.run("ip", "addr", "add", f"{address}/24", "dev", "eth0")
    return result


def test_access_ports_meet_in_their_vlan_only(host: Host, lab: Lab) -> None:
    red, too, blue = lab("red"), lab("red2"), lab("blue")
    attach(host, config("red", vlan=31), red, "192.0.2.1")
    attach(host, config("red", vlan=31), too, "192.0.2.2")
    attach(host, config("blue", vlan=32, preserveDefaultVlan=False), blue, "192.0.2.3")
    assert pings(red, "192.0.2.2")
    assert not pings(red, "192.0.2.3")
    server = Echo(too, 80, "red2")
    try:
        assert ask(red, "192.0.2.2", 80) == "red2 192.0.2.1"
        assert ask(blue, "192.0.2.2", 80, timeout=2) == "no answer"
    finally:
        server.close()
    for name, namespace in (("red", red), ("red", too), ("blue", blue)):
        host.call("bridge", "DEL", config(name), namespace, namespace.name)
    with host.lifecycle() as lifecycle:
        lifecycle.gc_dead()
    assert "br-lan" not in host.links()


@pytest.mark.feature("802.1q")
def test_trunk_carries_its_vlans_tagged(host: Host, lab: Lab) -> None:
    router, hosts = lab("router"), {vlan: lab(f"in{vlan}") for vlan in (31, 32, 40)}
    attach(host, config("trunk", vlanTrunk=[{"id": 31}, {"minID": 32, "maxID": 35}]), router)
    for vlan, namespace in hosts.items():
        attach(host, config("red", vlan=vlan, preserveDefaultVlan=False), namespace, f"192.0.{vlan}.2")
        router.run("ip", "link", "add", "link", "eth0", "name", f"v{vlan}", "type", "vlan", "id", str(vlan))
        router.run("ip", "addr", "add", f"192.0.{vlan}.1/24", "dev", f"v{vlan}")
        router.run("ip", "link", "set", f"v{vlan}", "up")
    assert pings(router, "192.0.31.2")
    assert pings(router, "192.0.32.2")
    assert not pings(router, "192.0.40.2"), "not one of the trunk's"


@pytest.mark.feature("802.1q")
def test_uplink_tags_what_containers_send_untagged(host: Host, outside: Namespace, lab: Lab) -> None:
    red = lab("red")
    attach(host, config("red", vlan=31), red, "198.51.100.2")
    host.run("ip", "link", "set", "wire0", "master", "br-lan")
    host.run("bridge", "vlan", "add", "vid", "31", "dev", "wire0")
    outside.run("ip", "link", "add", "link", "wire0", "name", "v31", "type", "vlan", "id", "31")
    outside.run("ip", "addr", "add", "198.51.100.1/24", "dev", "v31")
    outside.run("ip", "link", "set", "v31", "up")
    assert pings(red, "198.51.100.1")
    outside.run("ip", "link", "set", "v31", "down")
    outside.run("ip", "addr", "add", "198.51.100.1/24", "dev", "wire0")
    assert not pings(red, "198.51.100.1"), "untagged is another VLAN"


@pytest.mark.parametrize("keep", [True, False])
def test_default_vlan_is_kept_or_left(host: Host, lab: Lab, keep: bool) -> None:
    red, plain = lab("red"), lab("plain")
    attach(host, config("red", vlan=31, preserveDefaultVlan=keep), red)
    attach(host, config("plain"), plain)
    port = next(name for name in host.links() if name.startswith("veth") and red_port(host, name))
    listed = host.run("bridge", "vlan", "show", "dev", port).stdout.split()
    assert ("1" in listed) is keep
    assert "31" in listed


def red_port(host: Host, name: str) -> bool:
    """Whether a link is the port of VLAN 31."""
    return " 31 " in host.run("bridge", "vlan", "show", "dev", name).stdout


def test_gateway_masquerade_and_published_port_of_a_vlan(host: Host, outside: Namespace, lab: Lab) -> None:
    """What a container in a VLAN gets is what one without gets; two VLANs of one bridge have a gateway each."""
    before = host.snapshot()
    red, blue = lab("red"), lab("blue")
    ports = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
    shared = {"isDefaultGateway": True, "ipMasq": True, "preserveDefaultVlan": False, "isolate": True}
    result = attach(host, config("red", vlan=31, runtimeConfig=ports, **shared), red)
    attach(host, config("blue", vlan=32, **shared), blue)
    host.call("bridge", "CHECK", config("red", vlan=31, runtimeConfig=ports, prevResult=result, **shared), red, "red")
    assert pings(red, "10.31.0.1"), "its gateway"
    assert pings(blue, "10.32.0.1")
    server, beyond = Echo(red, 80, "red"), Echo(outside, 7000, "beyond")
    try:
        assert ask(red, "192.0.2.2", 7000) == "beyond 192.0.2.1"
        assert ask(outside, "192.0.2.1", 8080) == "red 192.0.2.2"
        assert ask(host, "127.0.0.1", 8080).startswith("red ")
        assert ask(red, "192.0.2.1", 8080).startswith("red ")
        assert ask(blue, "10.31.0.2", 80, timeout=2) == "no answer", "the network is isolated"
    finally:
        server.close()
        beyond.close()
    for name, namespace in (("red", red), ("blue", blue)):
        host.call("bridge", "DEL", config(name), namespace, namespace.name)
    with host.lifecycle() as lifecycle:
        lifecycle.gc_dead()
    assert host.snapshot() == before


def test_bridge_of_a_plain_network_learns_vlans(host: Host, lab: Lab) -> None:
    """Who came first without VLANs stays reachable in the default one, and is apart from the VLAN."""
    plain, too, red = lab("plain"), lab("plain2"), lab("red")
    attach(host, config("plain"), plain, "192.0.2.1")
    attach(host, config("red", vlan=31, preserveDefaultVlan=False), red, "192.0.2.2")
    attach(host, config("plain"), too, "192.0.2.3")
    assert pings(plain, "192.0.2.3")
    assert not pings(plain, "192.0.2.2")


def test_bridge_of_others_that_filters_no_vlans_is_refused(host: Host, lab: Lab) -> None:
    host.run("ip", "link", "add", "br-lan", "type", "bridge")
    host.run("ip", "link", "set", "br-lan", "up")
    before = host.snapshot()
    with pytest.raises(CniFailed, match="br-lan does not filter VLANs"):
        attach(host, config("red", vlan=31), lab("red"))
    assert host.snapshot() == before
    host.run("ip", "link", "set", "br-lan", "type", "bridge", "vlan_filtering", "1")
    attach(host, config("red", vlan=31), lab("red2"))


def test_check_names_a_vlan_that_was_taken_away(host: Host, lab: Lab) -> None:
    red, too = lab("red"), lab("red2")
    given = config("red", vlan=31, vlanTrunk=[{"minID": 40, "maxID": 42}])
    result = attach(host, given, red, "192.0.2.1")
    attach(host, given, too, "192.0.2.2")
    asking = {**given, "prevResult": result}
    host.call("bridge", "CHECK", asking, red, "red")
    port = next(item["name"] for item in result["interfaces"] if item["name"].startswith("veth"))
    for vlan in ("31", "41"):
        host.run("bridge", "vlan", "del", "vid", vlan, "dev", port)
        with pytest.raises(CniFailed, match=f"{port} is not in VLAN {vlan}"):
            host.call("bridge", "CHECK", asking, red, "red")
        with host.lifecycle() as lifecycle:
            lifecycle.reload()
        host.call("bridge", "CHECK", asking, red, "red")
    assert pings(red, "192.0.2.2")
