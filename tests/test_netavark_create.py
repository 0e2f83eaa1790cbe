"""``podman network create`` with our plugins: what is completed, what is refused, and that nothing is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.lab import Host, Namespace
from tests.netavark import (
    MACVLAN,
    asked,
    assert_same,
    container,
    done,
    network,
    refused,
    still,
)

# create


def test_create_chooses_subnets_apart_from_what_is_used(host: Host) -> None:
    first = done(host, "create", asked("a", ipv6_enabled=True))
    assert [":" in item["subnet"] for item in first["subnets"]] == [False, True]
    assert first["ipv6_enabled"] is True
    again = done(host, "create", asked("a", ipv6_enabled=True))
    assert again == first, "the same host, the same answer"
    host.run("ip", "link", "add", "other", "type", "bridge")
    host.run("ip", "addr", "add", first["subnets"][0]["gateway"] + "/24", "dev", "other")
    host.run("ip", "link", "set", "other", "up")
    moved = done(host, "create", asked("a", ipv6_enabled=True))
    assert moved["subnets"][0] != first["subnets"][0]
    assert moved["subnets"][1] == first["subnets"][1]


def test_create_keeps_what_it_does_not_know(host: Host) -> None:
    given = asked(labels={"l": "1"}, subnets=[{"subnet": "10.9.0.0/24", "lease_range": {"start_ip": "10.9.0.9"}}])
    answer = done(host, "create", given)
    assert answer["labels"] == {"l": "1"}
    assert answer["subnets"] == [
        {"subnet": "10.9.0.0/24", "lease_range": {"start_ip": "10.9.0.9"}, "gateway": "10.9.0.1"}
    ]


def test_create_adds_the_family_that_is_missing(host: Host) -> None:
    given = asked(ipv6_enabled=True, subnets=[{"subnet": "fd00:9::/64"}])
    answer = done(host, "create", given)
    assert answer["subnets"][0] == {"subnet": "fd00:9::/64", "gateway": "fd00:9::1"}
    assert ":" not in answer["subnets"][1]["subnet"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"options": {"mtuu": "1400"}}, ["options.mtuu", "did you mean mtu?"]),
        ({"options": {"mtu": "much"}}, ["options.mtu", "'much'", "a whole number"]),
        ({"options": {"mtu": "20"}}, ["mtu", "20", "68"]),
        ({"options": {"vlan": "5000"}}, ["vlan", "5000", "4094"]),
        ({"options": {"isolate": "maybe"}}, ["isolate", "'maybe'", "strict"]),
        ({"options": {"no_default_route": "perhaps"}}, ["no_default_route", "true or false"]),
        ({"options": {"metric": "-1"}}, ["metric", "-1", "0 to 4294967295"]),
        ({"options": {"mode": "wild"}}, ["mode", "'wild'", "managed or unmanaged"]),
        ({"options": {"vrf": "red"}}, ["vrf", "not supported"]),
        ({"options": {"bridge": "br9"}}, ["bridge", "--interface-name"]),
        ({"options": {"firewall": "magic"}}, ["firewall", "'magic'", "nft or iptables"]),
        ({"options": {"network": "nope"}}, ["no network 'nope'"]),
        ({"options": {"mtu": 1400}}, ["options.mtu", "a string"]),
        ({"network_interface": "far-too-long-a-name"}, ["bridge", "far-too-long-a-name"]),
        ({"subnets": [{"subnet": "10.9.0.0"}]}, ["subnets[0].subnet", "CIDR"]),
        ({"subnets": [{"subnet": "10.9.0.7/24"}]}, ["subnets[0].subnet", "10.9.0.0/24"]),
        ({"subnets": [{"subnet": "10.9.0.0/24", "gateway": "10.8.0.1"}]}, ["gateway", "10.8.0.1"]),
        ({"subnets": [{"subnet": "10.9.0.0/24"}, {"subnet": "10.9.0.0/16"}]}, ["10.9.0.0/16", "apart from"]),
        ({"subnets": [{"subnet": "192.0.2.0/25"}]}, ["192.0.2.0/25", "wire0"]),
        ({"ipam_options": {"driver": "dhcp"}}, ["ipam_options.driver", "'dhcp'", "host-local or none"]),
        ({"name": "../x"}, ["name", "'../x'"]),
        ({"name": None}, ["name: missing"]),
    ],
)
def test_create_refuses(host: Host, outside: Namespace, more: dict[str, Any], words: list[str]) -> None:
    before = still(host)
    message = refused(host, "create", asked(**more))
    for word in words:
        assert word in message
    assert_same(host, before)


def test_create_refuses_the_subnet_of_a_network_in_use(host: Host, lab: Callable[..., Namespace]) -> None:
    done(host, "setup", container(network("shop"), "10.95.0.2"), lab("web"))
    given = asked("yard", subnets=[{"subnet": "10.95.0.0/16"}])
    assert "overlaps 10.95.0.0/24 of network shop" in refused(host, "create", given)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, ["subnets", "--subnet"]),
        ({"subnets": [{"subnet": "10.9.0.0/24"}], "options": {"mode": "sideways"}}, ["mode", "sideways", "vepa"]),
        ({"subnets": [{"subnet": "10.9.0.0/24"}], "options": {"parent": "nope0"}}, ["nope0", "wire0"]),
        ({"subnets": [{"subnet": "10.9.0.0/24"}], "options": {"bclim": "3"}}, ["bclim", "bcqueuelen"]),
        ({"subnets": [{"subnet": "10.9.0.0/24"}], "options": {"isolate": "true"}}, ["isolate", "not an option"]),
    ],
)
def test_create_refuses_a_macvlan(host: Host, outside: Namespace, more: dict[str, Any], words: list[str]) -> None:
    message = refused(host, "create", asked("lan", driver=MACVLAN, **more), program=MACVLAN)
    for word in words:
        assert word in message


def test_create_of_an_ipvlan_and_of_an_overlay(host: Host, outside: Namespace) -> None:
    given = asked("lan", driver="netdrivers-ipvlan", options={"parent": "wire0", "mode": "l3"})
    lan = done(host, "create", {**given, "subnets": [{"subnet": "192.0.2.0/24"}]}, program="netdrivers-ipvlan")
    assert (lan["network_interface"], lan["options"]) == ("wire0", {"mode": "l3"})
    message = refused(host, "create", asked("far", driver="netdrivers-overlay"), program="netdrivers-overlay")
    assert "--opt network=NAME" in message
