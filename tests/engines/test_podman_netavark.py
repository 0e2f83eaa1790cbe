"""Podman 5 with our netavark plugins: run, publish, share, reload and remove, on real containers."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from netdrivers.names.server import executable
from netdrivers.names.text import DOMAIN

from . import podman
from .conftest import MakeHost
from .harness import BIN_DIR, HOST4, HOST6, OUTSIDE4, EngineHost, answered, eventually
from .image import HELLO, WEB
from .needs import needs
from .service import serving
from .snapshot import unchanged

NETAVARK = f"""
[network]
network_backend = "netavark"
netavark_plugin_dirs = ["{BIN_DIR}"]
"""
SHOP = ("--subnet", "10.88.7.0/24", "--subnet", "fd00:88:7::/64", "--interface-name", "br-shop")


@pytest.fixture(scope="module")
def host(engine_host: MakeHost) -> EngineHost:
    made = engine_host("podman", r"version 5\.", "debian13")
    podman.configure(made, NETAVARK)
    made.engine("podman", "network", "create", "-d", "netdrivers-bridge", *SHOP, "shop")
    made.engine("podman", "network", "create", "-d", "netdrivers-bridge", "yard")
    return made


@pytest.fixture(autouse=True)
def as_before(host: EngineHost) -> Iterator[None]:
    """Whatever a test runs, removing its containers leaves the host's network as before, bridges and all."""
    with unchanged(host):
        yield
        host.run("podman", "rm", "--force", "--all", "--time", "0")


def test_published_port_answers_from_every_side(host: EngineHost) -> None:
    podman.serve(host, "web", "--network", "shop", "--publish", "8080:80")
    assert host.fetch(HOST4, 8080) == HELLO
    assert host.fetch(HOST4, 8080, where="machine") == HELLO
    assert host.fetch("127.0.0.1", 8080, where="machine") == HELLO
    assert podman.get(host, "web", f"http://{HOST4}:8080/") == HELLO
    assert host.fetch(HOST4, 8080, "/cgi-bin/peer") == f"[::ffff:{OUTSIDE4}]"
    podman.remove(host, "web")
    assert host.fetch(HOST4, 8080, seconds=0) == ""


def test_published_range_and_ipv6(host: EngineHost) -> None:
    podman.serve(host, "web", "--network", "shop", "--publish", f"[{HOST6}]:8079-8080:79-80")
    assert host.fetch(HOST6, 8080) == HELLO
    assert host.fetch(HOST4, 8080, seconds=0) == ""


def test_static_address_and_mac_are_used_and_free_again_after_removal(host: EngineHost) -> None:
    for _ in range(2):
        options = ("--network", "shop", "--ip", "10.88.7.77", "--mac-address", "02:11:22:33:44:55")
        podman.serve(host, "web", *options)
        said = podman.attached(host, "web", "shop")
        assert (said["IPAddress"], said["MacAddress"]) == ("10.88.7.77", "02:11:22:33:44:55")
        assert (said["Gateway"], said["GlobalIPv6PrefixLen"]) == ("10.88.7.1", 64)
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


def test_containers_find_each_other_by_name(host: EngineHost) -> None:
    if not executable():
        needs("aardvark-dns", "names resolve through it")
    podman.serve(host, "one", "--network", "shop")
    podman.serve(host, "two", "--network", "shop", "--network-alias", "redis", "--ip", "10.88.7.50")
    for name in ("two", "redis"):
        said = answered(lambda name=name: host.engine("podman", "exec", "one", "nslookup", f"{name}.{DOMAIN}"))
        assert "Address: 10.88.7.50" in said
    assert f"search {DOMAIN}" in host.engine("podman", "exec", "one", "cat", "/etc/resolv.conf")


def test_container_reaches_the_other_host_with_the_hosts_address(host: EngineHost) -> None:
    podman.serve(host, "one", "--network", "shop")
    with host.listen(OUTSIDE4, 9000) as peers:
        host.run("podman", "exec", "one", "nc", "-w", "2", OUTSIDE4, "9000", check=False)
        assert eventually(peers) == [HOST4]


def test_two_networks_and_one_taken_away(host: EngineHost) -> None:
    """The ports are published by one network, and by the other when the first is gone."""
    podman.serve(host, "web", "--network", "shop", "--publish", "8080:80")
    host.engine("podman", "network", "connect", "yard", "web")
    for network in ("shop", "yard"):
        assert host.fetch(podman.attached(host, "web", network)["IPAddress"], 80, where="machine") == HELLO
    assert host.fetch(HOST4, 8080) == HELLO
    host.engine("podman", "network", "disconnect", "shop", "web")
    assert host.fetch(HOST4, 8080) == HELLO
    podman.serve(host, "both", "--network", "shop", "--network", "yard", "--publish", "8081:80")
    assert host.fetch(HOST4, 8081) == HELLO


def test_network_reload_mends_a_flushed_firewall(host: EngineHost) -> None:
    podman.serve(host, "web", "--network", "shop", "--network", "yard", "--publish", "8080:80")
    podman.serve(host, "two", "--network", "shop")
    address = podman.attached(host, "web", "shop")["IPAddress"]
    host.machine("nft", "flush", "ruleset")
    assert host.fetch(HOST4, 8080, seconds=0) == ""
    host.engine("podman", "network", "reload", "--all")
    assert host.fetch(HOST4, 8080) == HELLO
    # Past conmon, which holds the port open and never answers.
    assert host.fetch("127.0.0.1", 8080, where="machine", seconds=0) == HELLO
    assert podman.attached(host, "web", "shop")["IPAddress"] == address


def test_restarted_container_is_published_again(host: EngineHost) -> None:
    podman.serve(host, "web", "--network", "shop", "--publish", "8080:80")
    host.engine("podman", "restart", "--time", "0", "web")
    assert host.fetch(HOST4, 8080) == HELLO


