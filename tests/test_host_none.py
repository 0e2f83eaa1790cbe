"""The drivers host and none, and the loopback executable."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab import CniFailed, Echo, Host, Namespace, ask, pings

Lab = Callable[..., Namespace]
HOST: dict[str, Any] = {"cniVersion": "1.1.0", "name": "hosts", "type": "host"}
NONE: dict[str, Any] = {"cniVersion": "1.1.0", "name": "alone", "type": "none"}


def with_ports(*ports: tuple[int, int], protocol: str = "tcp") -> dict[str, Any]:
    """The host network with published ports."""
    mappings = [{"hostPort": host, "containerPort": inside, "protocol": protocol} for host, inside in ports]
    return {**HOST, "runtimeConfig": {"portMappings": mappings}}


def test_host_lists_the_hosts_interfaces_and_addresses(host: Host, outside: Namespace) -> None:
    before = host.snapshot()
    result = host.cni("host", "ADD", HOST, host)
    assert [item["name"] for item in result["interfaces"]] == ["lo", "wire0"]
    assert all(item["sandbox"] == host.path for item in result["interfaces"])
    addresses = {item["address"]: result["interfaces"][item["interface"]]["name"] for item in result["ips"]}
    assert addresses["192.0.2.1/24"] == "wire0"
    assert addresses["2001:db8:1::1/64"] == "wire0"
    assert addresses["127.0.0.1/8"] == "lo"
    host.cni("host", "CHECK", {**HOST, "prevResult": result}, host)
    host.cni("host", "DEL", HOST, host)
    assert host.snapshot() == before


def test_any_path_to_the_hosts_namespace_is_the_host(host: Host, tmp_path: Any) -> None:
    """Namespaces are compared and not their paths."""
    alias = tmp_path / "alias"
    alias.symlink_to(host.path)
    host.cni("host", "ADD", HOST, str(alias), "c1")
    host.cni("host", "ADD", HOST, "/proc/self/ns/net", "c2")


def test_another_namespace_is_refused(host: Host, container: Namespace) -> None:
    for netns in (container, f"/proc/{os.getpid()}/ns/net"):
        with pytest.raises(CniFailed, match="the host's own network namespace, for the driver host") as failed:
            host.cni("host", "ADD", HOST, netns)
        assert failed.value.code == 4
    assert not host.rows()


def test_hosts_ports_are_reserved_and_not_translated(host: Host, outside: Namespace, lab: Lab) -> None:
    before = host.snapshot()
    host.call("host", "ADD", with_ports((8080, 8080)), host)
    assert host.snapshot() == before, "nothing is made"
    server = Echo(host, 8080, "here")
    try:
        assert ask(outside, "192.0.2.1", 8080) == "here 192.0.2.2"
    finally:
        server.close()
    with pytest.raises(CniFailed, match="host port 8080/tcp is published by hosts/c1/eth0/host") as failed:
        host.call("host", "ADD", with_ports((8080, 8080)), host, "c2")
    assert failed.value.code == 100
    bridge = {
        "cniVersion": "1.1.0", "name": "net", "type": "bridge", "isGateway": True,
        "ipam": {"type": "host-local", "subnet": "10.10.0.0/24"},
        "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]},
    }  # fmt: skip
    with pytest.raises(CniFailed, match="host port 8080/tcp is published by hosts/c1/eth0/host"):
        host.call("bridge", "ADD", bridge, lab("other"))
    host.call("host", "DEL", HOST, host)
    host.call("host", "ADD", with_ports((8080, 8080)), host, "c2")


def test_host_port_held_by_a_process_names_it(host: Host) -> None:
    server = Echo(host, 8080, "here")
    try:
        with pytest.raises(CniFailed, match=rf"host port 8080/tcp is held by \S+ \(pid {os.getpid()}\)") as failed:
            host.call("host", "ADD", with_ports((8079, 8079), (8080, 8080)), host)
        assert failed.value.code == 100
        assert not host.rows()
    finally:
        server.close()
    host.call("host", "ADD", with_ports((8080, 8080)), host)


def test_host_port_must_map_to_itself(host: Host) -> None:
    with pytest.raises(CniFailed, match=r"portMappings\[1\]: '8080->80/tcp' is not valid: a port that maps to itself"):
        host.call("host", "ADD", with_ports((9000, 9000), (8080, 80)), host)
    assert not host.rows()


def test_none_brings_loopback_up_and_nothing_else(host: Host, outside: Namespace, container: Namespace) -> None:
    before = host.snapshot()
    assert not pings(container, "127.0.0.1")
    result = host.cni("none", "ADD", NONE, container, ifname="eth7")
    assert result["interfaces"] == [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": container.path}]
    assert [item["address"] for item in result["ips"]] == ["127.0.0.1/8", "::1/128"]
    assert container.links() == {"lo"}
    for family, address in ((4, "127.0.0.1"), (6, "::1")):
        server = Echo(container, 80, "self", family=family)
        try:
            assert ask(container, address, 80) == f"self {address}"
        finally:
            server.close()
    assert not pings(container, "192.0.2.1")
    host.cni("none", "CHECK", {**NONE, "prevResult": result}, container, ifname="eth7")
    host.cni("none", "DEL", NONE, container, ifname="eth7")
    with host.lifecycle() as lifecycle:
        lifecycle.gc_dead()
    assert host.snapshot() == before
    assert not host.rows()


@pytest.mark.parametrize("kind", ["host", "none"])
def test_ipam_and_foreign_ports_are_refused(host: Host, container: Namespace, kind: str) -> None:
    base = {"cniVersion": "1.1.0", "name": "x", "type": kind}
    netns = host if kind == "host" else container
    with pytest.raises(CniFailed, match=r"ipam\.type: 'host-local' is not valid: no ipam") as failed:
        host.call(kind, "ADD", {**base, "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}}, netns)
    assert failed.value.code == 7
    if kind == "none":
        with pytest.raises(CniFailed, match="portMappings: '80->80/tcp' is not valid"):
            host.call(kind, "ADD", {**base, "runtimeConfig": with_ports((80, 80))["runtimeConfig"]}, netns)
    assert not host.rows()


def test_loopback_executable(host: Host, container: Namespace) -> None:
    config = {"cniVersion": "0.3.1", "name": "lo", "type": "loopback"}
    result = host.cni("loopback", "ADD", config, container, ifname="lo")
    assert result["interfaces"][0]["name"] == "lo"
    assert [item["version"] for item in result["ips"]] == ["4", "6"]
    assert pings(container, "127.0.0.1")
    later = {**config, "cniVersion": "1.0.0"}
    host.cni("loopback", "CHECK", later, container, ifname="lo")
    container.run("ip", "link", "set", "lo", "down")
    with pytest.raises(CniFailed, match="up lo in sandbox: is down"):
        host.cni("loopback", "CHECK", later, container, ifname="lo")
    previous = {"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.2/24"}]}
    result = host.cni("loopback", "ADD", {**later, "prevResult": previous}, container, ifname="lo")
    assert [item["address"] for item in result["ips"]] == ["10.1.0.2/24"], "the chain's result is handed on"
    assert host.cni("loopback", "DEL", later, container, ifname="lo") is None
    assert host.cni("loopback", "DEL", later, "", ifname="lo") is None
    assert host.cni("loopback", "VERSION", {"cniVersion": "1.0.0"}, None)["cniVersion"] == "1.0.0"
    with pytest.raises(CniFailed) as failed:
        host.cni("loopback", "ADD", {**config, "cniVersion": "7.0.0"}, container, ifname="lo")
    assert failed.value.code == 1
