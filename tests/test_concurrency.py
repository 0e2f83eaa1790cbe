"""Many calls at once: distinct addresses, one holder of each port, nothing left behind, no call that blocks another."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from netdrivers.errors import Busy, Conflict
from netdrivers.model import Lease, LeasedAddress
from netdrivers.networks import HOST_LOCK
from netdrivers.state import locks
from tests.lab import Host, Namespace, nouns, pings

Lab = Callable[..., Namespace]

WORKER = """
import json, sys, time
from netdrivers.frontends.dispatch import handle
from netdrivers.frontends.request import Request

for call in json.load(sys.stdin):
    time.sleep(call["pause"])
    response = handle(Request(call["program"], (), call["env"], json.dumps(call["config"]).encode()))
    print(json.dumps([response.exit_code, json.loads(response.stdout or b"null")]))
"""
"""A process that makes the calls that it is given, one after another, as executables do."""


def at_once(host: Host, batches: list[list[dict[str, Any]]]) -> list[tuple[int, Any]]:
    """Make each batch of calls in a process of its own, all at the same time; (exit code, answer) of each call."""
    command = ["nsenter", f"--net={host.path}", "--", sys.executable, "-c", WORKER]
    workers = [
        subprocess.Popen(command, env=host.env(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in batches
    ]
    outputs: list[str] = [""] * len(batches)

    def talk(number: int) -> None:
        outputs[number], _ = workers[number].communicate(json.dumps(batches[number]), timeout=240)

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(worker.returncode == 0 for worker in workers)
    return [tuple(json.loads(line)) for output in outputs for line in output.splitlines()]


def call(
    host: Host, verb: str, config: dict[str, Any], netns: Namespace, container: str, pause: float = 0.0
) -> dict[str, Any]:
    """One call for a worker, made after a pause in seconds."""
    env = host.env(
        CNI_COMMAND=verb, CNI_CONTAINERID=container, CNI_NETNS=netns.path, CNI_IFNAME="eth0", CNI_ARGS="", CNI_PATH=""
    )
    return {"program": config["type"], "env": env, "config": config, "pause": pause}


def network(name: str = "net", **more: Any) -> dict[str, Any]:
    """A bridge network with room for a thousand."""
    return {
        "cniVersion": "1.1.0", "name": name, "type": "bridge", "bridge": f"br-{name}", "isDefaultGateway": True,
        "ipMasq": True, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.10.0.0/22"}]]}, **more,
    }  # fmt: skip


def codes(answers: list[tuple[int, Any]]) -> list[int]:
    """The spec's code of each answer, 0 for success."""
    return sorted(answer["code"] if status else 0 for status, answer in answers)


def test_two_hundred_adds_and_dels_by_twenty_processes(host: Host, lab: Lab) -> None:
    containers = [lab(f"c{number}") for number in range(200)]
    before = host.snapshot()

    def batches(verb: str) -> list[list[dict[str, Any]]]:
        return [
            [call(host, verb, config(number), containers[number], f"c{number}") for number in range(first, 200, 20)]
            for first in range(20)
        ]

    def config(number: int) -> dict[str, Any]:
        ports = [{"hostPort": 20000 + number, "containerPort": 80, "protocol": "tcp"}]
        return network(runtimeConfig={"portMappings": ports})

    answers = at_once(host, batches("ADD"))
    assert codes(answers) == [0] * 200
    addresses = {answer["ips"][0]["address"] for _, answer in answers}
    assert len(addresses) == 200
    assert set().union(*(container.addresses("eth0") for container in containers)) == addresses
    with host.lifecycle() as lifecycle:
        assert not [drift.line() for drift in lifecycle.reload()]
    assert pings(containers[0], "10.10.0.1")
    assert pings(containers[199], "10.10.0.1")

    assert codes(at_once(host, batches("DEL"))) == [0] * 200
    rows = host.rows()
    assert rows.keys() == {"networks", "spans", "pools"}
    assert len(rows["spans"]) == 1, "what is free is one piece again"
    with host.lifecycle() as lifecycle:
        assert lifecycle.gc_dead() == ["network net"]
    assert host.snapshot() == before
    assert not host.rows()


def test_of_many_adds_of_one_attachment_one_succeeds(host: Host, container: Namespace) -> None:
    answers = at_once(host, [[call(host, "ADD", network(), container, "c1")] for _ in range(6)])
    assert codes(answers) == [0, 100, 100, 100, 100, 100]
    assert pings(container, "10.10.0.1")


