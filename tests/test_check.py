"""CHECK finds what somebody took away, reload puts it back and traffic flows; DEL and ADD cope with what is gone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from netdrivers.model import derived_name
from tests.lab import CniFailed, Echo, Host, Namespace, ask, pings

Lab = Callable[..., Namespace]

MAC = "02:00:00:00:00:99"
VETH = derived_name("veth", "net", "c1", "eth0")
CONFIG: dict[str, Any] = {
    "cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "br-net", "isDefaultGateway": True,
    "ipMasq": True, "macspoofchk": True,
    "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "10.10.0.0/24"}], [{"subnet": "fd00:10::/64"}]],
        "routes": [{"dst": "198.51.100.0/24", "gw": "10.10.0.9"}],
    },
    "runtimeConfig": {
        "portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 8053, "containerPort": 53, "protocol": "udp"},
        ]
    },
}  # fmt: skip

# Where it is done ("host" or "container"), what is done, and words that CHECK must say.
DAMAGE: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "default route": ("container", "ip route del default", ("route 0.0.0.0/0 via 10.10.0.1", "missing")),
    "default route 6": ("container", "ip -6 route del default", ("route ::/0 via fd00:10::1", "missing")),
    "other route": ("container", "ip route del 198.51.100.0/24", ("route 198.51.100.0/24 via 10.10.0.9", "missing")),
    "route elsewhere": ("container", "ip route replace default via 10.10.0.77", ("route 0.0.0.0/0", "missing")),
    "address": ("container", "ip addr del 10.10.0.2/24 dev eth0", ("address 10.10.0.2/24 on eth0", "missing")),
    "address 6": ("container", "ip addr del fd00:10::2/64 dev eth0", ("address fd00:10::2/64 on eth0", "missing")),
    "container link down": ("container", "ip link set eth0 down", ("up eth0 in sandbox", "down")),
    "container link": ("container", "ip link del eth0", (f"veth {VETH}", "missing")),
    "container MAC": ("container", "ip link set eth0 address 02:00:00:00:00:99", ("eth0 has MAC 02:00:00:00:00:99",)),
    "container IPv6": ("container", "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1", ("disable_ipv6", "is 1")),
    "host link": ("host", f"ip link del {VETH}", (f"link {VETH} missing",)),
    "bridge port": ("host", f"ip link set {VETH} nomaster", (f"{VETH} is not a port of br-net",)),
    "port down": ("host", f"ip link set {VETH} down", (f"{VETH} is down",)),
    "hairpin": ("host", f"bridge link set dev {VETH} hairpin off", (f"{VETH} has hairpin off",)),
    "bridge": ("host", "ip link del br-net", ("create bridge br-net", "missing")),
    "bridge down": ("host", "ip link set br-net down", ("br-net", "is down")),
    "bridge MTU": ("host", "ip link set br-net mtu 1280", ("br-net", "has MTU 1280, not 1500")),
    "gateway address": ("host", "ip addr del 10.10.0.1/24 dev br-net", ("address 10.10.0.1/24 on br-net", "missing")),
    "gateway address 6": ("host", "ip addr del fd00:10::1/64 dev br-net", ("address fd00:10::1/64", "missing")),
    "forwarding": ("host", "sysctl -qw net.ipv4.ip_forward=0", ("forward IPv4", "off")),
    "publish element": (
        "host",
        "nft delete element inet netdrivers publish4any { tcp . 8080 }",
        ("publish tcp 0.0.0.0:8080 to 10.10.0.2:80", "publish4any"),
    ),
    "publish element elsewhere": (
        "host",
        "nft delete element inet netdrivers publish4any { tcp . 8080 };"
        " nft add element inet netdrivers publish4any { tcp . 8080 : 10.10.0.77 . 80 }",
        ("publish tcp 0.0.0.0:8080 to 10.10.0.2:80", "leads elsewhere"),
    ),
    "masquerade element": (
        "host",
        "nft delete element inet netdrivers masquerade4 { 10.10.0.0/24 }",
        ("masquerade 10.10.0.0/24", "masquerade4"),
    ),
    "masquerade element 6": (
        "host",
        "nft delete element inet netdrivers masquerade6 { fd00:10::/64 }",
        ("masquerade fd00:10::/64", "masquerade6"),
    ),
    "map emptied": ("host", "nft flush map inet netdrivers publish6any", ("publish tcp .*:8080", "publish udp")),
    "chain emptied": ("host", "nft flush chain inet netdrivers prerouting", ("firewall table netdrivers", "rules")),
    "source guard": ("host", "nft delete table bridge netdrivers", (f"only source .* from {VETH}", "guarded|sources")),
    "table": ("host", "nft delete table inet netdrivers", ("firewall table netdrivers", "masquerade", "publish")),
    "ruleset": ("host", "nft flush ruleset", ("firewall table netdrivers", "masquerade", "publish", "only source")),
}  # fmt: skip


@pytest.fixture
def attached(host: Host, outside: Namespace, container: Namespace) -> dict[str, Any]:
    """A container on a dual-stack network with published ports; the configuration for its CHECK."""
    result = host.call("bridge", "ADD", CONFIG, container)
    return {**CONFIG, "prevResult": result}


def traffic_flows(host: Host, outside: Namespace, container: Namespace) -> None:
    """Published ports from outside and from the container itself, and the container's way out, in both families."""
    servers = [Echo(container, 80, "web"), Echo(container, 80, "web", family=6), Echo(container, 53, "dns", "udp")]
    servers += [Echo(outside, 7000, "out"), Echo(outside, 7000, "out", family=6)]
    try:
        assert ask(outside, "192.0.2.1", 8080) == "web 192.0.2.2"
        assert ask(outside, "2001:db8:1::1", 8080) == "web 2001:db8:1::2"
        assert ask(outside, "192.0.2.1", 8053, "udp") == "dns 192.0.2.2"
        assert ask(container, "192.0.2.1", 8080).startswith("web "), "hairpin"
        assert ask(container, "192.0.2.2", 7000) == "out 192.0.2.1"
        assert ask(container, "2001:db8:1::2", 7000) == "out 2001:db8:1::1"
    finally:
        for server in servers:
            server.close()


