"""Docker's network driver with real packets: the link handed over, ports published later and taken back."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.docker_side import Docker, DriverError, port, served
from tests.lab import Echo, Host, Namespace, ask, pings

SHOP, SHOP6 = "10.101.0.0/24", "fd00:101::/64"
Make = Callable[..., Namespace]


def link_of(host: Host, name: str) -> dict[str, Any]:
    return json.loads(host.run("ip", "-j", "-d", "link", "show", name).stdout)[0]


def test_container_reaches_out_and_is_reached_by_its_published_ports(
    docker: Docker, host: Host, outside: Namespace, container: Namespace
) -> None:
    network = docker.network(SHOP, SHOP6)
    docker.run(
        network, container, "10.101.0.77/24", "fd00:101::77/64",
        ports=[port(80, 8080), port(80, 8080, "udp"), port(80, 8081, ip="192.0.2.1"), port(80, 8082, ip="::")],
    )  # fmt: skip
    served(container)
    for protocol in ("tcp", "udp"):
        assert ask(outside, "192.0.2.1", 8080, protocol) == "web 192.0.2.2"
        assert ask(outside, "2001:db8:1::1", 8080, protocol) == "web 2001:db8:1::2"
        assert ask(host, "127.0.0.1", 8080, protocol) == "web 10.101.0.1"
        assert ask(container, "192.0.2.1", 8080, protocol) == "web 10.101.0.1"
    assert ask(outside, "192.0.2.1", 8081) == "web 192.0.2.2"
    assert ask(outside, "2001:db8:1::1", 8081, timeout=1) == "no answer"
    assert ask(outside, "2001:db8:1::1", 8082) == "web 2001:db8:1::2"
    assert ask(outside, "192.0.2.1", 8082, timeout=1) == "no answer"
    Echo(outside, 9000, "out")
    Echo(outside, 9000, "out", family=6)
    assert ask(container, "192.0.2.2", 9000) == "out 192.0.2.1"
    assert ask(container, "2001:db8:1::2", 9000) == "out 2001:db8:1::1"


def test_nothing_is_left_after_endpoint_and_network_are_deleted(
    docker: Docker, host: Host, outside: Namespace, container: Namespace, tmp_path: Path
) -> None:
    before = host.snapshot()
    network = docker.network(SHOP, SHOP6)
    endpoint = docker.run(network, container, "10.101.0.77/24", "fd00:101::77/64", ports=[port(80, 8080)])
    assert host.rows()["ports"]
    endpoint.stop()
    docker.call("DeleteNetwork", NetworkID=network)
    assert host.snapshot() == before
    assert container.links() == {"lo"}
    assert host.rows() == {}
    assert list((tmp_path / "data").rglob("*.json")) == []


def test_deleting_twice_and_what_never_was_is_success(docker: Docker, container: Namespace) -> None:
    network = docker.network(SHOP)
    endpoint = docker.run(network, container, "10.101.0.77/24")
    for _ in range(2):
        endpoint.call("RevokeExternalConnectivity")
        endpoint.call("Leave")
        endpoint.call("DeleteEndpoint")
    for _ in range(2):
        docker.call("DeleteNetwork", NetworkID=network)
    docker.call("DeleteNetwork", NetworkID="f" * 64)


def test_what_docker_does_not_give_is_told(docker: Docker, host: Host, container: Namespace) -> None:
    network = docker.network(SHOP)
    about = {"NetworkID": network, "EndpointID": "a" * 64}
    told = docker.call("CreateEndpoint", **about, Interface={"Address": "10.101.0.9/24"})["Interface"]
    link = docker.call("Join", **about)["InterfaceName"]["SrcName"]
    assert told == {"MacAddress": link_of(host, link)["address"]}
    again = docker.call("CreateEndpoint", **about, Interface={"Address": "10.101.0.9/24"})["Interface"]
    assert again == told
    bare = docker.call("CreateEndpoint", NetworkID=network, EndpointID="b" * 64, Interface={})["Interface"]
    assert set(bare) == {"Address", "MacAddress"}
    assert bare["Address"].startswith("10.101.0.")
    assert bare["Address"] not in ("10.101.0.1/24", "10.101.0.9/24")


@pytest.mark.parametrize("how", ["plain", "option"])
def test_mac_is_the_one_asked_for(docker: Docker, host: Host, how: str) -> None:
    about = {"NetworkID": docker.network(SHOP), "EndpointID": "a" * 64}
    mac = "02:11:22:33:44:77"
    coded = base64.b64encode(bytes.fromhex(mac.replace(":", ""))).decode()
    options = {"com.docker.network.endpoint.macaddress": coded}
    interface = {"Address": "10.101.0.9/24", "MacAddress": mac if how == "plain" else ""}
    docker.call("CreateEndpoint", **about, Interface=interface, Options=options)
    link = docker.call("Join", **about)["InterfaceName"]["SrcName"]
    assert link_of(host, link)["address"] == mac


@pytest.mark.parametrize("mac", ["01:11:22:33:44:77", "02:11:22:33:44", "02:11:22:33:44:zz"])
def test_bad_mac_is_refused(docker: Docker, mac: str) -> None:
    with pytest.raises(DriverError, match="MacAddress"):
        docker.call(
            "CreateEndpoint", NetworkID=docker.network(SHOP), EndpointID="a" * 64, Interface={"MacAddress": mac}
        )


def test_address_in_use_is_refused(docker: Docker, lab: Make) -> None:
    network = docker.network(SHOP)
    docker.run(network, lab("one"), "10.101.0.9/24")
    with pytest.raises(DriverError, match=r"10\.101\.0\.9 .*is leased to"):
        docker.run(network, lab("two"), "10.101.0.9/24")
    with pytest.raises(DriverError, match="is the gateway"):
        docker.run(network, lab("three"), "10.101.0.1/24")
    with pytest.raises(DriverError, match=r"10\.99\.0\.1"):
        docker.run(network, lab("four"), "10.99.0.1/24")


# Options of networks


def test_docker_and_own_options_take_effect(docker: Docker, host: Host, outside: Namespace, lab: Make) -> None:
    one, two = lab("one"), lab("two")
    options = {
        "com.docker.network.bridge.name": "brshop",
        "com.docker.network.bridge.enable_icc": "false",
        "com.docker.network.bridge.enable_ip_masquerade": "0",
        "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1",
        "com.docker.network.driver.mtu": "1400",
        "com.docker.network.container_iface_prefix": "net",
        "macspoofchk": "true",
    }
    network = docker.network(SHOP, options=options)
    endpoint = docker.run(network, one, "10.101.0.2/24", ports=[port(80, 8080)])
    docker.run(network, two, "10.101.0.3/24")
    served(one, "one")
    assert link_of(host, "brshop")["mtu"] == 1400
    assert endpoint.name == "net0"
    assert not pings(two, "10.101.0.2")
    assert pings(host, "10.101.0.2")
    assert ask(host, "127.0.0.1", 8080).startswith("one")
    assert ask(outside, "192.0.2.1", 8080, timeout=1) == "no answer"
    outside.run("ip", "route", "add", "10.101.0.0/24", "via", "192.0.2.1")
    Echo(outside, 9000, "out")
    assert ask(one, "192.0.2.2", 9000) == "out 10.101.0.2"  # not masqueraded
    one.run("ip", "link", "set", "net0", "address", "02:00:00:00:00:99")
    assert not pings(one, "192.0.2.2")


def test_routed_mode_leaves_addresses_and_publishes_nothing(
    docker: Docker, outside: Namespace, container: Namespace
) -> None:
    mode = {"com.docker.network.bridge.gateway_mode_ipv4": "routed"}
    endpoint = docker.run(docker.network(SHOP, options=mode), container, "10.101.0.2/24", ports=[port(80, 8080)])
    served(container)
    assert endpoint.published() == []
    outside.run("ip", "route", "add", "10.101.0.0/24", "via", "192.0.2.1")
    assert ask(outside, "10.101.0.2", 80) == "web 192.0.2.2"
    assert ask(outside, "192.0.2.1", 8080, timeout=1) == "no answer"


def test_isolated_mode_gives_the_host_no_address(docker: Docker, host: Host, lab: Make) -> None:
    mode = {"com.docker.network.bridge.gateway_mode_ipv4": "isolated"}
    network = docker.network(SHOP, internal=True, options=mode)
    one, two = lab("one"), lab("two")
    docker.run(network, one, "10.101.0.2/24")
    docker.run(network, two, "10.101.0.3/24")
    assert pings(one, "10.101.0.3")
    assert host.addresses(f"br-{network[:12]}") == set()


def test_internal_network_has_no_way_out(docker: Docker, host: Host, outside: Namespace, lab: Make) -> None:
    network = docker.network(SHOP, SHOP6, internal=True)
    one, two = lab("one"), lab("two")
    endpoint = docker.run(network, one, "10.101.0.2/24", "fd00:101::2/64")
    docker.run(network, two, "10.101.0.3/24", "fd00:101::3/64")
    assert "Gateway" not in endpoint.join
    assert "GatewayIPv6" not in endpoint.join
    assert endpoint.join["DisableGatewayService"] is True
    assert pings(one, "10.101.0.3")
    assert pings(one, "fd00:101::3")
    one.run("ip", "route", "add", "default", "via", "10.101.0.1")
    assert not pings(one, "192.0.2.2")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"foo": "bar"}, "Options.foo: 'bar'"),
        ({"com.docker.network.bridge.enable_ic": "false"}, "did you mean com.docker.network.bridge.enable_icc"),
        ({"icc": "maybe"}, "true or false"),
        ({"mtu": "big"}, "a whole number"),
        ({"mtu": "99999999"}, "a number of bytes"),
        ({"com.docker.network.bridge.name": "much-too-long-a-name"}, "1 to 15 characters"),
        ({"com.docker.network.bridge.name": "wire0"}, "a bridge or a new name"),
        ({"com.docker.network.bridge.gateway_mode_ipv4": "magic"}, "nat, routed or isolated"),
        ({"com.docker.network.bridge.default_bridge": "true"}, "Docker's own bridge"),
        ({"com.docker.network.bridge.host_binding_ipv4": "::1"}, "an IPv4 address"),
        ({"com.docker.network.container_iface_prefix": "a/b"}, "container_iface_prefix"),
        ({"com.docker.network.host_ipv4": "192.0.2.1"}, "not supported"),
        ({"com.docker.network.bridge.trusted_host_interfaces": "x"}, "not supported"),
        ({"internal": "true"}, "use --internal"),
        ({"mac": "02:00:00:00:00:01"}, "--mac-address"),
        ({"firewall": "pf"}, "firewall"),
        ({"network": "nowhere"}, "no network 'nowhere'"),
        ({"vlan": "5000"}, "VLAN id"),
    ],
)
def test_bad_option_is_refused_and_nothing_made(
    docker: Docker, host: Host, outside: Namespace, tmp_path: Path, options: dict[str, str], words: str
) -> None:
    before = host.snapshot()
    with pytest.raises(DriverError) as caught:
        docker.network(SHOP, options=options)
    assert words in str(caught.value)
    assert host.snapshot() == before
    assert list((tmp_path / "data").rglob("*.json")) == []


def test_overlapping_subnet_is_refused(docker: Docker, host: Host, outside: Namespace) -> None:
    docker.network(SHOP)
    with pytest.raises(DriverError, match="overlaps"):
        docker.network("10.101.0.0/25")
    with pytest.raises(DriverError, match="overlaps the host's route"):
        docker.network("192.0.2.0/24")


# What Docker does not tell again


def test_networks_outlive_the_service_and_a_reboot(
    dockers: Callable[..., Docker], host: Host, outside: Namespace, lab: Make
) -> None:
    first = dockers()
    network = first.network(SHOP, SHOP6, options={"com.docker.network.bridge.name": "brshop", "mtu": "1400"})
    one, two = lab("one"), lab("two")
    first.run(network, one, "10.101.0.2/24", "fd00:101::2/64", ports=[port(80, 8080)])
    served(one, "one")
    second = dockers()  # the service again
    second.run(network, two, "10.101.0.3/24", "fd00:101::3/64", ports=[port(80, 8081)])
    served(two, "two")
    assert pings(two, "10.101.0.2")
    assert ask(outside, "192.0.2.1", 8080) == "one 192.0.2.2"
    assert ask(outside, "192.0.2.1", 8081) == "two 192.0.2.2"
    first.close()
    second.close()
    shutil.rmtree(host.state_dir)  # and the host: nothing of /run is left, nor of the kernel
    host.run("ip", "link", "del", "brshop")
    for link in host.links():
        if link.startswith("veth"):
            host.run("ip", "link", "del", link)
    host.run("nft", "flush", "ruleset")
    third = dockers()
    three = lab("three")
    third.run(network, three, "10.101.0.2/24", "fd00:101::2/64", ports=[port(80, 8080)])
    served(three, "three")
    assert link_of(host, "brshop")["mtu"] == 1400
    assert ask(outside, "2001:db8:1::1", 8080) == "three 2001:db8:1::2"


def test_endpoint_of_an_unknown_network_is_an_error(docker: Docker) -> None:
    with pytest.raises(DriverError, match="is not known here"):
        docker.call("CreateEndpoint", NetworkID="e" * 64, EndpointID="a" * 64)


def test_address_and_port_of_a_container_that_died_unnoticed_are_free(docker: Docker, host: Host, lab: Make) -> None:
    network = docker.network(SHOP)
    dead = lab("dead")
    docker.run(network, dead, "10.101.0.2/24", ports=[port(80, 8080)])
    host.run("ip", "link", "del", next(link for link in host.links() if link.startswith("veth")))
    docker.run(network, lab("next"), "10.101.0.2/24", ports=[port(80, 8080)])
    assert len(docker.lifecycle.store.attachments()) == 1


def test_idle_network_stays_until_docker_deletes_it(docker: Docker, host: Host, container: Namespace) -> None:
    network = docker.network(SHOP)
    docker.run(network, container, "10.101.0.2/24").stop()
    with host.entered():
        assert docker.lifecycle.networks.remove_idle(0) == []
    assert host.addresses(f"br-{network[:12]}") == {"10.101.0.1/24"}
    docker.call("DeleteNetwork", NetworkID=network)
    assert f"br-{network[:12]}" not in host.links()


# As the core sees it


def test_check_reload_and_gc_of_a_link_that_was_handed_over(
    docker: Docker, host: Host, outside: Namespace, container: Namespace
) -> None:
    endpoint = docker.run(docker.network(SHOP), container, "10.101.0.2/24", ports=[port(80, 8080)])
    served(container)
    key = docker.lifecycle.store.attachments(container=endpoint.key)[0].attachment.key
    with host.entered():
        docker.lifecycle.check(key)
        assert docker.lifecycle.gc_dead() == []
        host.run("nft", "flush", "ruleset")
        assert docker.lifecycle.reload()
        docker.lifecycle.check(key)
    assert ask(outside, "192.0.2.1", 8080) == "web 192.0.2.2"
    host.run("ip", "link", "del", next(link for link in host.links() if link.startswith("veth")))
    with host.entered():
        assert docker.lifecycle.reload() == []  # it would be a link that no container has
        assert docker.lifecycle.gc_dead() == [key, f"network {key.split('/')[0]}"]


# Macvlan


@pytest.fixture
def lan(dockers: Callable[..., Docker]) -> Docker:
    return dockers("macvlan")


def test_macvlan_is_handed_over_and_comes_back(
    lan: Docker, host: Host, outside: Namespace, container: Namespace
) -> None:
    before = host.snapshot()
    network = lan.network("192.0.2.0/24", "2001:db8:1::/64", options={"parent": "wire0", "macvlan_mode": "bridge"})
    endpoint = lan.run(network, container, "192.0.2.77/24", "2001:db8:1::77/64", mac="02:11:22:33:44:77")
    shown = json.loads(container.run("ip", "-j", "-d", "link", "show", endpoint.name).stdout)[0]
    assert (shown["address"], shown["linkinfo"]["info_kind"]) == ("02:11:22:33:44:77", "macvlan")
    assert endpoint.join["Gateway"] == "192.0.2.1"
    served(container)
    assert ask(outside, "192.0.2.77", 80) == "web 192.0.2.2"
    assert ask(outside, "2001:db8:1::77", 80) == "web 2001:db8:1::2"
    with host.entered():
        lan.lifecycle.check(lan.lifecycle.store.attachments()[0].attachment.key)
        assert lan.lifecycle.gc_dead() == []
        assert lan.lifecycle.reload() == []
    endpoint.stop()
    lan.call("DeleteNetwork", NetworkID=network)
    assert host.snapshot() == before


def test_macvlan_refuses_what_it_cannot(lan: Docker, outside: Namespace, container: Namespace) -> None:
    with pytest.raises(DriverError, match="master: 'eth7' is not a device of the host"):
        lan.network("192.0.2.0/24", options={"parent": "eth7"})
    with pytest.raises(DriverError, match="bridge, private, vepa, passthru"):
        lan.network("192.0.2.0/24", options={"parent": "wire0", "macvlan_mode": "magic"})
    with pytest.raises(DriverError, match="internal"):
        lan.network("192.0.2.0/24", options={"parent": "wire0"}, internal=True)
    with pytest.raises(DriverError, match="not an option: use a parent on the host"):
        lan.network("192.0.2.0/24", options={"parent": "wire0", "link_in_container": "true"})
    with pytest.raises(DriverError, match="none: a macvlan's ports are on the container's own address"):
        lan.run(
            lan.network("192.0.2.0/24", options={"parent": "wire0"}), container, "192.0.2.77/24", ports=[port(80, 8080)]
        )


def test_overlay_wants_a_named_network(dockers: Callable[..., Docker]) -> None:
    with pytest.raises(DriverError, match=r"Options\.network: missing"):
        dockers("overlay").network(SHOP)
