"""The legacy iptables backend by its packets: publishing, masquerade, hairpin, isolation; drift, undo, the lock."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from netdrivers import errors
from netdrivers.kernel import iptables_tables
from netdrivers.operations import (
    AnyOperation,
    BridgePolicy,
    Hairpin,
    Masquerade,
    PolicySet,
    Publish,
)
from tests.engines.needs import module, needs
from tests.engines.needs import program as needs_program
from tests.kernel.iptables_host import HOST, HOST_TOO, NET, OUTSIDE, PORT, SUBNET, TABLE, World
from tests.kernel.wires import REFUSED, WAIT, any_address, arrives, bound, reaches, sctp_init, server, talk
from tests.lab import Namespace

families = pytest.mark.parametrize("family", [4, 6])
protocols = pytest.mark.parametrize("protocol", ["tcp", "udp"])


@pytest.fixture(scope="module", autouse=True)
def _needs_legacy_iptables() -> None:
    for name in ("iptables-legacy", "ip6tables-legacy"):
        needs_program(name, "legacy iptables")
    module("iptc", "legacy iptables")
    place = Namespace("probe", loopback=False)
    try:
        with place.entered():
            for family, name in ((4, "nat"), (4, "raw"), (6, "nat")):
                with iptables_tables.opened(family, name):
                    pass
    except errors.HostLacks as error:
        needs("legacy iptables", error.message)
    finally:
        place.close()


@pytest.fixture(autouse=True)
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock file of the test's own, also for iptables-legacy."""
    path = tmp_path / "xtables.lock"
    monkeypatch.setattr(iptables_tables, "LOCK_FILE", str(path))
    monkeypatch.setenv("XTABLES_LOCKFILE", str(path))
    return path


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@families
@protocols
def test_published_port_from_outside_keeps_the_source(world: World, family: int, protocol: str) -> None:
    world.network("a")
    world.publish("a1", family, protocol)
    with world.serving("a1", family, protocol) as at:
        assert talk(world.outside, (HOST[family], 8080), at, protocol) == OUTSIDE[family]
        assert talk(world.outside, (HOST_TOO[family], 8080), at, protocol) == OUTSIDE[family]


@families
@protocols
def test_published_port_from_the_host_itself(world: World, family: int, protocol: str) -> None:
    world.network("a")
    world.publish("a1", family, protocol)
    with world.serving("a1", family, protocol) as at:
        assert talk(world.host, (HOST[family], 8080), at, protocol) == HOST[family]


@protocols
def test_published_port_from_the_hosts_loopback(world: World, protocol: str) -> None:
    world.network("a")
    world.sysctl("host", "ipv4/conf/br-a/route_localnet", "1")
    world.publish("a1", 4, protocol)
    with world.serving("a1", 4, protocol) as at:
        assert talk(world.host, ("127.0.0.1", 8080), at, protocol) == f"{NET['a'][4]}1"


def test_ipv6_loopback_is_left_to_whoever_listens_there(world: World) -> None:
    world.network("a")
    world.publish("a1", 6)
    with server(world.host, "::1", 8080) as forwarder:
        assert talk(world.host, ("::1", 8080), forwarder) == "::1"


def test_sctp_is_published(world: World) -> None:
    world.publish("a1", 4, "sctp")
    with world.places["a1"].entered():
        container = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_SCTP)
    with world.outside.entered():
        client = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_SCTP)
    with container, client:
        client.sendto(sctp_init(8080), (HOST[4], 0))
        container.settimeout(3)
        packet, peer = container.recvfrom(2000)
    assert int.from_bytes(packet[22:24], "big") == PORT
    assert peer[0] == OUTSIDE[4]


@families
def test_one_host_address_goes_before_all(world: World, family: int) -> None:
    for order in (("a1", "b1"), ("b1", "a1")):
        published = [world.publish(name, family, host_ip=HOST_TOO[family] if name == "a1" else "") for name in order]
        with (
            world.serving("a1", family) as one,
            world.serving("b1", family) as all_others,
        ):
            talk(world.outside, (HOST_TOO[family], 8080), one)
            talk(world.outside, (HOST[family], 8080), all_others)
        world.undo(*published)


def test_port_on_one_host_address_is_closed_on_the_others(world: World) -> None:
    world.publish("a1", 4, host_ip=HOST_TOO[4])
    with world.serving("a1"), pytest.raises(ConnectionRefusedError):
        reaches(world.outside, (HOST[4], 8080))


@families
def test_range_maps_port_to_port(world: World, family: int) -> None:
    world.publish("a1", family, count=3)
    for step in range(3):
        with world.serving("a1", family, port=PORT + step) as at:
            assert talk(world.outside, (HOST[family], 8080 + step), at) == OUTSIDE[family]
    with pytest.raises(ConnectionRefusedError):
        reaches(world.outside, (HOST[family], 8083))


