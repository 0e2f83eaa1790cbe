"""Docker on our drivers: run, publish, restart of dockerd, death of the service, and removal without a trace."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import docker
from .conftest import MakeHost
from .harness import HOST4, HOST6, OUTSIDE4, EngineHost, eventually
from .image import HELLO, WEB
from .snapshot import unchanged

PROJECT = Path(__file__).parents[2]
SHOP = ("--ipv6", "--subnet", "10.88.7.0/24", "--subnet", "fd00:88:7::/64")
VERSIONS = [
    pytest.param((r"version 20\.10\.", "debian12"), id="20.10"),
    pytest.param((r"version 26\.1\.", "debian13"), id="26.1"),
]


@pytest.fixture(scope="module", params=VERSIONS)
def host(request: pytest.FixtureRequest, engine_host: MakeHost) -> Iterator[EngineHost]:
    made = engine_host("dockerd", *request.param)
    docker.serve(made)
    docker.start(made)
    docker.load(made)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def as_before(host: EngineHost) -> Iterator[None]:
    """Whatever a test runs, removing its containers and networks leaves the host's network and our leases as before."""
    with unchanged(host):
        yield
        docker.remove_all(host)
    kept = host.run("find", "/var/lib/netdrivers", "-name", "*.json", where="machine", check=False)
    assert kept.stdout == ""


def test_published_port_answers_from_every_side(host: EngineHost) -> None:
    docker.network(host, "shop", *SHOP)
    docker.run(host, "web", "--network", "shop", "--publish", "8080:80")
    assert host.fetch(HOST4, 8080) == HELLO
    assert host.fetch(HOST6, 8080) == HELLO
    assert host.fetch(HOST4, 8080, where="machine") == HELLO
    assert host.fetch("127.0.0.1", 8080, where="machine") == HELLO
    assert host.fetch("::1", 8080, where="machine") == HELLO
    assert docker.get(host, "web", f"http://{HOST4}:8080/") == HELLO
    assert host.fetch(HOST4, 8080, "/cgi-bin/peer") == f"[::ffff:{OUTSIDE4}]"
    docker.remove(host, "web")
    assert host.fetch(HOST4, 8080, seconds=0) == ""


def test_static_address_and_mac_are_used_and_free_again_after_removal(host: EngineHost) -> None:
    docker.network(host, "shop", *SHOP)
    for _ in range(2):
        options = ("--ip", "10.88.7.77", "--ip6", "fd00:88:7::77", "--mac-address", "02:11:22:33:44:55")
        docker.run(host, "web", "--network", "shop", *options)
        said = docker.attached(host, "web", "shop")
        assert (said["IPAddress"], said["MacAddress"]) == ("10.88.7.77", "02:11:22:33:44:55")
        shown = host.engine("docker", "exec", "web", "ip", "address", "show", "dev", "eth0")
        for line in ("inet 10.88.7.77/24 ", "inet6 fd00:88:7::77/64 ", "link/ether 02:11:22:33:44:55 "):
            assert line in shown
        assert host.fetch("10.88.7.77", 80, where="machine") == HELLO
        docker.remove(host, "web")


def test_two_containers_reach_each_other_by_address_and_by_dockers_names(host: EngineHost) -> None:
    docker.network(host, "shop", *SHOP)
    for name in ("one", "two"):
        docker.run(host, name, "--network", "shop")
    for here, there in (("one", "two"), ("two", "one")):
        said = docker.attached(host, there, "shop")
        for url in (f"http://{said['IPAddress']}/", f"http://[{said['GlobalIPv6Address']}]/", f"http://{there}/"):
            assert docker.get(host, here, url) == HELLO


def test_container_reaches_the_other_host_with_the_hosts_address(host: EngineHost) -> None:
    docker.network(host, "shop", *SHOP)
    docker.run(host, "one", "--network", "shop")
    with host.listen(OUTSIDE4, 9000) as peers:
        host.run("docker", "exec", "one", "nc", "-w", "2", OUTSIDE4, "9000", check=False)
        assert eventually(peers) == [HOST4]


