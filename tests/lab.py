"""A laboratory of network namespaces: test hosts, wires between them, containers, servers and clients.

A namespace is held by a descriptor of this process, so it dies with the test. Hosts are namespaces too;
nothing here touches the machine's own.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from netdrivers.frontends import dispatch
from netdrivers.frontends.cni.config import Arguments, attachment_of, network_of
from netdrivers.frontends.request import Request
from netdrivers.kernel.host import Fault, Kernel
from netdrivers.kernel.namespaces import CLONE_NEWNET, inside, own_inode
from netdrivers.lifecycle import Lifecycle
from netdrivers.model import Attachment, Network
from netdrivers.names import server as name_server
from netdrivers.state.store import Store

PROJECT = Path(__file__).resolve().parent.parent
_libc = ctypes.CDLL(None, use_errno=True)
TIMEOUT_SECONDS = 5.0


class Namespace:
    """A fresh network namespace with loopback up."""

    def __init__(self, name: str, loopback: bool = True) -> None:
        self.name = name
        self.fd = _fresh_namespace()
        if loopback:
            self.run("ip", "link", "set", "lo", "up")

    @property
    def path(self) -> str:
        """A path that any process of the machine can open."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def run(
        self, *command: str, check: bool = True, input: str | bytes | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the namespace; its output as text."""
        done = subprocess.run(
            ["nsenter", f"--net={self.path}", "--", *command],
            input=input.decode() if isinstance(input, bytes) else input,
            capture_output=True,
            text=True,
            env=env,
            timeout=120,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} in {self.name}: {done.stderr or done.stdout}")
        return done

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread in the namespace, for a block."""
        with inside(self.fd):
            yield

    def close(self) -> None:
        """Let the namespace go."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def links(self) -> set[str]:
        """Names of the links."""
        return {link["ifname"] for link in json.loads(self.run("ip", "-j", "link").stdout)}

    def addresses(self, link: str) -> set[str]:
        """Global addresses of a link, as CIDR."""
        found = json.loads(self.run("ip", "-j", "addr", "show", "dev", link).stdout)
        return {f"{a['local']}/{a['prefixlen']}" for item in found for a in item["addr_info"] if a["scope"] == "global"}


class Host(Namespace):
    """A test host: a namespace with a state directory of its own."""

    def __init__(self, name: str, state_dir: Path) -> None:
        super().__init__(name)
        self.state_dir = state_dir

    def close(self) -> None:
        """Let it go, with its name server, which would keep the namespace."""
        folder = str(self.state_dir / "names" / "networks")
        pid = name_server.running(folder)
        if pid is not None:
            name_server.stop(pid, folder)
        super().close()

    def env(self, **more: str) -> dict[str, str]:
        """An environment for our executables on this host."""
        return {
            "PATH": os.environ["PATH"],
            "NETDRIVERS_STATE_DIR": str(self.state_dir),
            "NETDRIVERS_SERVICE": "off",
            "PYTHONPATH": str(PROJECT),
            **more,
        }

    def cni(
        self, program: str, command: str, config: Any, netns: Namespace | str | None, container: str = "c1",
        ifname: str = "eth0", args: str = "", cni_path: str = "", check: bool = True,
    ) -> Any:  # fmt: skip
        """Call a CNI executable as an engine does. The answer's JSON (None when empty); CniFailed for an error."""
        env = self._cni_env(command, netns, container, ifname, args, cni_path)
        code = f"import sys; from netdrivers.frontends.executable import main; sys.exit(main({program!r}, ()))"
        done = self.run(sys.executable, "-c", code, input=_bytes(config), env=env, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return _answer(done.returncode, done.stdout, done.stderr, check)

    def call(
        self, program: str, command: str, config: Any, netns: Namespace | str | None, container: str = "c1",
        ifname: str = "eth0", args: str = "", cni_path: str = "", check: bool = True,
    ) -> Any:  # fmt: skip
        """What ``cni`` does, by the same front end in this process: for tests that make many calls."""
        env = self._cni_env(command, netns, container, ifname, args, cni_path)
        with self.entered():
            response = dispatch.handle(Request(program, (), env, _bytes(config), host_inode=own_inode()))
        return _answer(response.exit_code, response.stdout.decode(), response.stderr.decode(), check)

    def _cni_env(
        self, command: str, netns: Namespace | str | None, container: str, ifname: str, args: str, cni_path: str
    ) -> dict[str, str]:
        path = netns.path if isinstance(netns, Namespace) else netns or ""
        return self.env(
            CNI_COMMAND=command, CNI_CONTAINERID=container, CNI_NETNS=path, CNI_IFNAME=ifname, CNI_ARGS=args,
            CNI_PATH=cni_path,
        )  # fmt: skip

    @contextlib.contextmanager
    def lifecycle(self, fault: Fault | None = None) -> Iterator[Lifecycle]:
        """The lifecycle on this host for a block, this thread inside; fault: see kernel.host."""
        store = Store(str(self.state_dir))
        try:
            with self.entered():
                yield Lifecycle(store, Kernel(fault))
        finally:
            store.close()

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        """What the store holds: rows of each table that has any, without what tells its format and boot."""
        if not (self.state_dir / "state.db").exists():
            return {}
        with contextlib.closing(sqlite3.connect(self.state_dir / "state.db")) as db:
            names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT IN ('meta', 'sqlite_stat1')"
            found = {name: sorted(db.execute(f"SELECT * FROM {name}"), key=repr) for (name,) in db.execute(names)}
            return {name: rows for name, rows in found.items() if rows}

    def snapshot(self) -> dict[str, Any]:
        """What must be the same before and after: links, addresses, routes, firewall."""
        return snapshot(self.run)


def _bytes(config: Any) -> bytes:
    if isinstance(config, bytes):
        return config
    return (config if isinstance(config, str) else json.dumps(config)).encode()


def _answer(code: int, stdout: str, stderr: str, check: bool) -> Any:
    answer = json.loads(stdout) if stdout.strip() else None
    if code:
        assert answer is not None, stderr
        if check:
            raise CniFailed(answer)
    return answer


def nouns(
    config: dict[str, Any], netns: Namespace, container: str = "c1", ifname: str = "eth0"
) -> tuple[Network, Attachment]:
    """The network and attachment that a CNI configuration means, for calls of the lifecycle itself."""
    call = Arguments("ADD", container, netns.path, ifname, {}, "")
    network = network_of(config, config["type"])
    return network, attachment_of(config, network, call, "cni")


class CniFailed(AssertionError):
    """An executable answered with an error."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(json.dumps(answer))
        self.code: int = answer["code"]
        self.msg: str = answer["msg"]


def snapshot(run: Any) -> dict[str, Any]:
    """Links, addresses, routes and firewall rules as the given runner sees them, without counters and indexes."""
    links = json.loads(run("ip", "-j", "-d", "link").stdout)
    kept = ("ifname", "mtu", "master", "address", "flags")
    for link in links:  # the carrier comes and goes by itself, some moments after its cause
        link["flags"] = sorted({*link["flags"]} - {"LOWER_UP", "NO-CARRIER"})
    facts: dict[str, Any] = {
        "links": {link["ifname"]: {k: v for k, v in link.items() if k in kept} for link in links},
        "addresses": sorted(
            (item["ifname"], a["local"], a["prefixlen"])
            for item in json.loads(run("ip", "-j", "addr").stdout)
            for a in item.get("addr_info", [])
            if a["scope"] != "link"
        ),
        "nft": run("nft", "list", "ruleset").stdout,
    }
    for family in ("-4", "-6"):
        routes = json.loads(run("ip", "-j", family, "route", "show", "table", "all").stdout or "[]")
        facts[f"routes{family}"] = sorted(
            json.dumps({k: v for k, v in route.items() if k not in ("flags", "expires")}, sort_keys=True)
            for route in routes
            if not route["dst"].startswith(("fe80", "ff00")) and route.get("type") != "anycast"  # comes with forwarding
        )
    return facts


def _fresh_namespace() -> int:
    """A descriptor of a new namespace, made in a thread of its own."""
    made: list[int] = []

    def make() -> None:
        if _libc.unshare(CLONE_NEWNET) == 0:
            made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if not made:
        raise OSError("cannot make a network namespace: root is needed")
    return made[0]


def wire(left: Namespace, left_name: str, right: Namespace, right_name: str) -> None:
    """A veth pair between two namespaces, both ends up."""
    left.run("ip", "link", "add", left_name, "type", "veth", "peer", "name", right_name, "netns", right.path)
    left.run("ip", "link", "set", left_name, "up")
    right.run("ip", "link", "set", right_name, "up")


class Echo:
    """A server in a namespace that answers each request with the address of who asks.

    protocol: tcp or udp; the answer is "NAME peer-address".
    """

    def __init__(self, namespace: Namespace, port: int, name: str, protocol: str = "tcp", family: int = 4) -> None:
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        with namespace.entered():
            self._socket = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, kind)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == 6:
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self._socket.bind(("::" if family == 6 else "0.0.0.0", port))
        if protocol == "tcp":
            self._socket.listen(64)
        self._name = name
        self._thread = threading.Thread(target=self._serve_tcp if protocol == "tcp" else self._serve_udp, daemon=True)
        self._thread.start()

    def _serve_tcp(self) -> None:
        while True:
            try:
                connection, peer = self._socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.sendall(f"{self._name} {peer[0]}".encode())

    def _serve_udp(self) -> None:
        while True:
            try:
                _, peer = self._socket.recvfrom(2048)
                if peer is None:  # shut down
                    return
                self._socket.sendto(f"{self._name} {peer[0]}".encode(), peer)
            except OSError:
                return

    def close(self) -> None:
        """Stop."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def ask(
    namespace: Namespace, address: str, port: int, protocol: str = "tcp", timeout: float = TIMEOUT_SECONDS,
    source_port: int = 0,
) -> str:  # fmt: skip
    """Ask an Echo server; its answer, or "no answer"."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with namespace.entered():
        client = socket.socket(family, kind)
    with client:
        client.settimeout(timeout)
        if source_port:
            client.bind(("", source_port))
        try:
            client.connect((address, port))
            return (_converse(client, timeout) if protocol == "udp" else client.recv(2048)).decode()
        except OSError:
            return "no answer"


def _converse(client: socket.socket, timeout: float) -> bytes:
    """Ask over UDP, once a second, as a datagram may be lost while a neighbour is being found."""
    deadline = time.monotonic() + timeout
    client.settimeout(min(1.0, timeout))
    while True:
        client.send(b"?")
        try:
            return client.recv(2048)
        except TimeoutError:
            if time.monotonic() > deadline:
                raise


def pings(namespace: Namespace, address: str, *options: str) -> bool:
    """Whether an address answers an ICMP echo."""
    return namespace.run("ping", "-c", "1", "-W", "2", *options, address, check=False).returncode == 0