def test_same_source_port_to_two_host_addresses_gets_the_same_container_port(world: World) -> None:
    world.publish("a1", 4, "udp", count=3)
    with world.serving("a1", 4, "udp", PORT + 1) as at:
        for host in (HOST, HOST_TOO):
            assert talk(world.outside, (host[4], 8081), at, "udp", (OUTSIDE[4], 33333)) == OUTSIDE[4]


@families
@protocols
def test_hairpin_from_itself_and_from_a_neighbour(world: World, family: int, protocol: str) -> None:
    world.network("a")
    world.publish("a1", family, protocol)
    with world.serving("a1", family, protocol) as at:
        for client in ("a1", "a2"):
            assert talk(world.places[client], (HOST[family], 8080), at, protocol) == f"{NET['a'][family]}1"


@families
def test_published_port_from_another_network_of_ours_keeps_the_source(world: World, family: int) -> None:
    world.network("a", "b")
    world.publish("a1", family)
    with world.serving("a1", family) as at:
        assert talk(world.places["b1"], (HOST[family], 8080), at) == world.address("b1", family)


@families
@protocols
def test_masquerade_only_on_the_way_out(world: World, family: int, protocol: str) -> None:
    own = world.address("a1", family)
    with world.serving("outside", family, protocol) as at:
        assert talk(world.places["a1"], (OUTSIDE[family], PORT), at, protocol) == own
        operations = world.network("a", "b")
        seen = talk(world.places["a1"], (OUTSIDE[family], PORT), at, protocol)
        assert seen in (HOST[family], HOST_TOO[family])
        world.undo(*reversed(operations))
        assert talk(world.places["a1"], (OUTSIDE[family], PORT), at, protocol) == own
    world.apply(*operations)
    for neighbour in ("a2", "b1"):
        with world.serving(neighbour, family, protocol) as at:
            assert talk(world.places["a1"], (world.address(neighbour, family), PORT), at, protocol) == own


@pytest.mark.parametrize("group", ["224.0.0.77", "255.255.255.255"])
def test_multicast_and_broadcast_are_not_masqueraded(world: World, group: str) -> None:
    world.network("a")
    gateway = f"{NET['a'][4]}1"
    with (
        bound(world.outside, socket.SOCK_DGRAM, "0.0.0.0", 5353) as at,
        bound(world.host, socket.SOCK_DGRAM, gateway) as sender,
    ):
        member = socket.inet_aton("224.0.0.77") + socket.inet_aton(OUTSIDE[4])
        at.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(HOST[4]))
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"wire")
        sender.sendto(b"hello", (group, 5353))
        assert at.recvfrom(100) == (b"hello", sender.getsockname())


@pytest.mark.parametrize(("source", "to"), [("", "127.0.0.1"), ("127.0.0.2", f"{NET['a'][4]}1")])
def test_container_cannot_use_the_hosts_loopback(world: World, source: str, to: str) -> None:
    world.sysctl("host", "ipv4/conf/br-a/route_localnet", "1")
    container = world.places["a1"]
    world.sysctl("a1", "ipv4/conf/eth0/route_localnet", "1")
    world.ip("a1", "address add 127.0.0.2/32 dev eth0", f"route add 127.0.0.1 via {NET['a'][4]}1")
    with (
        bound(world.host, socket.SOCK_DGRAM, to, 5000) as at,
        bound(container, socket.SOCK_DGRAM, source or world.address("a1", 4)) as sender,
    ):
        sender.sendto(b"unguarded", (to, 5000))
        assert arrives(at)
        world.network("a")
        sender.sendto(b"guarded", (to, 5000))
        assert not arrives(at, REFUSED)


POLICIES: list[tuple[str, dict[PolicySet, str], str, str]] = [
    # bridges in each set; what is cut off; what still passes ("ab": from a to b, "ao": from a to outside)
    ("no policy", {"bridges": "ab"}, "", "aa ab ba ac ca ao oa"),
    ("one isolated", {"bridges": "ab", "isolated": "a"}, "", "aa ab ba ac ao oa"),
    ("both isolated", {"bridges": "ab", "isolated": "ab"}, "ab ba", "aa ac ca ao oa"),
    ("strict", {"bridges": "ab", "strict": "a"}, "ab ba", "aa ac ca ao oa bc"),
    ("internal", {"bridges": "ab", "internal": "a"}, "ab ba ac ca ao oa", "aa bc"),
    ("noicc", {"bridges": "ab", "noicc": "a"}, "aa", "ab ba ac ca ao oa"),
]


