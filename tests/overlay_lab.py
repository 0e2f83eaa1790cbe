"""Hosts on one switch, real etcd servers beside them, and services on the hosts: what the overlay's tests share."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from netdrivers.drivers.overlay import OverlayDriver
from netdrivers.service import client
from netdrivers.service.status import Status
from tests.authority import Authority
from tests.lab import PROJECT, CniFailed, Echo, Host, Namespace, ask

Lab = Callable[..., Namespace]
Found = TypeVar("Found")

needs_etcd = pytest.mark.skipif(not shutil.which("etcd"), reason="needs etcd: apt-get install etcd-server")
LONG = bool(os.environ.get("NETDRIVERS_LONG_TESTS"))
"""Outages as long as in the field, and not as short as CI can wait for."""


def until(condition: Callable[[], Found], seconds: float = 20.0, what: str = "") -> Found:
    """Wait for something to be true; what it was. Fails after some time."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, what or "it did not come true in time"
        time.sleep(0.02)


class Switch:
    """A switch with hosts on it: host N has 192.0.2.N/24 and 2001:db8::N/64 on eth0."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.namespace = lab("switch")
        self.namespace.run("ip", "link", "add", "sw", "type", "bridge", "mcast_snooping", "0")
        self.namespace.run("ip", "link", "set", "sw", "up")

    def join(self, namespace: Namespace, number: int, mtu: int = 1500) -> None:
        """Plug a namespace in."""
        port = f"p{number}"
        namespace.run("ip", "link", "add", "eth0", "mtu", str(mtu), "type", "veth", "peer", "name", port, "netns",
                      self.namespace.path)  # fmt: skip
        self.namespace.run("ip", "link", "set", port, "mtu", str(mtu), "master", "sw", "up")
        namespace.run("ip", "addr", "add", f"192.0.2.{number}/24", "dev", "eth0")
        namespace.run("ip", "addr", "add", f"2001:db8::{number:x}/64", "dev", "eth0", "nodad")
        namespace.run("ip", "link", "set", "eth0", "up")

    def host(self, number: int) -> Host:
        """A new test host."""
        made = self._lab(f"host{number}", host=True)
        assert isinstance(made, Host)
        self.join(made, number)
        return made

    def cut(self, number: int) -> None:
        """Pull a cable."""
        self.namespace.run("ip", "link", "set", f"p{number}", "down")

    def mend(self, number: int) -> None:
        """Plug it in again."""
        self.namespace.run("ip", "link", "set", f"p{number}", "up")


class Member:
    """One etcd server in a namespace of its own."""

    def __init__(
        self, namespace: Namespace, address: str, folder: Path, options: Sequence[str], tls: Authority | None
    ) -> None:
        self.namespace = namespace
        self.address = address
        self.endpoint = f"{'https' if tls else 'http'}://{address}:2379"
        self.credentials: list[str] = []
        """Options of etcdctl."""
        if tls:
            self.credentials = ["--cacert", str(tls.ca), "--cert", str(tls.server), "--key", str(tls.server_key)]
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, first: bool = False) -> None:
        """Run it on its data; the caller waits until it answers."""
        self._folder.mkdir(exist_ok=True)
        state = "new" if first else "existing"
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                ["nsenter", f"--net={self.namespace.path}", "--", "etcd", "--data-dir", str(self._folder / "data"),
                 "--initial-cluster-state", state, *self._options],
                stdout=log, stderr=log, env={"PATH": os.environ["PATH"]},
            )  # fmt: skip

    def end(self, number: int = signal.SIGTERM) -> None:
        """Stop it, or kill it."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def ctl(self, *words: str, given: str = "") -> str:
        """Run etcdctl beside it."""
        return self._ctl(*words, given=given).stdout

    def _ctl(self, *words: str, check: bool = True, given: str = "") -> subprocess.CompletedProcess[str]:
        return self.namespace.run(
            "etcdctl", "--endpoints", self.endpoint, *self.credentials, *words, check=check, input=given,
            env={"PATH": os.environ["PATH"], "ETCDCTL_API": "3"},
        )  # fmt: skip

    def answers(self) -> bool:
        """Whether it serves, with a leader."""
        return self._ctl("endpoint", "health", check=False).returncode == 0