def test_of_many_adds_for_one_port_one_succeeds(host: Host, lab: Lab) -> None:
    config = network(runtimeConfig={"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]})
    answers = at_once(host, [[call(host, "ADD", config, lab(f"c{i}"), f"c{i}")] for i in range(6)])
    assert codes(answers) == [0, 100, 100, 100, 100, 100]
    refused = [answer["msg"] for status, answer in answers if status]
    assert all("host port 8080/tcp is published by net/c" in message for message in refused)


def test_adds_that_bring_their_own_addresses_do_not_block_each_other(host: Host, lab: Lab) -> None:
    """Each configuration of the network differs, so each ADD changes it while others attach to it."""
    containers = [lab(f"c{number}") for number in range(8)]
    batches = []
    for number, container in enumerate(containers):
        addresses = [{"address": f"10.{20 + number % 2}.0.{10 + number}/24", "gateway": f"10.{20 + number % 2}.0.1"}]
        config = network(ipam={"type": "static", "addresses": addresses})
        batches.append([call(host, "ADD", config, container, f"c{number}")])
    assert codes(at_once(host, batches)) == [0] * 8
    for number, container in enumerate(containers):
        assert pings(container, f"10.{20 + number % 2}.0.1"), number
    with host.lifecycle() as lifecycle:
        assert not lifecycle.reload()


def test_adds_beside_garbage_collection(host: Host, lab: Lab) -> None:
    """gc runs all the time: an idle network goes while somebody wants it, and nobody loses what it just got."""
    batches = []
    for worker in range(4):
        config = network(
            f"n{worker}", ipam={"type": "host-local", "ranges": [[{"subnet": f"10.{20 + worker}.0.0/24"}]]}
        )
        calls = []
        for turn in range(8):
            container, name = lab(f"c{worker}-{turn}"), f"c{worker}-{turn}"
            calls.append(call(host, "ADD", config, container, name, pause=turn * 0.005))
            calls.append(call(host, "DEL", config, container, name))
        calls.append(call(host, "ADD", config, lab(f"kept{worker}"), f"kept{worker}"))
        batches.append(calls)
    done = threading.Event()
    collected: list[str] = []

    def collect() -> None:
        with host.lifecycle() as lifecycle:
            while not done.is_set():
                collected.extend(lifecycle.gc_dead())
                done.wait(0.001)

    collector = threading.Thread(target=collect)
    collector.start()
    try:
        answers = at_once(host, batches)
    finally:
        done.set()
        collector.join()
    assert codes(answers) == [0] * len(answers)
    assert collected, "networks went idle and were removed in between"
    with host.lifecycle() as lifecycle:
        names = [record.attachment.container for record in lifecycle.store.attachments()]
        assert sorted(names) == ["kept0", "kept1", "kept2", "kept3"]
        assert not lifecycle.reload()


def test_gc_spares_an_add_that_finishes_while_it_waits(host: Host, container: Namespace) -> None:
    """An ADD under way looks like one that died until its lock is free."""
    listed, half_done = threading.Event(), threading.Event()
    removed: list[str] = []

    def wait_for_gc(_: object) -> None:
        half_done.set()
        assert listed.wait(20)

    def collect() -> None:
        with host.lifecycle() as lifecycle:
            attachments = lifecycle.store.attachments

            def listing(*args: Any, **more: Any) -> Any:
                found = attachments(*args, **more)
                listed.set()
                return found

            lifecycle.store.attachments = listing  # type: ignore[method-assign]
            assert half_done.wait(20)
            removed.extend(lifecycle.gc_dead())

    config = network()
    with host.lifecycle() as lifecycle:
        lifecycle.networks.ensure(nouns(config, container)[0])
    collector = threading.Thread(target=collect)
    collector.start()
    with host.lifecycle(wait_for_gc) as lifecycle:
        lifecycle.add(*nouns(config, container))
    collector.join()
    assert not removed
    assert pings(container, "10.10.0.1")


def test_a_second_call_waits_for_the_first(host: Host, container: Namespace) -> None:
    """DEL during ADD of the same attachment takes away what ADD made, whole."""
    before = host.snapshot()
    started = threading.Event()
    deleted: list[bool] = []

    def slow(_: object) -> None:
        started.set()

    def delete() -> None:
        assert started.wait(20)
        with host.lifecycle() as lifecycle:
            deleted.append(lifecycle.delete("net/c1/eth0/bridge"))
            lifecycle.gc_dead()

    deleter = threading.Thread(target=delete)
    deleter.start()
    with host.lifecycle(slow) as lifecycle:
        lifecycle.add(*nouns(network(), container))
    deleter.join()
    assert deleted == [True]
    assert host.snapshot() == before
    assert not host.rows()


class SlowIpam:
    """An IPAM that answers when somebody else waits for the network that its caller is about to extend."""

    def __init__(self, lock_path: str) -> None:
        self.lock_path = lock_path
        self.asked = threading.Event()

    def add(self) -> Lease:
        """Answer once another call holds the host's lock, as it does while it waits for the network's."""
        self.asked.set()
        for _ in range(1000):
            try:
                with locks.held(self.lock_path, HOST_LOCK, timeout_seconds=0.0):
                    time.sleep(0.01)
            except Busy:
                return Lease((LeasedAddress("10.77.0.5/24", "10.77.0.1"),))
        raise AssertionError("nobody waits")

    def delete(self) -> None:
        """Nothing to give back."""

    def check(self) -> None:
        """Always there."""


def test_who_extends_a_network_does_not_wait_for_who_waits_for_it(host: Host, container: Namespace) -> None:
    """An attachment that brings a gateway to its network, beside a call that wants to remove the network."""
    config = network(ipam={"type": "foreign"})
    refused: list[str] = []

    def remove(asked: threading.Event) -> None:
        assert asked.wait(20)
        with host.lifecycle() as lifecycle:
            try:
                lifecycle.networks.remove("net")
            except Conflict as error:
                refused.append(str(error))

    with host.lifecycle() as lifecycle:
        foreign = SlowIpam(lifecycle.store.lock_path)
        remover = threading.Thread(target=remove, args=(foreign.asked,))
        remover.start()
        lifecycle.add(*nouns(config, container), foreign)
    remover.join()
    assert refused == ["network net has 1 attachments"]
    assert pings(container, "10.77.0.1")
