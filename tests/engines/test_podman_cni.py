"""Podman 4.3 with its CNI backend on our bridge: the classic ``run -d -p 8080:80`` from every side, and its removal."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import podman
from .conftest import MakeHost
from .harness import HOST4, HOST6, OUTSIDE4, EngineHost, eventually
from .image import HELLO
from .networks import conflist
from .snapshot import unchanged


@pytest.fixture(scope="module")
def host(engine_host: MakeHost) -> EngineHost:
    made = engine_host("podman", r"version 4\.3\.", "debian12")
    made.write("/etc/cni/net.d/50-shop.conflist", conflist("shop", "br-shop", "10.88.7.0/24", "fd00:88:7::/64"))
    made.write("/etc/cni/net.d/51-yard.conflist", conflist("yard", "br-yard", "10.88.8.0/24"))
    podman.configure(made, podman.CNI)
    # A network's own links and rules come with its first container and may stay after its last.
    for network in ("shop", "yard"):
        podman.serve(made, "first", "--network", network)
        podman.remove(made, "first")
    return made


@pytest.fixture(autouse=True)
def as_before(host: EngineHost) -> Iterator[None]:
    """Whatever a test runs, removing its containers leaves the host's network and our leases as before."""
    with unchanged(host):
        yield
        host.run("podman", "rm", "--force", "--all", "--time", "0")


def test_published_port_answers_from_every_side(host: EngineHost) -> None:
    podman.serve(host, "web", "--network", "shop", "--publish", "8080:80")
    assert host.fetch(HOST4, 8080) == HELLO
    assert host.fetch(HOST4, 8080, where="machine") == HELLO
    assert host.fetch("127.0.0.1", 8080, where="machine") == HELLO
    # To itself, by the host's address: there and back through the same bridge port.
    assert podman.get(host, "web", f"http://{HOST4}:8080/") == HELLO


def test_published_port_keeps_the_source_address(host: EngineHost) -> None:
    podman.serve(host, "web", "--network", "shop", "--publish", "8080:80")
    assert host.fetch(HOST4, 8080, "/cgi-bin/peer") == f"[::ffff:{OUTSIDE4}]"


def test_published_port_answers_over_ipv6(host: EngineHost) -> None:
    podman.serve(host, "web", "--network", "shop", "--publish", f"[{HOST6}]:8080:80")
    assert host.fetch(HOST6, 8080) == HELLO
    assert host.fetch(HOST4, 8080, seconds=0) == ""


def test_removed_container_is_no_longer_reachable(host: EngineHost) -> None:
    podman.serve(host, "web", "--network", "shop", "--publish", "8080:80")
    assert host.fetch(HOST4, 8080) == HELLO
    podman.remove(host, "web")
    assert host.fetch(HOST4, 8080, seconds=0) == ""


def test_static_address_and_mac_are_used_and_free_again_after_removal(host: EngineHost) -> None:
    for _ in range(2):
        options = ("--network", "shop", "--ip", "10.88.7.77", "--mac-address", "02:11:22:33:44:55")
        podman.serve(host, "web", *options)
        said = podman.attached(host, "web", "shop")
        assert (said["IPAddress"], said["MacAddress"]) == ("10.88.7.77", "02:11:22:33:44:55")
        shown = host.engine("podman", "exec", "web", "ip", "address", "show", "dev", "eth0")
        assert "inet 10.88.7.77/24 " in shown
        assert "link/ether 02:11:22:33:44:55 " in shown
        assert host.fetch("10.88.7.77", 80, where="machine") == HELLO
        podman.remove(host, "web")


def test_two_containers_reach_each_other(host: EngineHost) -> None:
    for name in ("one", "two"):
        podman.serve(host, name, "--network", "shop")
    for here, there in (("one", "two"), ("two", "one")):
        said = podman.attached(host, there, "shop")
        for url in (f"http://{said['IPAddress']}/", f"http://[{said['GlobalIPv6Address']}]/"):
            assert podman.get(host, here, url) == HELLO


def test_container_reaches_the_other_host_with_the_hosts_address(host: EngineHost) -> None:
    podman.serve(host, "one", "--network", "shop")
    with host.listen(OUTSIDE4, 9000) as peers:
        host.run("podman", "exec", "one", "nc", "-w", "2", OUTSIDE4, "9000", check=False)
        assert eventually(peers) == [HOST4]


def test_one_container_on_two_networks(host: EngineHost) -> None:
    podman.serve(host, "both", "--network", "shop,yard", "--publish", "8080:80")
    for network in ("shop", "yard"):
        assert host.fetch(podman.attached(host, "both", network)["IPAddress"], 80, where="machine") == HELLO
    assert host.fetch(HOST4, 8080) == HELLO


def test_network_connected_while_the_container_runs(host: EngineHost) -> None:
    podman.serve(host, "web", "--network", "shop", "--publish", "8080:80")
    host.engine("podman", "network", "connect", "yard", "web")
    assert host.fetch(podman.attached(host, "web", "yard")["IPAddress"], 80, where="machine") == HELLO
    host.engine("podman", "network", "disconnect", "yard", "web")
    assert host.fetch(HOST4, 8080) == HELLO


def test_network_reload_mends_a_flushed_firewall(host: EngineHost) -> None:
    podman.serve(host, "web", "--network", "shop", "--publish", "8080:80")
    address = podman.attached(host, "web", "shop")["IPAddress"]
    host.machine("nft", "flush", "ruleset")
    assert host.fetch(HOST4, 8080, seconds=0) == ""
    host.engine("podman", "network", "reload", "web")
    assert host.fetch(HOST4, 8080) == HELLO
    assert podman.attached(host, "web", "shop")["IPAddress"] == address


def test_restarted_container_is_published_again(host: EngineHost) -> None:
    podman.serve(host, "web", "--network", "shop", "--publish", "8080:80")
    host.engine("podman", "restart", "--time", "0", "web")
    assert host.fetch(HOST4, 8080) == HELLO