class Etcd:
    """A cluster of real etcd servers on the switch, at 192.0.2.101 and up."""

    def __init__(
        self, switch: Switch, lab: Lab, folder: Path, count: int = 1, first: int = 101, tls: Authority | None = None,
        options: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.members: list[Member] = []
        addresses = [f"192.0.2.{first + i}" for i in range(count)]
        peers = ",".join(f"{address}=http://{address}:2380" for address in addresses)
        for i, address in enumerate(addresses):
            namespace = lab(f"etcd{first + i}")
            namespace.run("ip", "link", "set", "lo", "up")
            switch.join(namespace, first + i)
            scheme = "https" if tls else "http"
            every = [
                "--name", address, "--listen-peer-urls", f"http://{address}:2380",
                "--initial-advertise-peer-urls", f"http://{address}:2380", "--initial-cluster", peers,
                "--listen-client-urls", f"{scheme}://{address}:2379",
                "--advertise-client-urls", f"{scheme}://{address}:2379",
                "--initial-cluster-token", f"token{first}", "--log-level", "error", *options,
            ]  # fmt: skip
            if tls:
                every += ["--client-cert-auth", "--trusted-ca-file", str(tls.ca), "--cert-file", str(tls.server),
                          "--key-file", str(tls.server_key)]  # fmt: skip
            self.members.append(Member(namespace, address, folder / f"etcd{first + i}", every, tls))

    @property
    def endpoints(self) -> list[str]:
        """All members' URLs."""
        return [member.endpoint for member in self.members]

    def start(self) -> Etcd:
        """Run all for the first time, and wait until they answer."""
        for member in self.members:
            member.start(first=True)
        self.ready()
        return self

    def ready(self) -> None:
        """Wait until every member answers."""
        for member in self.members:
            until(member.answers, 40, f"etcd at {member.address} does not answer")

    def leader(self) -> Member:
        """The member that leads."""
        for member in self.members:
            fields = member.ctl("endpoint", "status").split(", ")
            if fields[4] == "true":
                return member
        raise AssertionError("there is no leader")

    def names(self, prefix: str = "/netdrivers/") -> list[str]:
        """All keys that begin so."""
        return self.members[0].ctl("get", "--prefix", "--keys-only", prefix).split()

    def stop(self) -> None:
        """Stop all."""
        for member in self.members:
            member.end()


class Service:
    """A host's service, as a process."""

    def __init__(self, host: Host, **env: str) -> None:
        self.host = host
        self._env = host.env(NETDRIVERS_DOCKER_PLUGINS="off", **env)
        self.log = host.state_dir.parent / f"{host.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Service:
        """Run it, and wait until it answers."""
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                ["nsenter", f"--net={self.host.path}", "--", sys.executable, "-m", "netdrivers.netctl", "serve"],
                stdout=log, stderr=log, env=self._env, cwd=PROJECT,
            )  # fmt: skip
        until(self.status, what=f"the service of {self.host.name} does not answer: {self.log.read_text()}")
        return self

    def status(self) -> Status | None:
        """What it says of itself."""
        return client.status(self.host.state_dir)

    def network(self, name: str = "shop") -> dict[str, Any]:
        """What it says of a network that etcd keeps; empty before it knows of it."""
        status = self.status()
        found = status.tasks.get("cluster", {}).get(name, {}) if status else {}
        assert isinstance(found, dict)
        return found

    def end(self, number: int = signal.SIGTERM) -> None:
        """Stop it, or kill it."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None


class Containers:
    """Attached namespaces with servers in them, each at its own address, named by it."""

    def __init__(self) -> None:
        self.all: list[tuple[Namespace, str]] = []
        self._servers: list[Echo] = []

    def add(self, namespace: Namespace, address: str) -> None:
        """A container that is attached."""
        self.all.append((namespace, address))
        self._servers += [Echo(namespace, 80, address), Echo(namespace, 53, address, "udp")]

    def pairs(self) -> list[tuple[tuple[Namespace, str], tuple[Namespace, str]]]:
        """Every pair, in both directions."""
        return list(itertools.permutations(self.all, 2))

    def silent(self, protocols: Sequence[str] = ("udp",), timeout: float = 1.0) -> list[str]:
        """The pairs that do not talk, in words."""

        def wrong(pair: tuple[tuple[Namespace, str], tuple[Namespace, str]]) -> list[str]:
            (left, own), (_, other) = pair
            found = []
            for protocol in protocols:
                if protocol == "ping":
                    good = echoed(left, other, 9000, timeout)
                else:
                    port = 80 if protocol == "tcp" else 53
                    good = ask(left, other, port, protocol, timeout) == f"{other} {own}"
                if not good:
                    found.append(f"{own} to {other} by {protocol}")
            return found

        with ThreadPoolExecutor(8) as pool:
            return list(itertools.chain.from_iterable(pool.map(wrong, self.pairs())))

    def close(self) -> None:
        """Stop the servers."""
        for server in self._servers:
            server.close()


def echoed(namespace: Namespace, address: str, size: int, timeout: float) -> bool:
    """Whether an ICMP echo of so many bytes comes back."""
    with namespace.entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    number = threading.get_native_id() & 0xFFFF
    body = os.urandom(size)
    header = struct.pack("!BBHHH", 8, 0, 0, number, 1)
    padded = header + body
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    packet = struct.pack("!BBHHH", 8, 0, ~total & 0xFFFF, number, 1) + body
    with sock:
        sock.settimeout(timeout)
        deadline = time.monotonic() + timeout
        try:
            sock.sendto(packet, (address, 0))
            while time.monotonic() < deadline:
                answer, (source, _) = sock.recvfrom(size + 100)
                if source == address and answer[20] == 0 and answer[28:] == body:
                    return True
        except OSError:
            pass
    return False


def differences(host: Host, name: str = "shop") -> list[str]:
    """How a host's kernel differs from its record of a network: what is missing, and what is there beside."""
    with host.lifecycle() as life:
        record = life.store.network(name)
        assert record is not None
        found = [drift.line() for drift in life.kernel.drift(record.operations)]
        return found + [f"not recorded: {stray.line()}" for stray in life.kernel.strays(record.operations)]


