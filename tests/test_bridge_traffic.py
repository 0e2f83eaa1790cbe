"""The bridge driver with real packets: every way to a published port, masquerade, isolation, both families."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.lab import CniFailed, Echo, Host, Namespace, ask, pings

V4, V6 = "10.10.0.0/24", "fd00:10::/64"

BACKEND = "nft"


@pytest.fixture(autouse=True, params=["nft", "iptables"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test by both firewalls."""
    if request.param == "iptables":
        try:
            import_module("iptc")
        except ImportError:
            pytest.skip("needs python-iptables: no module iptc")
        if not Path("/proc/net/ip_tables_names").exists() or not shutil.which("iptables-legacy"):
            pytest.skip("needs iptables-legacy: no legacy tables in this kernel, or no iptables-legacy")
    monkeypatch.setattr(f"{__name__}.BACKEND", request.param)
    return str(request.param)


def conflist(name: str = "net", ports: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    """A dual-stack bridge network with published ports."""
    config: dict[str, Any] = {
        "cniVersion": "1.1.0",
        "name": name,
        "type": "bridge",
        "firewall": BACKEND,
        "bridge": f"br-{name}",
        "isDefaultGateway": True,
        "ipMasq": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": V4}], [{"subnet": V6}]]},
        **more,
    }
    if ports:
        config["runtimeConfig"] = {"portMappings": ports}
    return config


def port(host: int, inside: int, protocol: str = "tcp", **more: Any) -> dict[str, Any]:
    """One port mapping."""
    return {"hostPort": host, "containerPort": inside, "protocol": protocol, **more}


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("family", [4, 6])
def test_published_port_is_reached_from_everywhere(
    host: Host, outside: Namespace, lab: Callable[..., Namespace], protocol: str, family: int
) -> None:
    web, other = lab("web"), lab("other")
    host.cni("bridge", "ADD", conflist(ports=[port(8080, 80, protocol)]), web, "web")
    host.cni("bridge", "ADD", conflist(), other, "other")
    server = Echo(web, 80, "web", protocol, family)
    public, gateway = ("192.0.2.1", "10.10.0.1") if family == 4 else ("2001:db8:1::1", "fd00:10::1")
    outsider = "192.0.2.2" if family == 4 else "2001:db8:1::2"
    try:
        assert ask(outside, public, 8080, protocol) == f"web {outsider}", "source address kept from outside"
        assert ask(host, public, 8080, protocol).startswith("web ")
        assert ask(host, gateway, 8080, protocol).startswith("web ")
        assert ask(other, public, 8080, protocol).startswith("web ")
        assert ask(web, public, 8080, protocol).startswith("web "), "hairpin"
        if family == 4:
            assert ask(host, "127.0.0.1", 8080, protocol) == "web 10.10.0.1"
    finally:
        server.close()
    host.cni("bridge", "DEL", conflist(ports=[port(8080, 80, protocol)]), web, "web")
    assert ask(outside, public, 8080, protocol, timeout=0.5) == "no answer"


def test_container_goes_out_masqueraded_and_back(host: Host, outside: Namespace, container: Namespace) -> None:
    host.cni("bridge", "ADD", conflist(), container)
    for family, address, public in ((4, "192.0.2.2", "192.0.2.1"), (6, "2001:db8:1::2", "2001:db8:1::1")):
        server = Echo(outside, 7000, "outside", "tcp", family)
        try:
            assert ask(container, address, 7000) == f"outside {public}"
        finally:
            server.close()


def test_without_ip_masq_the_source_is_the_containers(host: Host, outside: Namespace, container: Namespace) -> None:
    host.cni("bridge", "ADD", conflist(ipMasq=False), container)
    outside.run("ip", "route", "add", V4, "via", "192.0.2.1")
    server = Echo(outside, 7000, "outside")
    try:
        assert ask(container, "192.0.2.2", 7000) == "outside 10.10.0.2"
    finally:
        server.close()


def test_host_ip_limits_where_a_port_answers(host: Host, outside: Namespace, container: Namespace) -> None:
    host.cni("bridge", "ADD", conflist(ports=[port(8080, 80, hostIP="127.0.0.1")]), container)
    server = Echo(container, 80, "web")
    try:
        assert ask(host, "127.0.0.1", 8080).startswith("web ")
        assert ask(outside, "192.0.2.1", 8080, timeout=0.5) == "no answer"
    finally:
        server.close()


def test_range_of_ports(host: Host, outside: Namespace, container: Namespace) -> None:
    host.cni("bridge", "ADD", conflist(ports=[port(9000, 5000, range=10)]), container)
    server = Echo(container, 5009, "last")
    try:
        assert ask(outside, "192.0.2.1", 9009) == "last 192.0.2.2"
    finally:
        server.close()


def test_containers_cannot_reach_the_hosts_loopback(host: Host, container: Namespace, backend: str) -> None:
    """route_localnet, which 127.0.0.1 publishing needs, opens the host's loopback unless guarded."""
    host.cni("bridge", "ADD", conflist(ports=[port(8080, 80)]), container)
    container.run("ip", "route", "add", "127.0.0.5/32", "via", "10.10.0.1", "table", "100")
    container.run("ip", "rule", "add", "to", "127.0.0.5", "table", "100", "priority", "0")
    container.run("sysctl", "-qw", "net.ipv4.conf.eth0.route_localnet=1")
    container.run("ip", "addr", "del", "127.0.0.1/8", "dev", "lo", check=False)
    container.run("ip", "rule", "del", "table", "local")
    container.run("ip", "rule", "add", "table", "local", "priority", "10")
    server = Echo(host, 6000, "secret")
    try:
        assert ask(container, "10.10.0.1", 6000).startswith("secret"), "the server is there"
        assert ask(container, "127.0.0.5", 6000, timeout=1) == "no answer"
        if backend == "nft":
            host.run("nft", "flush", "chain", "inet", "netdrivers", "guard")
        else:
            host.run("iptables-legacy", "-t", "raw", "-F")
            host.run("iptables-legacy", "-t", "mangle", "-F")
        assert ask(container, "127.0.0.5", 6000, timeout=1).startswith("secret"), "the guard is what stops it"
    finally:
        server.close()


def two_networks(host: Host, lab: Callable[..., Namespace], **options: Any) -> tuple[Namespace, Namespace]:
    """A container on each of two networks that share options."""
    left, right = lab("left"), lab("right")
    for name, subnet, namespace in (("one", "10.11.0.0/24", left), ("two", "10.12.0.0/24", right)):
        ipam = {"type": "host-local", "ranges": [[{"subnet": subnet}]]}
        host.cni("bridge", "ADD", conflist(name, ipam=ipam, **options), namespace, name)
    return left, right


@pytest.mark.parametrize(("isolate", "talks"), [(False, True), (True, False), ("strict", False)])
def test_isolation_between_networks(
    host: Host, lab: Callable[..., Namespace], isolate: bool | str, talks: bool
) -> None:
    left, _ = two_networks(host, lab, isolate=isolate)
    assert pings(left, "10.12.0.2") is talks
    assert pings(left, "10.11.0.1")


def test_icc_false_keeps_containers_apart_but_not_from_the_gateway(host: Host, lab: Callable[..., Namespace]) -> None:
    left, right = lab("left"), lab("right")
    for name, namespace in (("left", left), ("right", right)):
        host.cni("bridge", "ADD", conflist(icc=False), namespace, name)
    assert pings(left, "10.10.0.1")
    assert not pings(left, "10.10.0.3")
    assert not pings(left, "fd00:10::3")


def test_internal_network_has_no_way_out(host: Host, outside: Namespace, lab: Callable[..., Namespace]) -> None:
    left, right = lab("left"), lab("right")
    config = conflist(internal=True, isDefaultGateway=False, isGateway=True)
    config["ipam"]["routes"] = [{"dst": "0.0.0.0/0"}]
    for name, namespace in (("left", left), ("right", right)):
        host.cni("bridge", "ADD", config, namespace, name)
    assert pings(left, "10.10.0.3")
    assert not pings(left, "192.0.2.2")
    config["runtimeConfig"] = {"portMappings": [port(1, 1)]}
    with pytest.raises(CniFailed, match="internal"):
        host.cni("bridge", "ADD", config, lab("third"), "third")


def test_macspoofchk_drops_foreign_source_addresses(host: Host, container: Namespace) -> None:
    host.cni("bridge", "ADD", conflist(macspoofchk=True), container)
    assert pings(container, "10.10.0.1")
    container.run("ip", "link", "set", "eth0", "address", "02:00:00:00:00:99")
    assert not pings(container, "10.10.0.1")


def test_another_tables_udp_flow_follows_a_new_port(host: Host, outside: Namespace, container: Namespace) -> None:
    """A flow that conntrack remembers from before ADD reaches the container after it, and not after DEL."""
    outside.run("ip", "link", "set", "wire0", "up")
    before = Echo(host, 5353, "host", "udp")
    assert ask(outside, "192.0.2.1", 5353, "udp", source_port=40000) == "host 192.0.2.2"
    before.close()
    host.run("nft", "add", "table", "inet", "other")
    host.run("nft", "add chain inet other c { type filter hook input priority 0; }")
    host.run("nft", "add rule inet other c ct state new counter")
    assert ask(outside, "192.0.2.1", 5353, "udp", timeout=0.5, source_port=40000) == "no answer"
    host.cni("bridge", "ADD", conflist(ports=[port(5353, 53, "udp")]), container)
    server = Echo(container, 53, "dns", "udp")
    try:
        assert ask(outside, "192.0.2.1", 5353, "udp", source_port=40000) == "dns 192.0.2.2"
        host.cni("bridge", "DEL", conflist(), container)
        assert ask(outside, "192.0.2.1", 5353, "udp", timeout=0.5, source_port=40000) == "no answer"
    finally:
        server.close()
