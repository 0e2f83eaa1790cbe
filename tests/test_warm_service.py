"""The warm service at work: installed executables, deferred unlinking, kill -9 in a storm, 64 at once, [::1]."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Echo, Host, Namespace, ask

Lab = Callable[..., Namespace]
STORM_CALLS, STORM_THREADS, CONTAINERS = 500, 8, 20


class Warm:
    """A test host with the executables installed and a service running."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host = host
        self.bin = folder / "bin"
        self.log = open(folder / "service.log", "ab")  # noqa: SIM115
        host.run(sys.executable, "-m", "netdrivers.netctl", "install", "--bin-dir", str(self.bin), env=host.env())
        self.start()

    def start(self) -> None:
        """Start a service and wait until it answers."""
        command = [sys.executable, "-m", "netdrivers.netctl", "serve"]
        enter = ["nsenter", f"--net={self.host.path}", "--"]
        self.process = subprocess.Popen([*enter, *command], env=self.host.env(), stderr=self.log, stdout=self.log)
        deadline = time.monotonic() + 20
        while self.netctl("service", "status", check=False).returncode:
            assert time.monotonic() < deadline, "the service does not answer"
            assert self.process.poll() is None, "the service ended"
            time.sleep(0.1)

    def kill(self) -> None:
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self.process.terminate()
        self.process.wait(30)
        self.log.close()

    def netctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """netctl on the host."""
        return self.host.run(sys.executable, "-m", "netdrivers.netctl", *words, env=self.host.env(), check=check)

    def cni(self, command: str, config: Any, netns: str, container: str, mode: str = "require") -> tuple[int, Any]:
        """Call the installed bridge executable; its exit status and answer."""
        env = self.host.env(
            CNI_COMMAND=command, CNI_CONTAINERID=container, CNI_NETNS=netns, CNI_IFNAME="eth0", CNI_PATH=str(self.bin),
            NETDRIVERS_SERVICE=mode,
        )  # fmt: skip
        done = self.host.run(str(self.bin / "bridge"), input=json.dumps(config), env=env, check=False)
        return done.returncode, json.loads(done.stdout) if done.stdout.strip() else None


@pytest.fixture
def warm(host: Host, tmp_path: Path) -> Iterator[Warm]:
    """A warm service on a test host."""
    made = Warm(host, tmp_path)
    yield made
    made.stop()


def config(port: int | None = None) -> dict[str, Any]:
    """A bridge network, with a published port."""
    document: dict[str, Any] = {
        "cniVersion": "1.1.0",
        "name": "net",
        "type": "bridge",
        "bridge": "br-net",
        "isDefaultGateway": True,
        "ipMasq": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.60.0.0/16"}], [{"subnet": "fd00:60::/64"}]]},
    }
    if port:
        document["runtimeConfig"] = {"portMappings": [{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]}
    return document


def gone(check: Callable[[], bool], seconds: float = 10) -> bool:
    """Whether something comes true within some time."""
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_delete_cuts_off_at_once_and_the_link_goes_soon(warm: Warm, outside: Namespace, container: Namespace) -> None:
    status, result = warm.cni("ADD", config(8080), container.path, "c")
    assert status == 0, result
    server = Echo(container, 80, "web")
    try:
        assert ask(outside, "192.0.2.1", 8080) == "web 192.0.2.2"
        assert warm.cni("DEL", config(8080), container.path, "c") == (0, None)
        assert ask(outside, "192.0.2.1", 8080, timeout=0.3) == "no answer"
        assert ask(warm.host, "10.60.0.2", 80, timeout=0.3) == "no answer", (
            "cut off, also where the link is still there"
        )
        assert gone(lambda: not any(name.startswith("veth") for name in warm.host.links()))
        assert not json.loads(warm.netctl("ls", "--json").stdout)
    finally:
        server.close()


def test_delete_and_add_again_at_once(warm: Warm, container: Namespace) -> None:
    """The link that waits for the reaper has the very name that the next add wants."""
    for _ in range(10):
        status, result = warm.cni("ADD", config(8080), container.path, "c")
        assert status == 0, result
        assert warm.cni("DEL", config(8080), container.path, "c") == (0, None)


def test_sixty_four_at_once_have_distinct_addresses(warm: Warm, lab: Lab) -> None:
    containers = [lab(f"c{i}") for i in range(64)]
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda i: warm.cni("ADD", config(), containers[i].path, f"c{i}"), range(64)))
    assert [status for status, _ in answers] == [0] * 64
    assert len({answer["ips"][0]["address"] for _, answer in answers}) == 64


def test_published_port_answers_on_loopback_of_both_families(warm: Warm, container: Namespace) -> None:
    server = Echo(container, 80, "web", family=6)
    try:
        assert warm.cni("ADD", config(8080), container.path, "c")[0] == 0
        assert gone(lambda: ask(warm.host, "::1", 8080, timeout=0.3).startswith("web "))
        assert "::1" in warm.netctl("ports", "--json").stdout
        assert warm.cni("DEL", config(8080), container.path, "c")[0] == 0
        assert gone(lambda: ask(warm.host, "::1", 8080, timeout=0.3) == "no answer")
    finally:
        server.close()


def test_killed_in_a_storm_the_host_and_the_store_agree_after(warm: Warm, lab: Lab) -> None:
    """500 ADDs and DELs by eight callers; the service is killed in the middle, and started again."""
    before = warm.host.snapshot()
    containers = [lab(f"c{i}") for i in range(CONTAINERS)]
    failed: list[Any] = []

    def calls(worker: int) -> None:
        mine = [i for i in range(CONTAINERS) if i % STORM_THREADS == worker]
        for turn in range(STORM_CALLS // STORM_THREADS // 2):
            i = mine[turn % len(mine)]
            for command in ("ADD", "DEL"):
                status, answer = warm.cni(command, config(9000 + i), containers[i].path, f"c{i}", mode="auto")
                if status:
                    failed.append((command, i, answer))

    with ThreadPoolExecutor(STORM_THREADS) as pool:
        running = [pool.submit(calls, worker) for worker in range(STORM_THREADS)]
        time.sleep(1.0)
        warm.kill()
        time.sleep(1.0)
        warm.start()
        for future in running:
            future.result()
    assert failed == [], "every call succeeded: those in flight were done in-process"
    warm.netctl("gc", "--linger", "0")
    assert warm.host.rows() == {}, "the store is empty"
    assert gone(lambda: warm.host.snapshot() == before), "nothing is left"


def test_a_caller_of_another_namespace_is_served_in_process(warm: Warm, lab: Lab, container: Namespace) -> None:
    other = lab("other-host", host=True)
    assert isinstance(other, Host)
    env = other.env(
        CNI_COMMAND="ADD", CNI_CONTAINERID="c", CNI_NETNS=container.path, CNI_IFNAME="eth0",
        NETDRIVERS_SERVICE="auto", NETDRIVERS_STATE_DIR=str(warm.host.state_dir),
    )  # fmt: skip
    other.run(str(warm.bin / "bridge"), input=json.dumps(config()), env=env)
    assert "br-net" in other.links()
    assert "br-net" not in warm.host.links()
    assert os.path.exists(warm.host.state_dir / "service.sock")