@families
@pytest.mark.parametrize(("sets", "cut", "open_"), [p[1:] for p in POLICIES], ids=[p[0] for p in POLICIES])
def test_isolation(world: World, family: int, sets: dict[PolicySet, str], cut: str, open_: str) -> None:
    operations = [BridgePolicy(name, f"br-{link}", "iptables") for name, links in sets.items() for link in links]
    world.apply(TABLE, *operations)

    def passes(pair: str, seconds: float) -> bool:
        source, target = (world.outside if end == "o" else world.places[f"{end}1"] for end in pair)
        address = OUTSIDE[family] if pair[1] == "o" else world.address(f"{pair[1]}1", family)
        if pair == "aa":
            target, address = world.places["a2"], world.address("a2", family)
        with server(target, any_address(family), PORT):
            return reaches(source, (address, PORT), seconds)

    assert [pair for pair in cut.split() if passes(pair, REFUSED)] == []
    assert [pair for pair in open_.split() if not passes(pair, WAIT)] == []
    world.undo(*operations)
    assert [pair for pair in cut.split() if not passes(pair, WAIT)] == []


def test_open_connections_outlive_a_new_policy(world: World) -> None:
    world.apply(TABLE)  # the kernel knows no connections before some rule asks for them
    with world.serving("b1") as at, bound(world.places["a1"], socket.SOCK_STREAM, "0.0.0.0") as client:
        client.connect((world.address("b1", 4), PORT))
        answering, _ = at.accept()
        with answering:
            world.network("a", "b")
            world.apply(BridgePolicy("strict", "br-a", "iptables"))
            answering.send(b"still here")
            assert client.recv(100) == b"still here"
        assert not reaches(world.places["a1"], (world.address("b1", 4), PORT), REFUSED)


@pytest.mark.parametrize("policy", ["isolated", "strict", "noicc"])
def test_published_ports_pass_isolation(world: World, policy: PolicySet) -> None:
    world.network("a", "b")
    world.apply(*(BridgePolicy(policy, f"br-{name}", "iptables") for name in "ab"))
    world.publish("a1", 4)
    with world.serving("a1") as at:
        assert talk(world.places["b1"], (HOST[4], 8080), at) == world.address("b1", 4)
        assert talk(world.places["a2"], (HOST[4], 8080), at) == f"{NET['a'][4]}1"


def test_internal_network_is_not_reached_by_a_published_port_from_elsewhere(world: World) -> None:
    world.network("a", "b", masquerade=False)
    world.publish("a1", 4)
    with world.serving("a1"):
        assert reaches(world.places["b1"], (HOST[4], 8080))
        world.apply(BridgePolicy("internal", "br-a", "iptables"))
        assert not reaches(world.places["b1"], (HOST[4], 8080), REFUSED)


def every_kind(world: World) -> list[AnyOperation]:
    """Operations of every kind and family that the backend knows, in a plan's order."""
    policies: list[PolicySet] = ["bridges", "isolated", "strict", "internal", "noicc"]
    found: list[AnyOperation] = [TABLE, *(BridgePolicy(policy, "br-a", "iptables") for policy in policies)]
    for family in (4, 6):
        found += [Masquerade(SUBNET["a"][family], "iptables"), Hairpin(SUBNET["a"][family], "iptables")]
        target = world.address("a1", family)
        found.append(Publish("tcp", 8000, target, 9000, count=3, backend="iptables"))
        found.append(Publish("udp", 8080, target, PORT, HOST_TOO[family], backend="iptables"))
        found.append(Publish("sctp", 8080, target, PORT, backend="iptables"))
    return found


def unordered(rules: dict[str, list[str]]) -> dict[str, list[str]]:
    """Rules without their order, which is free within most chains."""
    return {program: sorted(lines) for program, lines in rules.items()}


def test_drift_names_each_rule_deleted_and_apply_mends_it(world: World) -> None:
    for operation in every_kind(world):
        before = world.rules()
        world.apply(operation)
        after = world.rules()
        assert world.drift(operation) is None
        added = [
            (program, line)
            for program, lines in after.items()
            for line in lines
            if " -A " in line and line not in before[program]
        ]
        assert added
        for program, line in added:
            assert "--comment netdrivers" in line
            table, _, arguments = line.partition(" -A ")
            world.host.run(program, "-w", "-t", table, "-D", *arguments.split())
            family = 6 if program.startswith("ip6") else 4
            assert f"missing, IPv{family} {table} {arguments.split()[0]}" in (world.drift(operation) or "nothing")
            world.apply(operation)
            assert world.drift(operation) is None
        assert unordered(world.rules()) == unordered(after)


def test_drift_after_everything_was_flushed(world: World) -> None:
    operations = every_kind(world)
    world.apply(*operations)
    for program in ("iptables-legacy", "ip6tables-legacy"):
        for table in ("filter", "nat", "raw"):
            world.host.run(program, "-t", table, "-F")
            world.host.run(program, "-t", table, "-X")
    assert None not in [world.drift(operation) for operation in operations]
    world.apply(*operations)
    assert [world.drift(operation) for operation in operations] == [None] * len(operations)


