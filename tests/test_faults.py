"""A failure or a kill at each operation of each driver's plan: the host is as it was, or the next call makes it so."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

from netdrivers.errors import KernelError
from netdrivers.kernel import handlers
from netdrivers.lifecycle import Lifecycle
from netdrivers.operations import AnyOperation
from netdrivers.state.store import Store
from tests.lab import Host, Namespace, nouns, pings

POOLS = {"type": "host-local", "ranges": [[{"subnet": "10.10.0.0/24"}], [{"subnet": "fd00:10::/64"}]]}
PORTS = [
    {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
    {"hostPort": 5353, "containerPort": 53, "protocol": "udp", "range": 3},
    {"hostPort": 8443, "containerPort": 443, "protocol": "tcp", "hostIP": "192.0.2.1"},
]
BRIDGE: dict[str, Any] = {
    "cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "br-net", "isDefaultGateway": True,
    "ipMasq": True, "macspoofchk": True, "isolate": True, "icc": False, "ipam": POOLS,
    "runtimeConfig": {"portMappings": PORTS},
}  # fmt: skip
STATIC: dict[str, Any] = {
    **BRIDGE,
    "ipam": {
        "type": "static",
        "addresses": [
            {"address": "10.10.0.5/24", "gateway": "10.10.0.1"},
            {"address": "fd00:10::5/64", "gateway": "fd00:10::1"},
        ],
    },
}
MACVLAN: dict[str, Any] = {
    "cniVersion": "1.1.0", "name": "lan", "type": "macvlan", "master": "wire0", "hostShim": True,
    "ipam": {
        "type": "host-local",
        "ranges": [
            [{"subnet": "192.0.2.0/24", "rangeStart": "192.0.2.10"}],
            [{"subnet": "2001:db8:1::/64", "rangeStart": "2001:db8:1::10"}],
        ],
        "routes": [{"dst": "198.51.100.0/24"}, {"dst": "2001:db8:2::/48"}],
    },
}  # fmt: skip
NONE: dict[str, Any] = {"cniVersion": "1.1.0", "name": "alone", "type": "none"}

CONFIGS = {
    "bridge": BRIDGE,
    "static": STATIC,
    "internal": {**BRIDGE, "isDefaultGateway": False, "isGateway": True, "internal": True, "runtimeConfig": {}},
    "vlan": {**BRIDGE, "vlan": 7, "preserveDefaultVlan": False, "isolate": "strict"},
    "iptables": {**BRIDGE, "firewall": "iptables"},
    "macvlan": MACVLAN,
    "none": NONE,
}

Lab = Callable[..., Namespace]


class Faulty:
    """A fault at the operation of one number, counted over the networks' and the attachment's operations."""

    def __init__(self, at: int, strike: Callable[[AnyOperation], None]) -> None:
        self.at = at
        self.strike = strike
        self.seen: list[AnyOperation] = []

    def __call__(self, operation: AnyOperation) -> None:
        self.seen.append(operation)
        if len(self.seen) == self.at + 1:
            self.strike(operation)


def refuse(operation: AnyOperation) -> None:
    """What a kernel out of memory does."""
    raise KernelError(f"injected at {operation.line()}", errno.ENOMEM)


def die(_: AnyOperation) -> None:
    """kill -9, from the inside."""
    os.kill(os.getpid(), signal.SIGKILL)


def operations_of(host: Host, config: dict[str, Any], netns: Namespace, container: str = "c1") -> list[AnyOperation]:
    """What an ADD does, seen by doing it and taking it back."""
    watch = Faulty(-1, refuse)
    with host.lifecycle(watch) as lifecycle:
        network, attachment = nouns(config, netns, container)
        lifecycle.add(network, attachment)
        lifecycle.delete(attachment.key)
        lifecycle.gc_dead()
    return watch.seen


def settled(host: Host) -> dict[str, Any]:
    """The host with what is in its store, but for the pools' cursors, which go on after a failure."""
    rows = {name: found for name, found in host.rows().items() if name != "pools"}
    legacy = [
        line for tool in LEGACY for line in host.run(tool, check=False).stdout.splitlines() if line.startswith("-A")
    ]
    return {**host.snapshot(), "store": rows, "forwarding": host.run("sysctl", *FORWARDING).stdout, "legacy": legacy}