def test_network_connected_while_the_container_runs(host: EngineHost) -> None:
    docker.network(host, "shop", *SHOP)
    docker.network(host, "yard", "--subnet", "10.88.8.0/24")
    docker.run(host, "web", "--network", "shop", "--publish", "8080:80")
    host.engine("docker", "network", "connect", "--ip", "10.88.8.8", "yard", "web")
    assert host.fetch("10.88.8.8", 80, where="machine") == HELLO
    assert host.fetch(HOST4, 8080) == HELLO
    host.engine("docker", "network", "disconnect", "shop", "web")
    assert host.fetch(HOST4, 8080) == HELLO  # by the network that is left
    host.engine("docker", "network", "disconnect", "yard", "web")
    assert host.fetch(HOST4, 8080, seconds=0) == ""


def test_container_is_listed_with_its_name(host: EngineHost) -> None:
    docker.network(host, "shop", *SHOP)
    docker.run(host, "web", "--network", "shop", "--publish", "8080:80")
    assert eventually(lambda: " docker " in (listed := host.machine("netctl", "ls")) and " web " in listed)


def test_service_stays_small_with_ten_containers(host: EngineHost) -> None:
    docker.network(host, "shop", *SHOP)
    script = f"for i in $(seq 10); do docker run -d --network shop -p $((8100 + i)):80 {WEB} & done; wait"
    host.engine("sh", "-c", script)
    assert len(host.engine("docker", "ps", "--quiet").split()) == 10
    for number in (8101, 8110):
        assert host.fetch(HOST4, number) == HELLO
    status = json.loads(host.machine("netctl", "service", "status", "--json"))
    assert status["tasks"]["docker"]["calls"] > 40
    assert status["rss"] < 64 * 2**20


def test_restarted_container_is_published_again(host: EngineHost) -> None:
    docker.network(host, "shop", *SHOP)
    docker.run(host, "web", "--network", "shop", "--publish", "8080:80")
    host.engine("docker", "restart", "--time", "0", "web")
    assert host.fetch(HOST4, 8080) == HELLO


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_dockerd_restarted_in_between(host: EngineHost, signal: str) -> None:
    docker.network(host, "shop", *SHOP)
    docker.run(host, "web", "--network", "shop", "--ip", "10.88.7.77", "--publish", "8080:80")
    docker.end(host, signal)
    docker.start(host)
    host.engine("docker", "start", "web")
    assert host.fetch(HOST4, 8080) == HELLO
    assert docker.attached(host, "web", "shop")["IPAddress"] == "10.88.7.77"
    docker.run(host, "two", "--network", "shop")
    assert docker.get(host, "two", "http://10.88.7.77/") == HELLO


def test_containers_survive_a_dockerd_that_restores_them(host: EngineHost) -> None:
    docker.end(host)
    docker.start(host, "--live-restore")
    docker.network(host, "shop", "--subnet", "10.88.7.0/24")
    docker.run(host, "web", "--network", "shop", "--publish", "8080:80")
    docker.end(host)
    assert host.fetch(HOST4, 8080) == HELLO
    docker.start(host, "--live-restore")
    assert host.fetch(HOST4, 8080) == HELLO
    docker.remove(host, "web")
    assert host.fetch(HOST4, 8080, seconds=0) == ""
    docker.end(host)
    docker.start(host)


def test_service_killed_in_between(host: EngineHost) -> None:
    docker.network(host, "shop", *SHOP)
    docker.run(host, "web", "--network", "shop", "--publish", "8080:80")
    docker.end_service(host, "KILL")
    assert host.fetch(HOST4, 8080) == HELLO
    late = threading.Timer(2, docker.serve, [host])  # dockerd waits for its plugin
    late.start()
    docker.run(host, "two", "--network", "shop", "--publish", "8081:80")
    late.join()
    assert host.fetch(HOST4, 8081) == HELLO
    docker.remove(host, "web")
    assert host.fetch(HOST4, 8080, seconds=0) == ""