def test_pod_shares_one_interface(host: EngineHost) -> None:
    # The pod's own container is of an image that only sleeps.
    host.engine("podman", "load", "--quiet", "--input", "/run/pause.tar")
    options = ("--network", "shop", "--publish", "8080:80", "--infra-image", "localhost/pause:latest")
    host.engine("podman", "pod", "create", "--name", "pod", *options)
    podman.serve(host, "web", "--pod", "pod")
    assert host.fetch(HOST4, 8080) == HELLO
    host.engine("podman", "pod", "rm", "--force", "--time", "0", "pod")


def test_internal_network_has_no_way_out(host: EngineHost) -> None:
    host.engine("podman", "network", "create", "-d", "netdrivers-bridge", "--internal", "cellar")
    for name in ("one", "two"):
        podman.serve(host, name, "--network", "cellar")
    assert "default" not in host.engine("podman", "exec", "one", "ip", "route")
    assert podman.get(host, "one", f"http://{podman.attached(host, 'two', 'cellar')['IPAddress']}/") == HELLO
    podman.remove(host, "one", "two")
    host.engine("podman", "network", "rm", "cellar")


def test_macvlan_on_the_wire(host: EngineHost) -> None:
    host.engine(
        "podman", "network", "create", "-d", "netdrivers-macvlan", "--opt", "parent=wire",
        "--subnet", "192.0.2.0/24", "--gateway", OUTSIDE4, "lan",
    )  # fmt: skip
    podman.serve(host, "web", "--network", "lan", "--ip", "192.0.2.50")
    assert host.fetch("192.0.2.50", 80) == HELLO
    podman.remove(host, "web")
    host.engine("podman", "network", "rm", "lan")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--opt", "mtuu=1400"), "did you mean mtu?"),
        (("--opt", "mtu=much"), "options.mtu: 'much' is not valid: a whole number"),
        (("--opt", "network=nope"), "no network 'nope'"),
        (("--subnet", "192.0.2.0/25"), "overlaps the host's route 192.0.2.0/24 on wire"),
        (("--ipam-driver", "dhcp"), "host-local or none"),
    ],
)
def test_network_create_says_what_is_wrong(host: EngineHost, options: tuple[str, ...], words: str) -> None:
    done = host.run("podman", "network", "create", "-d", "netdrivers-bridge", *options, "bad", check=False)
    assert done.returncode
    assert words in done.stderr
    assert "bad" not in host.engine("podman", "network", "ls")


def test_default_network(host: EngineHost) -> None:
    """By the file podman.json, which Podman reads instead of its built-in default."""
    made = json.loads(host.engine("podman", "network", "inspect", "yard"))[0]
    host.write("/etc/containers/networks/podman.json", json.dumps({**made, "name": "podman", "id": "2f" * 32}))
    host.engine("podman", "network", "rm", "yard")
    podman.serve(host, "web", "--publish", "8080:80")
    assert host.fetch(HOST4, 8080) == HELLO
    assert podman.attached(host, "web", "podman")["IPAddress"]
    assert "podman" in host.machine("netctl", "ls", "--json")
    podman.remove(host, "web")
    host.engine("rm", "/etc/containers/networks/podman.json")
    host.engine("podman", "network", "create", "-d", "netdrivers-bridge", "yard")


def test_named_network_is_shared_with_a_namespace(host: EngineHost) -> None:
    host.machine("netctl", "network", "create", "square", "--driver", "bridge", "--subnet", "10.88.9.0/24")
    host.engine("podman", "network", "create", "-d", "netdrivers-bridge", "--opt", "network=square", "front")
    host.machine("ip", "netns", "add", "alone")
    host.machine("netctl", "add", "square", "alone")
    podman.serve(host, "web", "--network", "front", "--publish", "8080:80")
    podman.serve(host, "fixed", "--network", "front", "--ip", "10.88.9.50")
    address = podman.attached(host, "web", "front")["IPAddress"]
    assert address.startswith("10.88.9."), "the pool is the named network's"
    assert host.fetch(HOST4, 8080) == HELLO
    ask = ("ip", "netns", "exec", "alone", "curl", "--silent", "--max-time", "5")
    assert host.machine(*ask, f"http://{address}/").strip() == HELLO
    assert host.machine(*ask, "http://10.88.9.50/").strip() == HELLO
    podman.remove(host, "web", "fixed")
    host.machine("netctl", "del", "square", "alone")
    host.machine("ip", "netns", "del", "alone")
    host.engine("podman", "network", "rm", "front")
    host.machine("netctl", "network", "rm", "square")


def test_image_is_built_on_our_network(host: EngineHost) -> None:
    podman.serve(host, "web", "--network", "shop", "--ip", "10.88.7.40")
    host.write(
        "/run/build/Containerfile", f"FROM {WEB}\nRUN wget -q -O /www/copy http://10.88.7.40/ && cat /www/copy\n"
    )
    said = host.engine("podman", "build", "--network", "shop", "--tag", "localhost/built", "/run/build", timeout=120)
    assert HELLO in said


def test_service_does_the_work_and_may_die_at_any_time(host: EngineHost) -> None:
    with serving(host) as service:
        podman.serve(host, "web", "--network", "shop", "--publish", "8080:80")
        assert host.fetch(HOST4, 8080) == HELLO
        assert service.served() == 1
        service.kill()
    assert host.fetch(HOST4, 8080) == HELLO
    podman.serve(host, "two", "--network", "shop")
    podman.remove(host, "web")
    assert host.fetch(HOST4, 8080, seconds=0) == ""
    with serving(host) as service:
        podman.remove(host, "two")
        assert service.served() == 1