LEGACY = ("iptables-legacy-save", "ip6tables-legacy-save")
FORWARDING = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")


def need(name: str, lab: Lab) -> None:
    """Skip, and say for want of what, where a configuration cannot be."""
    probe = ("ip", "link", "add", "probe", "type", "bridge", "vlan_filtering", "1")
    if name == "vlan" and lab("probe").run(*probe, check=False).returncode:
        pytest.skip("needs vlan_filtering: this kernel has no VLAN filtering in bridges")
    if name == "iptables" and not (find_spec("iptc") and os.path.exists("/proc/net/ip_tables_names")):
        pytest.skip("needs iptables-legacy: no python-iptables, or no legacy tables in this kernel")


@pytest.mark.parametrize("name", CONFIGS)
def test_failing_operation_leaves_the_host_as_it_was(host: Host, outside: Namespace, lab: Lab, name: str) -> None:
    config = CONFIGS[name]
    need(name, lab)
    operations = operations_of(host, config, lab("first"))
    host.run("sysctl", "-qw", *(f"{key}=0" for key in FORWARDING))
    container = lab("container")
    before, inside = settled(host), container.run("ip", "-d", "addr").stdout
    for number, operation in enumerate(operations):
        with host.lifecycle(Faulty(number, refuse)) as lifecycle:
            network, attachment = nouns(config, container)
            with pytest.raises(KernelError, match="injected"):
                lifecycle.add(network, attachment)
        assert settled(host) == before, operation.line()
        assert _without_indexes(container) == _plain(inside), operation.line()
    host.call(config["type"], "ADD", config, container)


def _without_indexes(namespace: Namespace) -> list[str]:
    return _plain(namespace.run("ip", "-d", "addr").stdout)


def _plain(listing: str) -> list[str]:
    return [line.partition(": ")[2] if line[:1].isdigit() else line for line in listing.splitlines()]


@pytest.mark.parametrize("name", ["bridge", "static", "iptables", "macvlan"])
def test_failing_operation_leaves_the_neighbour_alone(host: Host, outside: Namespace, lab: Lab, name: str) -> None:
    """The network is there already, with a container on it: what a second ADD fails at does not hurt them."""
    need(name, lab)
    config, first, second = dict(CONFIGS[name]), lab("first"), lab("second")
    config.pop("runtimeConfig", None)
    host.call(config["type"], "ADD", config, first)
    if name == "static":
        config["ipam"] = {"type": "static", "addresses": [{"address": "10.20.0.6/24", "gateway": "10.20.0.1"}]}
    asking, answering = (host, "192.0.2.10") if name == "macvlan" else (first, "10.10.0.1")
    before = settled(host)
    for number in range(100):
        watch = Faulty(number, refuse)
        with host.lifecycle(watch) as lifecycle:
            try:
                lifecycle.add(*nouns(config, second, "c2"))
                break
            except KernelError as error:
                if "injected" not in error.message:
                    raise
        assert settled(host) == before, watch.seen[-1].line()
        assert pings(asking, answering), watch.seen[-1].line()
    assert number > 5