@pytest.mark.parametrize("what", DAMAGE)
def test_check_names_the_damage_and_reload_mends_it(
    host: Host, outside: Namespace, container: Namespace, attached: dict[str, Any], what: str
) -> None:
    where, command, words = DAMAGE[what]
    host.call("bridge", "CHECK", attached, container)
    (host if where == "host" else container).run("sh", "-c", command)
    with pytest.raises(CniFailed) as failed:
        host.call("bridge", "CHECK", attached, container)
    assert failed.value.code == 104
    for word in words:
        assert re.search(word, failed.value.msg), word
    with host.lifecycle() as lifecycle:
        assert lifecycle.reload()
        assert not lifecycle.reload(), "nothing is left to mend"
    host.call("bridge", "CHECK", attached, container)
    traffic_flows(host, outside, container)


def test_check_names_every_difference(host: Host, container: Namespace, attached: dict[str, Any]) -> None:
    container.run("ip", "route", "del", "default")
    container.run("ip", "addr", "del", "fd00:10::2/64", "dev", "eth0")
    host.run("nft", "delete element inet netdrivers masquerade4 { 10.10.0.0/24 }")
    with pytest.raises(CniFailed) as failed:
        host.call("bridge", "CHECK", attached, container)
    for words in ("masquerade 10.10.0.0/24", "route 0.0.0.0/0", "address fd00:10::2/64"):
        assert words in failed.value.msg


def test_check_compares_with_the_result_that_it_is_given(
    host: Host, container: Namespace, attached: dict[str, Any]
) -> None:
    other = {**attached["prevResult"], "ips": [{"address": "10.10.0.99/24", "interface": 2}]}
    with pytest.raises(CniFailed, match=r"prevResult lacks address 10\.10\.0\.2/24"):
        host.call("bridge", "CHECK", {**attached, "prevResult": other}, container)
    other = {**attached["prevResult"], "interfaces": []}
    with pytest.raises(CniFailed, match="prevResult lacks interface eth0"):
        host.call("bridge", "CHECK", {**attached, "prevResult": other}, container)


def test_check_of_a_dead_namespace_and_of_nothing(host: Host, lab: Lab) -> None:
    gone = lab("gone")
    result = host.call("bridge", "ADD", CONFIG, gone)
    path = gone.path
    gone.close()
    with pytest.raises(CniFailed, match="the namespace is gone"):
        host.call("bridge", "CHECK", {**CONFIG, "prevResult": result}, path)
    with pytest.raises(CniFailed) as failed:
        host.call("bridge", "CHECK", {**CONFIG, "prevResult": result}, path, "nobody")
    assert failed.value.code == 3, "the spec's code for an unknown container"


def test_check_of_macvlan_with_its_shim(host: Host, outside: Namespace, container: Namespace) -> None:
    config = {
        "cniVersion": "1.1.0", "name": "lan", "type": "macvlan", "master": "wire0", "hostShim": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "192.0.2.0/24", "rangeStart": "192.0.2.10"}]]},
    }  # fmt: skip
    config["prevResult"] = host.call("macvlan", "ADD", config, container)
    shim = derived_name("ndsh", "lan")
    for where, command, words in (
        (container, "ip link del eth0", "link eth0 missing"),
        (host, "ip route del 192.0.2.10/32", "route 192.0.2.10/32"),
        (host, f"ip link del {shim}", f"{shim} missing"),
    ):
        host.call("macvlan", "CHECK", config, container)
        where.run("sh", "-c", command)
        with pytest.raises(CniFailed, match=words):
            host.call("macvlan", "CHECK", config, container)
        with host.lifecycle() as lifecycle:
            assert lifecycle.reload()
        host.call("macvlan", "CHECK", config, container)
        assert pings(host, "192.0.2.10"), command
        assert pings(outside, "192.0.2.10"), command


