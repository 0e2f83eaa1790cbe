"""Properties over made-up input: the allocator beside a naive one, front ends fed with anything, calls in any order."""

from __future__ import annotations

import copy
import ipaddress
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from netdrivers.errors import AddressTaken, ConfigError, Exhausted, KernelError, NetdriversError
from netdrivers.frontends.cni.config import port_mappings
from netdrivers.frontends.cni.result import VERSIONS, format_result, parse_result
from netdrivers.ipam import allocator, ranges
from netdrivers.model import Address, Dns, Interface, Ipam, Network, Pool, Range, Result, Route
from netdrivers.operations import AnyOperation
from netdrivers.state.store import Store
from tests.lab import Host, Namespace, nouns, pings

OWNERS = [f"owner{number}" for number in range(12)]
SUBNET = ipaddress.ip_network("10.1.0.0/28")


class Naive:
    """host-local's semantics as one would write them down: a list of addresses and the one last given out."""

    def __init__(self) -> None:
        self.allowed: list[int] = []
        self.leased: dict[int, str] = {}
        self.last = 0

    def next(self) -> int | None:
        """The free address after the last one, wrapping around."""
        free = [address for address in self.allowed if address not in self.leased]
        return next((address for address in free if address > self.last), free[0] if free else None)


class Allocating(RuleBasedStateMachine):
    """The allocator on the store beside the naive one, from the same calls."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.store = Store(self.directory.name)
        self.naive = Naive()
        self.network = Network("n", "bridge")

    @initialize(excludes=st.sets(st.integers(2, 14), max_size=4))
    def start(self, excludes: set[int]) -> None:
        """A first configuration."""
        self.configure(excludes, 1, 14)

    @rule(excludes=st.sets(st.integers(2, 14), max_size=6), first=st.integers(1, 7), last=st.integers(8, 14))
    def configure(self, excludes: set[int], first: int, last: int) -> None:
        """The pool is (re)configured; leases stay."""
        base = int(SUBNET.network_address)

        def text(number: int) -> str:
            return str(ipaddress.ip_address(base + number))

        pool = Pool((Range(str(SUBNET), text(first), text(last)),), tuple(map(text, sorted(excludes))))
        self.network = Network("n", "bridge", ipam=ranges.complete(Ipam("host-local", (pool,))))
        with self.store.writing():
            self.store.set_pool("n", 0, ranges.spans(self.network.ipam.pools[0]))
        self.naive.allowed = [base + n for n in range(first, last + 1) if n != 1 and n not in excludes]

    @rule(owner=st.sampled_from(OWNERS))
    def allocate(self, owner: str) -> None:
        """Whoever has none gets the next address, or hears that there is none."""
        if owner in self.naive.leased.values():
            return
        expected = self.naive.next()
        try:
            with self.store.writing():
                (found,) = allocator.allocate(self.network, (), owner, self.store).addresses
        except Exhausted:
            assert expected is None
            return
        assert expected is not None
        assert found.ip == str(ipaddress.ip_address(expected))
        self.naive.leased[expected] = owner
        self.naive.last = expected

    @rule(owner=st.sampled_from(OWNERS), number=st.integers(0, 15))
    def ask_for(self, owner: str, number: int) -> None:
        """A certain address, which may be taken, the gateway's, or nobody's."""
        if owner in self.naive.leased.values():
            return
        wanted = int(SUBNET.network_address) + number
        try:
            with self.store.writing():
                allocator.allocate(self.network, (str(ipaddress.ip_address(wanted)),), owner, self.store)
        except AddressTaken:
            assert number == 1 or wanted in self.naive.leased
        except ConfigError:
            assert number in (0, 15)
        else:
            assert number not in (0, 1, 15)
            assert wanted not in self.naive.leased
            self.naive.leased[wanted] = owner
            self.naive.last = wanted

    @rule(owner=st.sampled_from(OWNERS))
    def release(self, owner: str) -> None:
        """Whatever an owner has is free again; nothing is success too."""
        with self.store.writing():
            self.store.release(owner)
        self.naive.leased = {address: holder for address, holder in self.naive.leased.items() if holder != owner}

    @invariant()
    def same_leases(self) -> None:
        """Both know the same leases."""
        found = {int.from_bytes(address, "big"): owner for address, owner in self.store.leases("n")}
        assert found == self.naive.leased

    def teardown(self) -> None:
        """Close the store."""
        self.store.close()
        self.directory.cleanup()


Allocating.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAllocator = Allocating.TestCase


@given(
    prefix=st.integers(24, 30),
    bounds=st.tuples(st.integers(0, 255), st.integers(0, 255)),
    gateway=st.integers(0, 255),
    excludes=st.lists(st.integers(0, 255), max_size=5),
)
def test_spans_are_the_range_less_gateway_and_excludes(
    prefix: int, bounds: tuple[int, int], gateway: int, excludes: list[int]
) -> None:
    base = int(ipaddress.ip_address("10.1.0.0"))
    size = 1 << (32 - prefix)
    texts = [str(ipaddress.ip_address(base + number % 256)) for number in (*bounds, gateway)]
    left_out = [str(ipaddress.ip_address(base + number)) for number in excludes]
    pool = Pool((Range(f"10.1.0.0/{prefix}", *texts),), tuple(left_out))
    try:
        completed = ranges.complete(Ipam("host-local", (pool,))).pools[0]
    except ConfigError:
        first, last = bounds
        good = 1 <= first <= last <= size - 2 and gateway <= size - 1
        assert not good
        return
    found = set()
    for first_raw, last_raw in ranges.spans(completed):
        found |= set(range(int.from_bytes(first_raw, "big"), int.from_bytes(last_raw, "big") + 1))
    expected = set(range(base + bounds[0], base + bounds[1] + 1)) - {base + gateway} - {base + n for n in excludes}
    assert found == expected


MAPPING = st.fixed_dictionaries(
    {
        "hostPort": st.integers(1, 40),
        "containerPort": st.integers(1, 40),
        "protocol": st.sampled_from(["tcp", "UDP", ""]),
    },
    optional={"range": st.integers(1, 5), "hostIP": st.sampled_from(["", "192.0.2.1", "2001:DB8::1"])},
)


@given(st.lists(MAPPING, max_size=8))
def test_joined_port_mappings_mean_the_same(given_: list[dict[str, Any]]) -> None:
    def meant(items: list[tuple[str, str, int, int, int]]) -> list[tuple[str, str, int, int]]:
        return [
            (protocol, host, host_port + step, container_port + step)
            for protocol, host, host_port, container_port, count in items
            for step in range(count)
        ]

    plain = [
        (
            item["protocol"].lower() or "tcp", item.get("hostIP", "").lower(), item["hostPort"],
            item["containerPort"], item.get("range", 1),
        )
        for item in given_
    ]  # fmt: skip
    joined = [(m.protocol, m.host_ip, m.host_port, m.container_port, m.count) for m in port_mappings(given_, "x")]
    assert meant(joined) == meant(plain)
    assert len(joined) <= len(plain)


ADDRESSES = st.sampled_from(["10.1.0.2/24", "10.2.0.2/16", "fd00::2/64", "fd00:1::2/48"])


def some(values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    """A few values, as a tuple."""
    return st.lists(values, max_size=3).map(tuple)


RESULTS = st.builds(
    Result,
    some(st.builds(Interface, st.sampled_from(["eth0", "br0"]), mac=st.just("02:00:00:00:00:01"))),
    some(st.builds(Address, ADDRESSES, interface=st.integers(-1, 2))),
    some(st.builds(Route, st.sampled_from(["0.0.0.0/0", "::/0"]), via=st.sampled_from(["", "10.1.0.1"]))),
    st.builds(Dns, some(st.just("10.1.0.1")), st.sampled_from(["", "example.org"])),
)


@given(RESULTS, st.sampled_from([version for version in VERSIONS if version >= "0.3.0"]))
def test_a_result_comes_back_from_its_form(result: Result, version: str) -> None:
    assert parse_result(json.loads(json.dumps(format_result(result, version)))) == result


# Front ends fed with anything.

GOOD: dict[str, Any] = {
    "cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "br-net", "isDefaultGateway": True,
    "ipMasq": True, "mtu": 1400, "isolate": False, "vlan": 0, "macspoofchk": False,
    "dns": {"nameservers": ["10.1.0.1"]},
    "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "10.10.0.0/24", "rangeStart": "10.10.0.9", "gateway": "10.10.0.1"}]],
        "routes": [{"dst": "198.51.100.0/24", "gw": "10.10.0.1"}],
    },
    "runtimeConfig": {
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
        "ips": ["10.10.0.77"], "mac": "02:00:00:00:00:07",
    },
    "args": {"cni": {}}, "prevResult": {"ips": [{"address": "172.16.0.1/24"}]},
}  # fmt: skip

WORDS = ["", "..", "/", "a b", "eth0", "lo", "10.1.0.0/16", "fd00::/64", "::1", "0", "-1", "\0", "ü" * 20, "host-local"]
VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.sampled_from(WORDS),
        st.text(max_size=5),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "subnet", "dst", "x"]), inner),
    max_leaves=6,
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to every value within a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


PLACES = sorted(places(GOOD), key=repr)


@st.composite
def damaged(draw: st.DrawFn) -> dict[str, Any]:
    """The good configuration with one or two values replaced or taken out."""
    document = copy.deepcopy(GOOD)
    for path in draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=2, unique=True)):
        holder: Any = document
        try:
            for key in path[:-1]:
                holder = holder[key]
            if draw(st.booleans()):
                holder[path[-1]] = draw(VALUES)
            else:
                del holder[path[-1]]
        except (KeyError, IndexError, TypeError):
            continue  # the first replacement took the second's place away
    return document


def state_of(host: Host) -> tuple[Any, Any]:
    """The host and its store."""
    return host.snapshot(), host.rows()


@settings(max_examples=70, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=st.one_of(damaged(), st.dictionaries(st.sampled_from(sorted(GOOD)), VALUES)))
def test_any_configuration_is_taken_or_refused_without_a_trace(
    host: Host, container: Namespace, document: dict[str, Any]
) -> None:
    before = state_of(host)
    answer = host.call("bridge", "ADD", document, container, check=False)
    if "code" in answer:
        assert answer["code"] not in (0, 999), answer["msg"]
        assert answer["msg"]
    else:
        assert container.links() == {"lo", "eth0"}
        host.call("bridge", "DEL", document, container)
        with host.lifecycle() as lifecycle:
            lifecycle.gc_dead()
    assert state_of(host) == before
    assert container.links() == {"lo"}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.binary(max_size=60) | st.text(max_size=60).map(str.encode),
    verb=st.sampled_from(["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION", "", "add"]),
    container=st.text(max_size=8).filter(lambda word: "\0" not in word),
    ifname=st.text(max_size=8).filter(lambda word: "\0" not in word),
    args=st.text(max_size=8).filter(lambda word: "\0" not in word),
    program=st.sampled_from(["bridge", "macvlan", "host", "none", "portmap", "firewall", "tuning", "loopback"]),
)
def test_any_call_is_answered_in_the_specs_form(
    host: Host, text: bytes, verb: str, container: str, ifname: str, args: str, program: str
) -> None:
    before = state_of(host)
    answer = host.call(program, verb, text, "/nowhere", container, ifname, args, check=False)
    if answer is not None and "code" in answer:
        assert answer["code"] not in (0, 999), answer["msg"]
        assert set(answer) <= {"cniVersion", "code", "msg", "details"}
    assert state_of(host) == before


# Calls in any order.


class Calls(RuleBasedStateMachine):
    """ADD, failing ADD, DEL, CHECK, GC and dying containers in any order on one host, beside what must be there."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.host = Host("host", Path(self.directory.name))
        self.before = self.host.snapshot()
        self.namespaces = {name: Namespace(name, loopback=False) for name in ("a", "b", "c")}
        self.attached: dict[tuple[str, str], str] = {}

    def config(self, ports: bool = False) -> dict[str, Any]:
        """A small network; all containers ask for the same host port when they do."""
        mapping = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}
        return {
            "cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "br-net", "isDefaultGateway": True,
            "ipMasq": True, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.10.0.0/29"}]]},
            "runtimeConfig": {"portMappings": [mapping] if ports else []},
        }  # fmt: skip

    def rows(self) -> dict[str, Any]:
        """The store but for what goes on after a failure: the pool's cursor, and since when a network is idle."""
        return {name: rows for name, rows in self.host.rows().items() if name not in ("pools", "networks")}

    NAMES = st.sampled_from(["a", "b", "c"])
    IFNAMES = st.sampled_from(["eth0", "eth1"])

    def forget(self, *keys: tuple[str, str]) -> None:
        """Attachments are gone; a container's next network takes over the port that one of them published."""
        for key in keys:
            was = self.attached.pop(key, "")
            heirs = [other for other in self.attached if other[0] == key[0] and self.attached[other] == "waits"]
            if was == "publishes" and heirs:
                self.attached[heirs[0]] = "publishes"

    @rule(name=NAMES, ifname=IFNAMES, ports=st.booleans())
    def add(self, name: str, ifname: str, ports: bool) -> None:
        """Succeeds unless it is there, the port is another container's, or the five addresses are leased."""
        answer = self.host.call("bridge", "ADD", self.config(ports), self.namespaces[name], name, ifname, check=False)
        holder = next((key[0] for key, state in self.attached.items() if state == "publishes"), name)
        if (name, ifname) in self.attached:
            assert answer["code"] == 100
        elif len(self.attached) == 5:
            assert answer["code"] == 101
        elif ports and holder != name:
            assert answer["code"] == 100
        else:
            waits = "publishes" in self.attached.values()
            self.attached[name, ifname] = ("waits" if waits else "publishes") if ports else "plain"
            assert answer["ips"], answer

    @rule(name=NAMES, ifname=IFNAMES, at=st.integers(0, 12))
    def add_that_fails(self, name: str, ifname: str, at: int) -> None:
        """A failure somewhere in the middle leaves everything as it was."""
        if (name, ifname) in self.attached:
            return
        before, rows = self.host.snapshot(), self.rows()
        countdown = [at]

        def fault(_: AnyOperation) -> None:
            countdown[0] -= 1
            if countdown[0] < 0:
                raise KernelError("injected", 12)

        with self.host.lifecycle(fault) as lifecycle:
            try:
                lifecycle.add(*nouns(self.config(), self.namespaces[name], name, ifname))
            except NetdriversError:
                assert self.host.snapshot() == before
                assert self.rows() == rows
            else:
                self.attached[name, ifname] = "plain"

    @rule(name=NAMES, ifname=IFNAMES)
    def delete(self, name: str, ifname: str) -> None:
        """Always succeeds."""
        self.host.call("bridge", "DEL", self.config(), self.namespaces[name], name, ifname)
        self.forget((name, ifname))

    @rule(name=NAMES, ifname=IFNAMES)
    def check(self, name: str, ifname: str) -> None:
        """Finds what is attached in order, and does not know the rest."""
        config = {**self.config(), "prevResult": {}}
        with self.host.lifecycle() as lifecycle:
            record = lifecycle.store.attachment(f"net/{name}/{ifname}/bridge")
        if record:
            config["prevResult"] = format_result(record.result, "1.1.0")
        answer = self.host.call("bridge", "CHECK", config, self.namespaces[name], name, ifname, check=False)
        assert (answer is None) if (name, ifname) in self.attached else answer["code"] == 3

    @rule(valid=st.sets(st.tuples(NAMES, IFNAMES), max_size=4))
    def collect(self, valid: set[tuple[str, str]]) -> None:
        """GC keeps what its list holds."""
        listed = [{"containerID": name, "ifname": ifname} for name, ifname in sorted(valid)]
        self.host.call("bridge", "GC", {**self.config(), "cni.dev/valid-attachments": listed}, None)
        self.forget(*[key for key in self.attached if key not in valid])

    @rule(name=NAMES)
    def die(self, name: str) -> None:
        """A container dies without a DEL; gc finds it once its links are gone, which takes the kernel a moment."""
        keys = [key for key in self.attached if key[0] == name]
        self.namespaces[name].close()
        self.forget(*keys)
        for _ in range(200):
            with self.host.lifecycle() as lifecycle:
                lifecycle.gc_dead()
            if len(self.host.rows().get("attachments", ())) == len(self.attached):
                break
            time.sleep(0.02)
        self.namespaces[name] = Namespace(name, loopback=False)

    @rule()
    def flush(self) -> None:
        """Another tool flushes the firewall; reload puts our part back."""
        self.host.run("nft", "flush", "ruleset")
        with self.host.lifecycle() as lifecycle:
            lifecycle.reload()

    @precondition(lambda self: self.attached)
    @rule(data=st.data())
    def traffic(self, data: st.DataObject) -> None:
        """Whoever is attached reaches the gateway."""
        name, ifname = data.draw(st.sampled_from(sorted(self.attached)))
        assert pings(self.namespaces[name], "10.10.0.1", "-I", ifname)

    @invariant()
    def store_and_links_agree(self) -> None:
        """The store and the containers hold what was attached, and nothing else."""
        rows = self.host.rows()
        assert len(rows.get("attachments", ())) == len(self.attached)
        assert len(rows.get("leases", ())) == len(self.attached)
        for name, namespace in self.namespaces.items():
            assert namespace.links() - {"lo"} == {ifname for owner, ifname in self.attached if owner == name}

    def teardown(self) -> None:
        """All goes, and the host is as it was."""
        for name, ifname in self.attached:
            self.host.call("bridge", "DEL", self.config(), self.namespaces[name], name, ifname)
        with self.host.lifecycle() as lifecycle:
            lifecycle.gc_dead()
        assert self.host.snapshot() == self.before
        assert not self.host.rows()
        for namespace in (*self.namespaces.values(), self.host):
            namespace.close()
        self.directory.cleanup()


Calls.TestCase.settings = settings(max_examples=8, stateful_step_count=15, deadline=None)
TestCalls = pytest.mark.usefixtures("machine_unchanged")(Calls.TestCase)
