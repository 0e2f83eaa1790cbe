"""ls, inspect, ports, check, reload and gc: what is recorded, held against what the kernel shows."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.lab import Echo, Namespace, ask, pings
from tests.netctl.runner import Netctl, bridge

ROW = {
    "network", "driver", "engine", "container", "label", "ifname", "netns", "addresses", "ports", "state", "age",
}  # fmt: skip


@pytest.fixture
def web(netctl: Netctl, container: Namespace) -> Namespace:
    """A container "web" with port 80 published on 8080, IPv4 and IPv6."""
    both = {"type": "host-local", "ranges": [[{"subnet": "10.70.0.0/24"}], [{"subnet": "fd70::/64"}]]}
    netctl.conflist("net1", bridge(ipam=both))
    netctl.ok("add", "net1", container.path, "--id", "abc123", "--name", "web", "-p", "8080:80")
    return container


def test_ls_shows_every_engines_attachments(netctl: Netctl, web: Namespace, lab: Callable[..., Namespace]) -> None:
    other = lab("other")
    config = {"cniVersion": "1.0.0", "name": "theirs", **bridge("10.71.0.0/24", "br-theirs")}
    netctl.host.cni("bridge", "ADD", config, other, "0123456789abcdef", args="IgnoreUnknown=1;K8S_POD_NAME=db")
    rows = netctl.json("ls")
    assert [set(row) for row in rows] == [ROW, ROW]
    assert [(row["network"], row["engine"], row["label"]) for row in rows] == [
        ("net1", "netctl", "web"),
        ("theirs", "podman", "db"),
    ]
    assert rows[0]["addresses"] == ["10.70.0.2/24", "fd70::2/64"]
    assert rows[0]["ports"] == ["8080->80/tcp"]
    assert [row["container"] for row in netctl.json("ls", "--network", "theirs")] == ["0123456789abcdef"]
    assert [row["container"] for row in netctl.json("ls", "--container", "abc123")] == ["abc123"]
    heading, *lines = netctl.ok("ls").splitlines()
    assert " ".join(heading.split()) == "NETWORK DRIVER ENGINE CONTAINER NAME IFNAME ADDRESSES PORTS STATE AGE"
    assert [line.split()[:5] for line in lines] == [
        ["net1", "bridge", "netctl", "abc123", "web"],
        ["theirs", "bridge", "podman", "0123456789ab", "db"],
    ]


def test_ls_says_when_a_namespace_died(netctl: Netctl, web: Namespace) -> None:
    web.close()
    (row,) = netctl.json("ls")
    assert row["state"] == "gone"
    assert "net1/abc123/eth0" in netctl.json("gc")["removed"]
    assert netctl.json("ls") == []


def test_inspect_a_network_and_a_container(netctl: Netctl, web: Namespace) -> None:
    (network,) = netctl.json("inspect", "net1")
    assert (network["kind"], network["ready"], network["drift"]) == ("network", True, [])
    assert {lease["address"] for lease in network["leases"]} == {"10.70.0.2", "fd70::2"}
    assert [row["container"] for row in network["attachments"]] == ["abc123"]
    for word in ("abc123", "abc", "web"):
        (found,) = netctl.json("inspect", word)
        assert (found["kind"], found["container"], found["drift"]) == ("attachment", "abc123", [])
    assert found["result"]["interfaces"][-1]["name"] == "eth0"
    assert any(line.startswith("publish tcp") for line in (operation["line"] for operation in found["operations"]))
    text = netctl.ok("inspect", "web")
    assert "container abc123 (web) eth0 on network net1" in text
    assert "10.70.0.2/24 gateway 10.70.0.1" in text
    assert "did you mean web?" in netctl.fails(3, "inspect", "wbe")


def test_an_ambiguous_beginning_is_nobody(netctl: Netctl, web: Namespace, lab: Callable[..., Namespace]) -> None:
    netctl.ok("add", "net1", lab("other").path, "--id", "abd456")
    netctl.fails(3, "inspect", "ab")
    assert [item["container"] for item in netctl.json("inspect", "abd")] == ["abd456"]


def test_ports_hold_the_store_against_the_kernel(netctl: Netctl, web: Namespace) -> None:
    four, six = netctl.json("ports")
    assert (four["host_ip"], four["host_port"], four["target_ip"], four["target_port"]) == ("", 8080, "10.70.0.2", 80)
    assert (six["target_ip"], six["label"], six["container"]) == ("fd70::2", "web", "abc123")
    assert {four["state"], six["state"]} == {"ok"}
    table = "inet netdrivers"
    netctl.host.run("nft", f"flush map {table} publish4any")
    element = "{ tcp . 9999 : 10.70.0.77 . 99 }"
    netctl.host.run("nft", f"add element {table} publish4any {element}")
    found = {(port["host_port"], port["state"], port["container"]) for port in netctl.json("ports")}
    assert found == {(8080, "missing", "abc123"), (8080, "ok", "abc123"), (9999, "stray", "")}
    assert "10.70.0.77:99" in netctl.ok("ports")


def test_ports_of_a_host_network_are_reserved(netctl: Netctl) -> None:
    netctl.conflist("host", {"type": "host", "capabilities": {"portMappings": True}})
    netctl.ok("add", "host", netctl.host.path, "-p", "8080:8080")
    (port,) = netctl.json("ports")
    assert (port["state"], port["host_port"], port["network"]) == ("reserved", 8080, "host")


FAULTS = {
    "address of the container": ("container", "ip addr del 10.70.0.2/24 dev eth0", "address 10.70.0.2/24"),
    "route of the container": ("container", "ip -6 route del default", "route ::/0"),
    "link down": ("container", "ip link set eth0 down", "up eth0"),
    "gateway": ("host", "ip addr del 10.70.0.1/24 dev br-test", "address 10.70.0.1/24"),
    "masquerade": ("host", "nft flush set inet netdrivers masquerade4", "masquerade 10.70.0.0/24"),
    "published port": ("host", "nft flush map inet netdrivers publish4any", "publish tcp 0.0.0.0:8080"),
    "the whole ruleset": ("host", "nft flush ruleset", "firewall table"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_check_names_a_fault_and_reload_mends_it(
    netctl: Netctl, outside: Namespace, web: Namespace, fault: str
) -> None:
    where, command, said = FAULTS[fault]
    assert {item["network"] for item in netctl.json("check")} == {"net1"}
    (web if where == "container" else netctl.host).run(*command.split())
    one = netctl.json("check", "net1", web.path, "--id", "abc123", status=6)
    every = netctl.json("check", status=6)
    for checked in (one, every):
        assert any(words.startswith(said) for item in checked for words in item["differences"])
    assert said in netctl.run("check").stdout
    assert any(item["operation"].startswith(said) for item in netctl.json("reload"))
    assert all(not item["differences"] for item in netctl.json("check"))
    assert netctl.json("reload") == []
    server = Echo(web, 80, "web")
    assert ask(outside, "192.0.2.1", 8080).startswith("web ")
    server.close()
    assert pings(web, "192.0.2.2")


def test_check_of_nothing_and_of_a_stranger(netctl: Netctl, web: Namespace) -> None:
    assert "no eth7" in netctl.fails(3, "check", "net1", web.path, "--id", "abc123", "--ifname", "eth7")
    assert "NETNS is missing" in netctl.fails(2, "check", "net1")


def test_gc_keeps_the_living_and_lets_networks_linger(netctl: Netctl, web: Namespace) -> None:
    assert netctl.json("gc")["removed"] == []
    netctl.ok("del", "net1", web.path, "--id", "abc123")
    assert netctl.json("gc", "--linger", "3600")["removed"] == []
    assert "br-test" in netctl.host.links()
    assert netctl.json("gc")["removed"] == ["network net1"]
    assert "br-test" not in netctl.host.links()