def test_check_of_none(host: Host, container: Namespace) -> None:
    config = {"cniVersion": "1.1.0", "name": "alone", "type": "none"}
    config["prevResult"] = host.call("none", "ADD", config, container)
    host.call("none", "CHECK", config, container)
    container.run("ip", "link", "set", "lo", "down")
    with pytest.raises(CniFailed, match="up lo in sandbox: is down"):
        host.call("none", "CHECK", config, container)


@pytest.mark.parametrize(
    "damage", [f"ip link set br-net {change}" for change in ("mtu 1280", "down", f"address {MAC}")]
)
def test_a_bridge_is_mended_in_place(host: Host, container: Namespace, damage: str) -> None:
    """Its ports, and the flows through them, are not to suffer."""
    host.call("bridge", "ADD", CONFIG, container)

    def seen() -> tuple[int, str]:
        found = json.loads(host.run("ip", "-j", "link", "show", "br-net").stdout)[0]
        return found["ifindex"], found["address"]

    before = seen()
    host.run("sh", "-c", damage)
    with host.lifecycle() as lifecycle:
        assert lifecycle.reload()
    assert seen() == before


def test_reload_mends_many_containers_after_their_bridge_is_deleted(host: Host, lab: Lab) -> None:
    plain = {**CONFIG, "runtimeConfig": {}}
    containers = [lab(f"c{number}") for number in range(3)]
    for number, container in enumerate(containers):
        host.call("bridge", "ADD", plain, container, f"c{number}")
    host.run("ip", "link", "del", "br-net")
    host.run("nft", "flush", "ruleset")
    with host.lifecycle() as lifecycle:
        lifecycle.reload()
    for container in containers:
        assert pings(container, "10.10.0.1")
        assert pings(container, "fd00:10::1")
    assert pings(containers[0], "10.10.0.4")


@pytest.mark.parametrize("damage", ["nft flush ruleset", "ip link del br-net", "nft delete table inet netdrivers"])
@pytest.mark.parametrize("ports", [True, False])
def test_add_mends_its_network_first(host: Host, outside: Namespace, lab: Lab, damage: str, ports: bool) -> None:
    plain = {**CONFIG, "runtimeConfig": {}}
    host.call("bridge", "ADD", plain, lab("first"), "first")
    host.run("sh", "-c", damage)
    second = lab("second")
    host.call("bridge", "ADD", CONFIG if ports else plain, second)
    if ports:
        host.call("bridge", "DEL", CONFIG, second)
        host.call("bridge", "ADD", CONFIG, second)
        traffic_flows(host, outside, second)
    server = Echo(outside, 7000, "out")
    try:
        assert ask(second, "192.0.2.2", 7000) == "out 192.0.2.1", "masqueraded"
    finally:
        server.close()


def test_del_twice_and_without_an_add(host: Host, outside: Namespace, container: Namespace) -> None:
    before = host.snapshot()
    host.cni("bridge", "ADD", CONFIG, container)
    for _ in range(2):
        assert host.cni("bridge", "DEL", CONFIG, container) is None
        assert container.links() == {"lo"}
    assert host.call("bridge", "DEL", CONFIG, container, "never-added") is None
    with host.lifecycle() as lifecycle:
        lifecycle.gc_dead()
    assert host.snapshot() == before


@pytest.mark.parametrize("netns", ["", "/run/netns/gone", "itself"])
def test_del_without_the_namespace(host: Host, outside: Namespace, lab: Lab, netns: str) -> None:
    before = host.snapshot()
    gone = lab("gone")
    host.call("bridge", "ADD", CONFIG, gone)
    path = gone.path if netns == "itself" else netns
    gone.close()
    assert host.call("bridge", "DEL", CONFIG, path) is None
    assert host.rows().keys() == {"networks", "spans", "pools"}
    with host.lifecycle() as lifecycle:
        lifecycle.gc_dead()
    assert host.snapshot() == before


def test_del_goes_by_the_record_when_the_configuration_changed(
    host: Host, outside: Namespace, container: Namespace
) -> None:
    before = host.snapshot()
    host.call("bridge", "ADD", CONFIG, container)
    changed = {
        **CONFIG, "bridge": "br-other", "ipMasq": False, "mtu": 99999, "macspoofchk": "nonsense",
        "ipam": {"type": "host-local", "ranges": "nonsense"}, "runtimeConfig": {"portMappings": []},
    }  # fmt: skip
    host.call("bridge", "DEL", changed, container)
    with host.lifecycle() as lifecycle:
        lifecycle.gc_dead()
    assert host.snapshot() == before
    assert not host.rows()