def test_undo_leaves_the_tables_as_before(world: World) -> None:
    foreign = "*nat\n:THEIRS - [0:0]\n-A PREROUTING -j THEIRS\n-A THEIRS -p tcp --dport 1 -j RETURN\nCOMMIT\n"
    foreign += "*filter\n-A FORWARD -i wire -o wire -j DROP\nCOMMIT\n"
    for program in ("iptables-legacy-restore", "ip6tables-legacy-restore"):
        world.host.run(program, input=foreign)
    before = world.rules()
    operations = every_kind(world)
    world.apply(*operations)
    once = world.rules()
    assert once != before
    world.apply(*operations)
    assert unordered(world.rules()) == unordered(once)
    world.undo(*reversed(operations))
    assert world.rules() == before
    world.undo(*reversed(operations))
    assert world.rules() == before


def test_table_stays_while_another_network_has_rules(world: World) -> None:
    first, second = world.network("a"), world.network("b")
    world.undo(*reversed(first))
    assert world.drift(TABLE) is None
    with world.serving("outside") as at:
        assert talk(world.places["b1"], (OUTSIDE[4], PORT), at) == HOST[4]
    world.undo(*reversed(second))
    assert world.drift(TABLE) is not None


def test_failure_half_way_leaves_nothing(world: World) -> None:
    world.apply(TABLE)
    # With this rule BridgePolicy's IPv6 jump makes a loop, which the kernel refuses.
    world.host.run("ip6tables-legacy", "-A", "NETDRIVERS-STRICT", "-j", "NETDRIVERS-POLICY")
    before = world.rules()
    operation = BridgePolicy("bridges", "br-a", "iptables")
    with pytest.raises(errors.KernelError, match="IPv6 table filter") as caught:
        world.apply(operation)
    assert caught.value.operation == operation.line()
    assert caught.value.errno
    assert world.rules() == before


def test_missing_python_iptables_names_the_extra(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "iptc", None)
    iptables_tables._import_iptc.cache_clear()
    with pytest.raises(errors.HostLacks, match=r"netdrivers\[iptables\]"):
        world.apply(TABLE)


def test_table_that_the_kernel_has_not(world: World) -> None:
    with world.host.entered(), pytest.raises(errors.HostLacks, match="no legacy iptables table none for IPv6"):
        iptables_tables.Table(6, "none")


def test_lock_is_that_of_iptables(world: World, lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iptables_tables, "LOCK_SECONDS", 0.1)
    with open(lock, "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(errors.Busy, match=re.escape(str(lock))):
            world.apply(TABLE)
    world.apply(TABLE)
    with iptables_tables.locked():
        assert "NETDRIVERS" not in world.host.run("iptables-legacy", "-w", "1", "-t", "nat", "-S", check=False).stdout
    assert "NETDRIVERS" in world.host.run("iptables-legacy", "-w", "1", "-t", "nat", "-S").stdout


def test_a_rival_that_takes_no_lock_loses_nothing_of_ours(world: World, tmp_path: Path) -> None:
    script = "while :; do iptables-legacy -t nat -A INPUT; iptables-legacy -t nat -D INPUT 1; done"
    with world.host.entered():
        rival = subprocess.Popen(
            ["sh", "-c", script], env={**os.environ, "XTABLES_LOCKFILE": str(tmp_path / "other.lock")}, stderr=-3
        )
    try:
        operations = [Publish("tcp", port, "10.1.0.11", PORT, backend="iptables") for port in range(1000, 1300)]
        world.apply(TABLE, *operations)
        assert {world.drift(operation) for operation in operations} == {None}
    finally:
        rival.kill()
        rival.wait()


def test_threads_in_two_namespaces_at_once(world: World) -> None:
    failures: list[BaseException] = []

    def work(place: Namespace, target: str) -> None:
        try:
            with place.entered():
                for port in range(1000, 1050):
                    world.firewall.apply(Publish("tcp", port, target, PORT, backend="iptables"))
        except BaseException as error:
            failures.append(error)

    wanted = {"host": "10.1.0.11", "outside": "10.9.0.9"}
    threads = [threading.Thread(target=work, args=(world.places[name], target)) for name, target in wanted.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for name, target in wanted.items():
        listed = world.places[name].run("iptables-legacy", "-t", "nat", "-S", "NETDRIVERS-PUBLISH").stdout
        assert re.findall(r"--dports (\d+) .* --to-destination ([\d.]+):80", listed) == [
            (str(port), target) for port in range(1000, 1050)
        ]