def in_child(work: Callable[[], None]) -> int:
    """Run work in a child process, which may kill itself; 0, or minus the signal that it died of."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die_while_undoing(host: Host, number: int, work: Callable[[Lifecycle], object]) -> int:
    """Work in a process that dies before it undoes its operation of a number; see in_child."""

    def child() -> None:
        watch, undo_one = Faulty(number, die), handlers.undo_one

        def dying(operation: AnyOperation, session: Any) -> None:
            watch(operation)
            undo_one(operation, session)

        handlers.undo_one = dying
        with host.lifecycle() as lifecycle:
            work(lifecycle)

    return in_child(child)


def killed_add(host: Host, config: dict[str, Any], container: Namespace, at: int) -> None:
    """An ADD in a process that dies at an operation; one past the last is before the record says "attached"."""

    network, attachment = nouns(config, container)

    def work() -> None:
        Store.set_state = lambda *_: die(None)  # type: ignore
        with host.lifecycle(Faulty(at, die)) as lifecycle:
            lifecycle.add(network, attachment)

    assert in_child(work) == -signal.SIGKILL


@pytest.mark.parametrize("name", ["bridge", "static", "iptables", "macvlan", "none"])
def test_killed_add_is_finished_by_the_next_call(host: Host, outside: Namespace, lab: Lab, name: str) -> None:
    need(name, lab)
    config = CONFIGS[name]
    kind = config["type"]
    first = lab("first")
    operations = operations_of(host, config, first)
    container = lab("container")
    before = settled(host)
    for number in range(len(operations) + 1):
        words = operations[number].line() if number < len(operations) else "after the last operation"
        killed_add(host, config, container, number)
        finish = number % 3
        if finish == 0:
            host.call(kind, "ADD", config, container)
            if kind == "bridge":
                assert pings(container, "10.10.0.1"), words
            host.call(kind, "DEL", config, container)
        elif finish == 1:
            host.call(kind, "DEL", config, None)
        with host.lifecycle() as lifecycle:
            lifecycle.gc_dead()
        assert settled(host) == before, words
        assert not host.rows(), words


def test_killed_del_is_finished_by_the_next_call(host: Host, outside: Namespace, container: Namespace) -> None:
    before = host.snapshot()
    _, attachment = nouns(BRIDGE, container)
    for number in range(100):
        host.call("bridge", "ADD", BRIDGE, container)
        status = die_while_undoing(host, number, lambda lifecycle: lifecycle.delete(attachment.key))
        host.call("bridge", "DEL", BRIDGE, container)
        assert host.rows().keys() == {"networks", "spans", "pools"}
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert number > 5, "the veth pair, its port, the guard and each published port"
    with host.lifecycle() as lifecycle:
        lifecycle.gc_dead()
    assert host.snapshot() == before


def test_killed_removal_of_a_network_is_finished(host: Host, container: Namespace) -> None:
    before = host.snapshot()
    for number in range(100):
        host.call("bridge", "ADD", BRIDGE, container)
        host.call("bridge", "DEL", BRIDGE, container)
        status = die_while_undoing(host, number, lambda lifecycle: lifecycle.gc_dead())
        if number % 2:
            host.call("bridge", "ADD", BRIDGE, container)
            assert pings(container, "10.10.0.1")
            host.call("bridge", "DEL", BRIDGE, container)
        with host.lifecycle() as lifecycle:
            lifecycle.gc_dead()
        assert host.snapshot() == before
        assert not host.rows()
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert number > 10


def test_a_bridge_that_was_there_before_stays(host: Host, container: Namespace) -> None:
    host.run("ip", "link", "add", "br-net", "address", "02:00:00:00:00:01", "type", "bridge")
    host.run("ip", "link", "set", "br-net", "up")
    host.run("ip", "link", "add", "port0", "type", "veth", "peer", "name", "port1")
    host.run("ip", "link", "set", "port0", "master", "br-net", "up")
    host.run("ip", "link", "set", "port1", "up")
    host.run("ip", "addr", "add", "10.10.0.1/24", "dev", "br-net")
    host.run("ip", "addr", "add", "fd00:10::1/64", "dev", "br-net", "nodad")
    assert pings(host, "fe80::1%port1") is False, "time for the carrier to come"
    before = host.snapshot()
    host.call("bridge", "ADD", BRIDGE, container)
    assert pings(container, "10.10.0.1")
    host.call("bridge", "DEL", BRIDGE, container)
    with host.lifecycle() as lifecycle:
        lifecycle.gc_dead()
    assert host.snapshot() == before