def test_del_after_everything_was_taken_away(host: Host, outside: Namespace, container: Namespace) -> None:
    before = host.snapshot()
    host.call("bridge", "ADD", CONFIG, container)
    host.run("nft", "flush", "ruleset")
    host.run("ip", "link", "del", "br-net")
    host.run("ip", "link", "del", VETH)
    host.call("bridge", "DEL", CONFIG, container)
    with host.lifecycle() as lifecycle:
        lifecycle.gc_dead()
    assert host.snapshot() == before
    assert not host.rows()


def test_gc_takes_what_its_list_does_not_hold(host: Host, outside: Namespace, lab: Lab) -> None:
    plain = {**CONFIG, "runtimeConfig": {}}
    kept, stale = lab("kept"), lab("stale")
    host.call("bridge", "ADD", plain, kept, "kept")
    host.call("bridge", "ADD", plain, stale, "stale")
    host.call("bridge", "ADD", plain, kept, "kept", "eth1")
    valid = [{"containerID": "kept", "ifname": "eth0"}]
    assert host.call("bridge", "GC", {**plain, "cni.dev/valid-attachments": valid}, None) is None
    assert stale.links() == {"lo"}
    assert kept.links() == {"lo", "eth0"}
    assert pings(kept, "10.10.0.1")
    assert {row[0] for row in host.rows()["attachments"]} == {"net/kept/eth0/bridge"}


def test_gc_dead_takes_containers_that_died_and_spares_the_living(host: Host, outside: Namespace, lab: Lab) -> None:
    before = host.snapshot()
    alive, dead = lab("alive"), lab("dead")
    host.call("bridge", "ADD", CONFIG, dead, "dead")
    host.call("bridge", "ADD", {**CONFIG, "runtimeConfig": {}}, alive, "alive")
    dead.close()
    host.run("sh", "-c", f"ip link del {derived_name('veth', 'net', 'dead', 'eth0')} || true")
    with host.lifecycle() as lifecycle:
        assert lifecycle.gc_dead() == ["net/dead/eth0/bridge"]
        assert pings(alive, "10.10.0.1")
        lifecycle.delete("net/alive/eth0/bridge")
        assert lifecycle.gc_dead() == ["network net"]
    assert host.snapshot() == before


def test_bridge_is_ready_for_ipv6_at_once(host: Host, container: Namespace) -> None:
    """While a bridge checks its link-local address, it asks for no neighbour of the packets that it forwards."""
    host.call("bridge", "ADD", CONFIG, container)
    assert "fe80::" in host.run("ip", "-6", "addr", "show", "dev", "br-net").stdout
    assert host.run("ip", "-6", "addr", "show", "dev", "br-net", "tentative").stdout == ""


def test_a_changed_chained_plugin_keeps_what_it_published(host: Host, lab: Lab) -> None:
    """What attachments brought to a network stays with them, however the network changes."""
    servers = []
    for last, changed in ((2, {}), (3, {"comment": "another"})):
        web, subnet = lab(f"web{last}"), f"10.2{last}.0"
        host.run("ip", "link", "add", f"ref{last}", "type", "bridge")
        host.run("ip", "link", "set", f"ref{last}", "up")
        host.run("ip", "addr", "add", f"{subnet}.1/24", "dev", f"ref{last}")
        host.run("ip", "link", "add", f"v{last}", "type", "veth", "peer", "name", "eth0", "netns", web.path)
        host.run("ip", "link", "set", f"v{last}", "master", f"ref{last}", "up")
        web.run("ip", "link", "set", "eth0", "up")
        web.run("ip", "addr", "add", f"{subnet}.2/24", "dev", "eth0")
        web.run("ip", "route", "add", "default", "via", f"{subnet}.1")
        config = {
            "cniVersion": "1.0.0", "name": "net", "type": "portmap", **changed,
            "runtimeConfig": {"portMappings": [{"hostPort": 8080 + last, "containerPort": 80, "protocol": "tcp"}]},
            "prevResult": {
                "interfaces": [{"name": f"ref{last}"}, {"name": "eth0", "sandbox": web.path}],
                "ips": [{"address": f"{subnet}.2/24", "gateway": f"{subnet}.1", "interface": 1}],
            },
        }  # fmt: skip
        host.call("portmap", "ADD", config, web, web.name)
        servers.append(Echo(web, 80, web.name))
    try:
        assert ask(host, "127.0.0.1", 8082).startswith("web2 ")
        assert ask(host, "127.0.0.1", 8083).startswith("web3 ")
    finally:
        for server in servers:
            server.close()