def test_wrong_option_is_told_to_the_person(host: EngineHost) -> None:
    said = host.run("docker", "network", "create", "-d", "netdrivers-bridge", "-o", "mtuu=1400", "bad", check=False)
    assert said.returncode != 0
    assert "Options.mtuu: '1400' is not valid: not an option of this driver (did you mean mtu?)" in said.stderr


def test_taken_port_is_told_to_the_person(host: EngineHost) -> None:
    docker.network(host, "shop", *SHOP)
    docker.run(host, "one", "--network", "shop", "--publish", "8080:80")
    argv = ("docker", "run", "--detach", "--name", "two", "--network", "shop", "--publish", "8080:80", WEB)
    said = host.run(*argv, check=False)
    assert said.returncode != 0
    assert "host port 8080/tcp is published by" in said.stderr
    assert host.fetch(HOST4, 8080) == HELLO


def test_internal_network_has_no_way_out(host: EngineHost) -> None:
    docker.network(host, "inner", "--internal", "--subnet", "10.88.9.0/24")
    docker.run(host, "one", "--network", "inner")
    docker.run(host, "two", "--network", "inner", "--ip", "10.88.9.9")
    assert docker.get(host, "one", "http://10.88.9.9/") == HELLO
    assert "default" not in host.engine("docker", "exec", "one", "ip", "route")


def test_addresses_from_our_ipam(host: EngineHost) -> None:
    docker.network(host, "own", "--ipam-driver", "netdrivers-bridge")
    docker.run(host, "one", "--network", "own")
    docker.run(host, "two", "--network", "own", "--publish", "8080:80")
    assert docker.attached(host, "one", "own")["Gateway"] == "10.192.0.1"
    assert docker.attached(host, "one", "own")["IPAddress"] == "10.192.0.2"
    assert docker.get(host, "one", "http://10.192.0.3/") == HELLO
    assert host.fetch(HOST4, 8080) == HELLO
    host.engine("docker", "restart", "--time", "0", "one")
    assert docker.get(host, "one", "http://10.192.0.3/") == HELLO


def test_macvlan_container_is_on_the_parents_network(host: EngineHost) -> None:
    options = ("--subnet", "192.0.2.0/24", "--gateway", OUTSIDE4, "--opt", "parent=wire")
    docker.network(host, "lan", *options, driver="netdrivers-macvlan")
    docker.run(host, "web", "--network", "lan", "--ip", "192.0.2.77")
    assert host.fetch("192.0.2.77", 80) == HELLO
    assert host.fetch("192.0.2.77", 80, "/cgi-bin/peer") == f"[::ffff:{OUTSIDE4}]"


def test_managed_plugin(host: EngineHost, tmp_path: Path) -> None:
    """Packed by the script, without a network, and without our service on the host."""
    docker.end_service(host)
    docker.end(host)  # it has the service's plugin in mind
    docker.start(host)
    pack = [sys.executable, str(PROJECT / "scripts" / "docker-plugin"), str(tmp_path / "packed")]
    subprocess.run(pack, check=True, timeout=60)
    subprocess.run(["cp", "-r", str(tmp_path / "packed"), str(host.path("/run/packed"))], check=True)
    host.engine("docker", "plugin", "create", "netdrivers-bridge", "/run/packed")
    host.engine("docker", "plugin", "enable", "netdrivers-bridge")
    try:
        docker.network(host, "shop", *SHOP, driver="netdrivers-bridge:latest")
        docker.run(host, "web", "--network", "shop", "--ip", "10.88.7.77", "--publish", "8080:80")
        assert host.fetch(HOST4, 8080) == HELLO
        assert host.fetch(HOST6, 8080) == HELLO
        docker.remove_all(host)
    finally:
        host.engine("docker", "plugin", "disable", "--force", "netdrivers-bridge")
        host.engine("docker", "plugin", "rm", "netdrivers-bridge")
        host.run("rm", "-r", "/run/packed")
        docker.serve(host)
