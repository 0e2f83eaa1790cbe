"""Containers find each other by name: asked through the C library's resolver, answered by aardvark-dns."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netdrivers.model import Attachment, Lease, LeasedAddress, Network
from netdrivers.names import text
from tests.lab import Host, Namespace
from tests.resolving import Outside, becomes, needs_server, resolv_conf, resolve, serving, written

Lab = Callable[..., Namespace]
Config = dict[str, Any]


def shop(name: str = "shop", number: int = 60, **more: Any) -> Config:
    """A network of both families with names."""
    return {
        "cniVersion": "1.0.0", "name": name, "type": "bridge", "bridge": f"br-{name}", "isDefaultGateway": True,
        "ipMasq": True, "names": True, "capabilities": {"aliases": True},
        "ipam": {
            "type": "host-local", "ranges": [[{"subnet": f"10.{number}.0.0/24"}], [{"subnet": f"fd{number}::/64"}]],
        },
        **more,
    }  # fmt: skip


class Containers:
    """Containers on a host by their ids, with what their engine would write to resolv.conf."""

    def __init__(self, host: Host, lab: Lab, folder: Path) -> None:
        self._host, self._lab, self._folder = host, lab, folder
        self.spaces: dict[str, Namespace] = {}
        self.results: dict[str, Any] = {}

    def add(self, config: Config, container: str, pod: str = "", aliases: tuple[str, ...] = ()) -> Any:
        """Attach a new one; the result. pod: its name, as engines give it in CNI_ARGS."""
        space = self.spaces[container] = self._lab(container)
        runtime = {"runtimeConfig": {"aliases": {config["name"]: list(aliases)}}} if aliases else {}
        args = f"IgnoreUnknown=1;K8S_POD_NAME={pod}" if pod else ""
        result = self._host.call("bridge", "ADD", {**config, **runtime}, space, container, args=args)
        self.results[container] = result
        resolv_conf(result["dns"], self._folder / container)
        return result

    def delete(self, config: Config, container: str) -> None:
        """Detach one."""
        self._host.call("bridge", "DEL", config, self.spaces[container], container)

    def ask(self, container: str, name: str) -> set[str]:
        """What a name resolves to in a container."""
        return resolve(self.spaces[container], self._folder / container, name)

    def addresses(self, container: str) -> set[str]:
        """The addresses that a container was given."""
        return {item["address"].partition("/")[0] for item in self.results[container]["ips"]}


@pytest.fixture
def containers(host: Host, lab: Lab, tmp_path: Path) -> Containers:
    needs_server()
    return Containers(host, lab, tmp_path)


def test_names_and_aliases_of_both_families(containers: Containers) -> None:
    containers.add(shop(), "ask")
    containers.add(shop(), "f" * 64, pod="Redis", aliases=("cache", "db.shop"))
    wanted = containers.addresses("f" * 64)
    assert len(wanted) == 2
    for name in ("redis", "REDIS", "cache", "db.shop", "f" * 12, "redis.netdrivers.internal"):
        assert becomes(lambda name=name: containers.ask("ask", name), wanted) == wanted, name
    assert containers.ask("f" * 64, "ask") == containers.addresses("ask")
    assert containers.ask("ask", "nobody") == set()


def test_the_result_tells_the_server(containers: Containers, host: Host) -> None:
    told = containers.add(shop(dns={"search": ["example.test"], "options": ["ndots:1"]}), "one")["dns"]
    assert told == {
        "nameservers": ["10.60.0.1", "fd60::1"],
        "search": ["netdrivers.internal", "example.test"],
        "options": ["ndots:1"],
    }
    plain = {key: value for key, value in shop("yard", 61).items() if key != "names"}
    assert containers.add(plain, "two")["dns"] == {}
    assert set(written(host)) == {"shop"}


def test_who_leaves_is_forgotten_and_the_last_takes_the_server_along(containers: Containers, host: Host) -> None:
    containers.add(shop(), "one")
    containers.add(shop(), "two")
    assert becomes(lambda: containers.ask("one", "two"), containers.addresses("two")) == containers.addresses("two")
    assert len(serving(host)) == 1
    containers.delete(shop(), "two")
    assert becomes(lambda: containers.ask("one", "two"), set()) == set()
    containers.delete(shop(), "one")
    assert written(host) == {}
    assert becomes(lambda: serving(host), []) == []


def test_the_first_container_again_right_after_the_last(containers: Containers) -> None:
    for _ in range(5):
        containers.add(shop(), "one")
        assert containers.ask("one", "one") == containers.addresses("one")
        containers.delete(shop(), "one")


def test_many_at_once(containers: Containers, host: Host, lab: Lab) -> None:
    spaces = {f"c{i}": lab(f"c{i}") for i in range(8)}
    errors: list[BaseException] = []

    def life(container: str) -> None:
        try:
            for _ in range(2):
                host.call("bridge", "ADD", shop(), spaces[container], container)
                host.call("bridge", "DEL", shop(), spaces[container], container)
            host.call("bridge", "ADD", shop(), spaces[container], container)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=life, args=(container,)) for container in spaces]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {line.split()[3] for line in written(host)["shop"].splitlines()[1:]} == set(spaces)
    assert len(serving(host)) == 1
    containers.add(shop(), "ask")
    for container, space in spaces.items():
        wanted = {address.partition("/")[0] for address in space.addresses("eth0")}
        assert becomes(lambda name=container: containers.ask("ask", name), wanted) == wanted


def test_networks_know_nothing_of_each_other(containers: Containers, host: Host) -> None:
    containers.add(shop(), "one")
    containers.add(shop("yard", 61), "two")
    assert len(serving(host)) == 1, "one process for all networks"
    for own, other in (("one", "two"), ("two", "one")):
        wanted = containers.addresses(own)
        assert becomes(lambda own=own: containers.ask(own, own), wanted) == wanted
        assert containers.ask(own, other) == set()


def test_two_containers_of_one_name(containers: Containers) -> None:
    containers.add(shop(), "ask")
    for container in ("one", "two"):
        containers.add(shop(), container, aliases=("web",))
    both = containers.addresses("one") | containers.addresses("two")
    assert becomes(lambda: containers.ask("ask", "web"), both) == both


def test_a_server_that_was_killed_comes_back(containers: Containers, host: Host) -> None:
    containers.add(shop(), "one")

    def kill() -> None:
        pid = int((host.state_dir / "names" / "networks" / "aardvark.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        assert becomes(lambda: serving(host), []) == []
        assert containers.ask("one", "one") == set()

    kill()
    containers.add(shop(), "two")
    assert containers.ask("one", "two") == containers.addresses("two")
    kill()
    with host.lifecycle() as lifecycle:
        lifecycle.reload()
    assert containers.ask("one", "two") == containers.addresses("two")


@pytest.mark.parametrize("content", ["10.60.0.1,fd60::1\n", "", None])
def test_a_call_that_died_before_it_wrote_names_is_finished(
    containers: Containers, host: Host, content: str | None
) -> None:
    containers.add(shop(), "one")
    path = host.state_dir / "names" / "networks" / "shop"
    right = path.read_text()
    path.unlink() if content is None else path.write_text(content)
    with host.lifecycle() as lifecycle:
        lifecycle.gc_dead()
    assert path.read_text() == right
    assert becomes(lambda: containers.ask("one", "one"), containers.addresses("one")) == containers.addresses("one")


@pytest.mark.parametrize(("internal", "wanted"), [(False, {"203.0.113.7"}), (True, set())])
def test_other_names_are_asked_outside_unless_the_network_is_internal(
    containers: Containers, outside: Namespace, internal: bool, wanted: set[str]
) -> None:
    stub = Outside(outside, "192.0.2.2", "203.0.113.7")
    more = {"internal": True, "isDefaultGateway": False, "isGateway": True, "ipMasq": False} if internal else {}
    config = shop(dns={"nameservers": ["192.0.2.2", "not an address"]}, **more)
    containers.add(config, "one")
    assert becomes(lambda: containers.ask("one", "one"), containers.addresses("one")) == containers.addresses("one")
    assert containers.ask("one", "www.example.test") == wanted
    assert ("www.example.test" in stub.asked) is not internal
    stub.close()


def test_without_the_server_everything_else_works(host: Host, container: Namespace, tmp_path: Path) -> None:
    networks = tmp_path / "networks.d"

    def netctl(*words: str) -> str:
        hide = 'for d in /usr/lib/podman /usr/libexec/podman; do [ ! -d $d ] || mount -t tmpfs none $d; done; exec "$@"'
        command = ("unshare", "--mount", "--propagation", "private", "sh", "-c", hide, "sh")
        env = host.env(NETDRIVERS_NETWORKS_DIR=str(networks))
        return host.run(*command, sys.executable, "-m", "netdrivers.netctl", *words, env=env).stdout

    netctl("network", "create", "shop", "--subnet", "10.60.0.0/24")
    assert "nameserver" not in netctl("add", "shop", container.path)
    assert container.addresses("eth0") == {"10.60.0.2/24"}
    note = "aardvark-dns is not installed: names do not resolve"
    assert json.loads(netctl("network", "inspect", "shop", "--json"))["names"]["note"] == note
    assert note in netctl("network", "inspect", "shop")
    assert "not installed: names do not resolve" in netctl("doctor")
    assert written(host) == {}


def test_netctl_says_who_answers_to_what(host: Host, lab: Lab, tmp_path: Path) -> None:
    needs_server()
    one, two = lab("one"), lab("two")
    env = host.env(NETDRIVERS_NETWORKS_DIR=str(tmp_path / "networks.d"))

    def netctl(*words: str) -> str:
        return host.run(sys.executable, "-m", "netdrivers.netctl", *words, env=env).stdout

    netctl("network", "create", "shop", "--subnet", "10.60.0.0/24")
    said = netctl("add", "shop", one.path, "--id", "one", "--name", "web", "--alias", "www", "--alias", "front")
    assert "one: nameserver 10.60.0.1, search netdrivers.internal" in said
    netctl("add", "shop", two.path, "--id", "two")
    conf = resolv_conf({"nameservers": ["10.60.0.1"], "search": ["netdrivers.internal"]}, tmp_path / "resolv.conf")
    for name in ("web", "www", "front", "one"):
        assert becomes(lambda name=name: resolve(two, conf, name), {"10.60.0.2"}) == {"10.60.0.2"}, name
    found = json.loads(netctl("network", "inspect", "shop", "--json"))["names"]
    assert found == {
        "servers": ["10.60.0.1"],
        "domain": "netdrivers.internal",
        "entries": [
            {"names": ["web", "www", "front", "one"], "addresses": ["10.60.0.2"]},
            {"names": ["two"], "addresses": ["10.60.0.3"]},
        ],
        "note": "",
    }
    (state,) = [row["words"] for row in json.loads(netctl("doctor", "--json")) if row["subject"] == "names on shop"]
    assert state == "resolve"
    netctl("network", "create", "quiet", "--subnet", "10.61.0.0/24", "--no-names")
    assert json.loads((tmp_path / "networks.d" / "quiet.json").read_text()).get("names") is None


def test_a_port_that_somebody_else_has_is_told(host: Host, container: Namespace, tmp_path: Path) -> None:
    needs_server()
    host.run("ip", "link", "add", "br-shop", "type", "bridge")
    host.run("ip", "addr", "add", "10.60.0.1/24", "dev", "br-shop")
    host.run("ip", "link", "set", "br-shop", "up")
    with host.entered():
        squatter = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    squatter.bind(("10.60.0.1", 53))
    host.call("bridge", "ADD", shop(ipam={"type": "host-local", "subnet": "10.60.0.0/24"}), container)
    with host.lifecycle() as lifecycle:
        record = lifecycle.store.network("shop")
        assert record is not None
        assert lifecycle.names.trouble(record.network).startswith("nobody answers for it at 10.60.0.1 port 53")
    squatter.close()
    with host.lifecycle() as lifecycle:
        lifecycle.reload()
        assert lifecycle.names.trouble(record.network) == ""


def test_names_need_a_gateway(host: Host, container: Namespace) -> None:
    config = {**shop(), "isDefaultGateway": False, "ipMasq": False}
    answer = host.call("bridge", "ADD", config, container, check=False)
    assert answer["code"] == 7
    assert answer["msg"].startswith("names: True is not valid")


WORDS = st.text(alphabet="aZ9-_. ,\n%é", max_size=70)


@given(st.lists(st.tuples(WORDS, st.lists(WORDS, max_size=3)), max_size=4))
def test_whatever_a_container_is_called_the_file_stays_readable(named: list[tuple[str, list[str]]]) -> None:
    """aardvark-dns ends at a line that it cannot read (its config.rs): fields by single spaces, names by commas."""
    network = Network("shop", "bridge", {"names": True})
    lease = Lease((LeasedAddress("10.60.0.2/24", "10.60.0.1"),))
    attached = [
        (Attachment("shop", "bridge", f"c{i}", "eth0", label=label, aliases=tuple(aliases)), lease)
        for i, (label, aliases) in enumerate(named)
    ]
    lines = text.content(network, attached).splitlines()
    assert bool(lines) == bool(named)
    assert lines[:1] == ["10.60.0.1"][: len(named)]
    for i, line in enumerate(lines[1:]):
        container, four, six, names = line.split(" ")
        assert (container, four, six) == (f"c{i}", "10.60.0.2", "")
        assert names.split(",")[-1] == container
        for name in names.split(","):
            assert all(0 < len(label) <= 63 and label.isascii() for label in name.split("."))