def hosts_of(host: Host, name: str = "shop") -> list[str]:
    """The hosts that a host's record of a network knows."""
    with host.lifecycle() as life:
        record = life.store.network(name)
        place = OverlayDriver().placed(record.network) if record else None
        return [peer.host for peer in place.hosts] if place else []


LEASE_SECONDS = 3


def config(endpoints: list[str], **more: Any) -> dict[str, Any]:
    """A network's configuration, the same on every host."""
    etcd = {"endpoints": endpoints, "lease": LEASE_SECONDS, **more.pop("etcd", {})}
    return {
        "cniVersion": "1.1.0", "name": "shop", "type": "overlay", "vni": 4242, "subnet": "10.210.0.0/16",
        "underlay": "eth0", "etcd": etcd, **more,
    }  # fmt: skip


class World:
    """Hosts with services, and an etcd cluster."""

    def __init__(
        self, lab: Lab, folder: Path, hosts: int = 3, members: int = 1, tls: Authority | None = None,
        etcd_options: Sequence[str] = (), **more: Any,
    ) -> None:  # fmt: skip
        self.lab = lab
        self.switch = Switch(lab)
        self.etcd = Etcd(self.switch, lab, folder, members, tls=tls, options=etcd_options).start()
        self.hosts: list[Host] = []
        self.services: list[Service] = []
        self.containers = Containers()
        self.more = more
        self._executables = folder / "bin"
        subprocess.run(
            [sys.executable, "-m", "netdrivers.netctl", "install", "--bin-dir", str(self._executables)],
            check=True, capture_output=True, cwd=PROJECT,
        )  # fmt: skip
        for _ in range(hosts):
            self.new_host()

    def new_host(self, **env: str) -> Host:
        """One more host, with its service in an environment."""
        host = self.switch.host(len(self.hosts) + 1)
        self.hosts.append(host)
        self.services.append(Service(host, **env).start())
        return host

    def config(self, **more: Any) -> dict[str, Any]:
        """The network's configuration."""
        return config(self.etcd.endpoints, **{**self.more, **more})

    def call(self, host: Host, command: str, netns: Namespace | None, name: str, **more: Any) -> Any:
        """Call the installed executable, as an engine does; the host's service does the work."""
        env = host.env(
            NETDRIVERS_SERVICE="require", CNI_COMMAND=command, CNI_CONTAINERID=name, CNI_IFNAME="eth0",
            CNI_NETNS=netns.path if netns else "", CNI_ARGS=f"IgnoreUnknown=1;K8S_POD_NAME={name}",
        )  # fmt: skip
        done = host.run(str(self._executables / "overlay"), input=json.dumps(self.config(**more)), env=env, check=False)
        answer = json.loads(done.stdout) if done.stdout.strip() else None
        if done.returncode:
            raise CniFailed(answer)
        return answer

    def add(self, host: Host, name: str) -> str:
        """Attach a new container to a host; its address."""
        namespace = self.lab(name)
        result = self.call(host, "ADD", namespace, name)
        address: str = result["ips"][0]["address"].partition("/")[0]
        self.containers.add(namespace, address)
        return address

    def everybody(self, per_host: int = 1) -> None:
        """Containers on every host, and every host known to every other."""
        for number, host in enumerate(self.hosts, 1):
            for i in range(per_host):
                self.add(host, f"c{number}-{i}")
        self.settled("joining")

    def settled(self, what: str) -> None:
        """Waits until all pairs talk and kernels are as recorded, with all hosts; says how long it took."""
        began = time.monotonic()
        for host in self.hosts:
            until(lambda host=host: len(hosts_of(host)) == len(self.hosts), 30, f"{host.name}: {hosts_of(host)}")
        until(lambda: not self.containers.silent(), 30, f"after {what}: {self.containers.silent()}")
        talk = time.monotonic() - began
        for host in self.hosts:
            until(lambda host=host: not differences(host), 30, f"{host.name}: {differences(host)}")
        print(f"after {what}: all pairs talk after {talk:.2f} s")

    def close(self) -> None:
        """Stop all processes."""
        self.containers.close()
        for service in self.services:
            service.end()
        self.etcd.stop()
