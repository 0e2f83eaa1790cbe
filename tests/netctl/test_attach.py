"""add, del and plan: every way to name a network and a namespace, options that become capabilities, failures undone."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab import Echo, Host, Namespace, ask, pings
from tests.netctl.runner import Netctl, bridge, pid_in


def test_by_file_and_by_name(netctl: Netctl, lab: Callable[..., Namespace]) -> None:
    path = netctl.conflist("net1", bridge())
    one, two = lab("one"), lab("two")
    netctl.ok("add", path, one.path)
    found = netctl.json("add", "net1", two.path)
    assert found["network"] == "net1"
    assert [item["address"] for item in found["result"]["ips"]] == ["10.70.0.3/24"]
    assert pings(one, "10.70.0.3")


def test_a_plugin_alone_in_a_conf_file(netctl: Netctl, container: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "alone.conf"
    path.write_text(json.dumps({"cniVersion": "0.3.1", "name": "alone", **bridge()}))
    netctl.ok("add", path, container.path)
    assert container.addresses("eth0") == {"10.70.0.2/24"}
    netctl.ok("check", path, container.path)
    netctl.ok("del", path, container.path)
    assert "eth0" not in container.links()


def test_by_pid(netctl: Netctl, container: Namespace) -> None:
    netctl.conflist("net1", bridge())
    process = pid_in(container)
    try:
        assert netctl.json("add", "net1", str(process.pid))["container"] == f"pid-{process.pid}"
        assert container.addresses("eth0") == {"10.70.0.2/24"}
        assert netctl.json("del", "net1", f"pid:{process.pid}")["removed"]
    finally:
        process.kill()
        process.communicate()


def test_by_name_of_ip_netns(netctl: Netctl) -> None:
    """In a mount namespace of its own, so that the machine's names stay out of it."""
    netctl.conflist("net1", bridge())
    script = """
        mount -t tmpfs run /run
        mkdir /run/netns
        ip netns add web
        "$@" add net1 web --name site
        "$@" ls --json
        "$@" add net1 wbe || echo $?
        ip netns del web
        "$@" del net1 web
    """
    env = netctl.host.env(NETCONFPATH=str(netctl.conflists), NETDRIVERS_NETWORKS_DIR=str(netctl.networks))
    words = [sys.executable, "-m", "netdrivers.netctl"]
    done = netctl.host.run("unshare", "--mount", "sh", "-ec", script, "sh", *words, env=env)
    assert "web: eth0 on net1: 10.70.0.2/24" in done.stdout
    assert '"netns": "/run/netns/web"' in done.stdout
    assert "did you mean web?" in done.stderr
    assert done.stdout.endswith("\n3\nweb: eth0 removed\n")
    assert netctl.json("ls") == []


def test_published_ports_of_every_form(netctl: Netctl, outside: Namespace, container: Namespace) -> None:
    netctl.conflist("net1", bridge())
    forms = ("-p", "8080:80", "-p", "5353:53/udp", "-p", "127.0.0.1:9000:90", "-p", "7000-7002:70-72")
    netctl.ok("add", "net1", container.path, *forms)
    servers = [Echo(container, port, f"tcp{port}") for port in (80, 90, 70, 72)]
    servers.append(Echo(container, 53, "udp53", "udp"))
    assert ask(outside, "192.0.2.1", 8080) == "tcp80 192.0.2.2"
    assert ask(outside, "192.0.2.1", 5353, "udp") == "udp53 192.0.2.2"
    assert ask(outside, "192.0.2.1", 9000, timeout=0.5) == "no answer"
    assert ask(netctl.host, "127.0.0.1", 9000).startswith("tcp90 ")
    assert ask(outside, "192.0.2.1", 7000).startswith("tcp70 ")
    assert ask(outside, "192.0.2.1", 7002).startswith("tcp72 ")
    for server in servers:
        server.close()


def test_address_mac_interface_and_names(netctl: Netctl, container: Namespace) -> None:
    netctl.conflist("net1", bridge())
    netctl.ok(
        "add", "net1", container.path, "--ip", "10.70.0.9", "--mac", "02-00-00-00-00-AA", "--ifname", "net7",
        "--id", "c0ffee", "--name", "web",
    )  # fmt: skip
    assert container.addresses("net7") == {"10.70.0.9/24"}
    assert "02:00:00:00:00:aa" in container.run("ip", "link", "show", "net7").stdout
    (row,) = netctl.json("ls")
    assert (row["container"], row["label"], row["ifname"], row["engine"]) == ("c0ffee", "web", "net7", "netctl")


def test_two_networks_in_one_container(netctl: Netctl, container: Namespace) -> None:
    netctl.conflist("net1", bridge())
    netctl.conflist("net2", bridge("10.71.0.0/24", "br-two", isDefaultGateway=False, isGateway=True))
    netctl.ok("add", "net1", container.path)
    netctl.ok("add", "net2", container.path, "--ifname", "eth1")
    assert container.addresses("eth1") == {"10.71.0.2/24"}
    netctl.ok("del", "net1", container.path)
    assert container.links() == {"lo", "eth1"}


def test_second_add_is_a_conflict_and_changes_nothing(netctl: Netctl, container: Namespace) -> None:
    netctl.conflist("net1", bridge())
    netctl.ok("add", "net1", container.path)
    before = netctl.host.snapshot()
    assert "already" in netctl.fails(4, "add", "net1", container.path)
    assert netctl.host.snapshot() == before
    assert container.addresses("eth0") == {"10.70.0.2/24"}


def test_del_twice_and_with_the_namespace_gone(netctl: Netctl, lab: Callable[..., Namespace]) -> None:
    netctl.conflist("net1", bridge())
    one, two = lab("one"), lab("two")
    for made in (one, two):
        netctl.ok("add", "net1", made.path, "--id", made.name)
    assert netctl.json("del", "net1", one.path, "--id", "one")["removed"]
    assert not netctl.json("del", "net1", one.path, "--id", "one")["removed"]
    gone = two.path
    two.close()
    assert netctl.json("del", "net1", gone, "--id", "two")["removed"]
    assert netctl.json("ls") == []


def test_del_goes_by_what_was_kept_and_not_by_the_file(netctl: Netctl, container: Namespace) -> None:
    path = netctl.conflist("net1", bridge())
    netctl.ok("add", "net1", container.path, "-p", "8080:80")
    path.unlink()
    assert netctl.json("del", "net1", container.path)["removed"]
    assert "eth0" not in container.links()
    assert netctl.json("ports") == []


def test_del_of_what_an_engine_attached(netctl: Netctl, container: Namespace) -> None:
    config = {"cniVersion": "1.0.0", "name": "theirs", **bridge()}
    netctl.host.cni("bridge", "ADD", config, container, "abc")
    assert netctl.json("del", "theirs", container.path, "--id", "abc")["removed"]
    assert "eth0" not in container.links()


def test_a_vanished_container_does_not_bar_its_id(netctl: Netctl, lab: Callable[..., Namespace]) -> None:
    netctl.conflist("net1", bridge())
    first, second = lab("first"), lab("second")
    netctl.ok("add", "net1", first.path, "--id", "c1")
    first.close()
    netctl.ok("add", "net1", second.path, "--id", "c1")
    assert pings(second, "10.70.0.1")


def test_plan_says_what_add_does_and_does_nothing(netctl: Netctl, container: Namespace) -> None:
    netctl.conflist("net1", bridge())
    before = netctl.host.snapshot()
    steps = netctl.json("plan", "net1", container.path, "-p", "8080:80")
    lines = netctl.ok("plan", "net1", container.path, "-p", "8080:80").splitlines()
    assert [step["line"] for step in steps] == lines
    assert netctl.host.snapshot() == before
    assert container.links() == {"lo"}
    assert netctl.json("ls") == []
    netctl.ok("add", "net1", container.path, "-p", "8080:80")
    done = (
        netctl.json("inspect", "net1")[0]["operations"] + netctl.json("inspect", container_id(netctl))[0]["operations"]
    )
    assert [operation["line"] for operation in done] == lines
    assert "already" in netctl.fails(4, "plan", "net1", container.path)


def container_id(netctl: Netctl) -> str:
    """The id of the only attachment."""
    (row,) = netctl.json("ls")
    return str(row["container"])


def test_plan_of_a_chain(netctl: Netctl, container: Namespace) -> None:
    plain = bridge(capabilities={})
    netctl.conflist("net1", plain, {"type": "portmap", "capabilities": {"portMappings": True}})
    lines = netctl.ok("plan", "net1", container.path, "-p", "8080:80").splitlines()
    assert "publish tcp 0.0.0.0:8080 to 10.70.0.2:80" in lines


STUB = """#!/bin/sh
# A foreign plugin: notes each call, and answers with the result that it was given, or fails when told to.
cat > "$0.stdin"
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_NETNS $CNI_ARGS" >> "$0.calls"
if [ -e "$0.fails-$CNI_COMMAND" ]; then
    echo '{"cniVersion": "1.0.0", "code": 111, "msg": "told to fail", "details": "on purpose"}'
    exit 1
fi
[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion": "1.0.0", "interfaces": [{"name": "stub0"}], "ips": [], "dns": {}}'
"""


class Stub:
    """A foreign plugin in a directory of its own."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder)
        self._file = folder / "stub"
        self._file.write_text(STUB)
        self._file.chmod(0o755)

    def calls(self) -> list[str]:
        """The verbs that it was called with."""
        try:
            return [line.split()[0] for line in (folder_file(self._file, "calls")).read_text().splitlines()]
        except FileNotFoundError:
            return []

    def fail(self, verb: str) -> None:
        """Have it fail from now on."""
        folder_file(self._file, f"fails-{verb}").touch()

    def stdin(self) -> str:
        """What it last read."""
        return folder_file(self._file, "stdin").read_text()


def folder_file(stub: Path, suffix: str) -> Path:
    """A file beside the plugin."""
    return stub.with_name(f"{stub.name}.{suffix}")


@pytest.fixture
def stub(tmp_path: Path) -> Stub:
    """A foreign plugin."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return Stub(folder)


def test_a_foreign_plugin_takes_its_part_in_the_chain(netctl: Netctl, container: Namespace, stub: Stub) -> None:
    netctl.conflist("net1", bridge(), {"type": "stub", "colour": "green", "capabilities": {"mac": True}})
    netctl.ok("add", "net1", container.path, "--mac", "02:00:00:00:00:05", "--cni-path", stub.path)
    given = json.loads(stub.stdin())
    assert (given["name"], given["cniVersion"], given["colour"]) == ("net1", "1.0.0", "green")
    assert given["runtimeConfig"] == {"mac": "02:00:00:00:00:05"}
    assert [item["address"] for item in given["prevResult"]["ips"]] == ["10.70.0.2/24"]
    netctl.ok("check", "net1", container.path)
    netctl.ok("del", "net1", container.path)
    assert stub.calls() == ["ADD", "CHECK", "DEL"]
    assert json.loads(stub.stdin())["prevResult"]["interfaces"] == [{"name": "stub0"}], "the chain's last result"


def test_a_failure_in_the_chain_undoes_what_came_before(netctl: Netctl, container: Namespace, stub: Stub) -> None:
    netctl.conflist("net1", bridge(), {"type": "stub"})
    stub.fail("ADD")
    said = netctl.fails(9, "add", "net1", container.path, "-p", "8080:80", "--cni-path", stub.path)
    assert said == "plugin stub ADD: told to fail (on purpose)"
    assert stub.calls() == ["ADD", "DEL"]
    assert container.links() == {"lo"}
    assert netctl.json("ls") == []
    assert netctl.json("ports") == []


def test_what_a_foreign_plugin_complains_of_is_a_difference(netctl: Netctl, container: Namespace, stub: Stub) -> None:
    netctl.conflist("net1", bridge(), {"type": "stub"})
    netctl.ok("add", "net1", container.path, "--cni-path", stub.path)
    stub.fail("CHECK")
    (item,) = netctl.json("check", "net1", container.path, status=6)
    assert item["differences"] == ["plugin stub CHECK: told to fail"]


def test_a_del_that_fails_can_be_repeated(netctl: Netctl, container: Namespace, stub: Stub) -> None:
    netctl.conflist("net1", bridge(), {"type": "stub"})
    netctl.ok("add", "net1", container.path, "--cni-path", stub.path)
    stub.fail("DEL")
    assert "told to fail" in netctl.fails(7, "del", "net1", container.path)
    assert "eth0" not in container.links(), "the others were done all the same"
    os.unlink(os.path.join(stub.path, "stub.fails-DEL"))
    assert netctl.json("del", "net1", container.path)["removed"]
    assert not netctl.json("del", "net1", container.path, "--cni-path", stub.path)["removed"]


def test_gc_undoes_the_chain_of_a_dead_namespace(netctl: Netctl, container: Namespace, stub: Stub) -> None:
    netctl.conflist("net1", bridge(), {"type": "stub"})
    netctl.ok("add", "net1", container.path, "--id", "c1", "--cni-path", stub.path)
    container.close()
    assert netctl.json("gc")["removed"] == ["net1/c1/eth0", "network net1"]
    assert stub.calls() == ["ADD", "DEL"]


def test_ports_that_nobody_in_the_chain_takes(netctl: Netctl, container: Namespace, stub: Stub) -> None:
    netctl.conflist("net1", {"type": "stub"})
    said = netctl.fails(2, "add", "net1", container.path, "-p", "8080:80", "--cni-path", stub.path)
    assert "portMappings" in said
    assert stub.calls() == []


def test_a_missing_plugin_names_the_near_one(netctl: Netctl, container: Namespace, stub: Stub) -> None:
    netctl.conflist("net1", {"type": "brigde"})
    assert "did you mean bridge?" in netctl.fails(5, "add", "net1", container.path, "--cni-path", stub.path)


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (("-p", "80"), 2, "--publish"),
        (("-p", "8080:80/tpc"), 2, "tcp, udp or sctp"),
        (("-p", "0:80"), 2, "a port from 1 to 65535"),
        (("-p", "70000:80"), 2, "a port from 1 to 65535"),
        (("-p", "8000-8002:80-81"), 2, "as many ports"),
        (("-p", "8002-8000:80-82"), 2, "from a lower to a higher"),
        (("-p", "300.1.1.1:8080:80"), 2, "[ADDRESS:]PORT:PORT"),
        (("--mac", "01:00:00:00:00:01"), 2, "unicast"),
        (("--mac", "xyz"), 2, "--mac"),
        (("--ip", "10.99.0.1"), 2, "an address of 10.70.0.0/24"),
        (("--ip", "10.70.0.1"), 4, "is the gateway"),
        (("--ip", "nonsense"), 2, "an IP address"),
        (("--ifname", "much-too-long-a-name"), 2, "--ifname"),
        (("--ifname", "a/b"), 2, "--ifname"),
        (("--id", "../x"), 2, "--id"),
        (("--id", ""), 2, "--id"),
        (("--name", "a;b"), 2, "--name"),
        (("--nonsense",), 2, "--nonsense"),
    ],
)
def test_bad_options_change_nothing(
    netctl: Netctl, container: Namespace, words: tuple[str, ...], status: int, told: str
) -> None:
    netctl.conflist("net1", bridge())
    before = netctl.host.snapshot()
    said = netctl.fails(status, "add", "net1", container.path, *words)
    assert told in said
    assert container.links() == {"lo"}
    netctl.ok("gc")
    assert netctl.host.snapshot() == before


def test_bad_networks_and_namespaces(netctl: Netctl, container: Namespace, tmp_path: Path) -> None:
    netctl.conflist("net1", bridge())
    broken = tmp_path / "broken.conflist"
    broken.write_text('{"name": "x", "plugins": [')
    empty = tmp_path / "empty.conflist"
    empty.write_text('{"cniVersion": "1.0.0", "name": "x", "plugins": []}')
    unversioned = netctl.conflist("net9", bridge(), cniVersion="9.9.9")
    assert "did you mean net1?" in netctl.fails(3, "add", "nett1", container.path)
    assert "not well-formed JSON" in netctl.fails(2, "add", broken, container.path)
    assert "at least one plugin" in netctl.fails(2, "add", empty, container.path)
    assert "did you mean broken.conflist?" in netctl.fails(3, "add", tmp_path / "brokn.conflist", container.path)
    assert "9.9.9" in netctl.fails(2, "add", unversioned, container.path)
    assert "nothing is at" in netctl.fails(3, "add", "net1", tmp_path / "nowhere")
    assert "network namespace" in netctl.fails(2, "add", "net1", broken), "a file that is no namespace"
    assert "no process" in netctl.fails(3, "add", "net1", "999999999")


def test_the_host_is_as_before_when_everything_left(netctl: Netctl, lab: Callable[..., Namespace], host: Host) -> None:
    host.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    before = host.snapshot()
    netctl.conflist("net1", bridge())
    made = [lab(f"c{i}") for i in range(3)]
    for i, one in enumerate(made):
        netctl.ok("add", "net1", one.path, "-p", f"{8000 + i}:80")
    for one in made:
        netctl.ok("del", "net1", one.path)
    netctl.ok("gc")
    assert host.snapshot() == before


IPAM = """#!/bin/sh
# A foreign IPAM: one address for everybody.
[ "$CNI_COMMAND" = ADD ] || exit 0
echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.77.0.5/24", "gateway": "10.77.0.1"}]}'
"""


def test_a_foreign_ipam(netctl: Netctl, container: Namespace, outside: Namespace, tmp_path: Path) -> None:
    program = tmp_path / "one-address"
    program.write_text(IPAM)
    program.chmod(0o755)
    netctl.conflist("net1", bridge(ipam={"type": "one-address"}))
    words = ("net1", container.path, "-p", "8080:80", "--cni-path", str(tmp_path))
    lines = netctl.ok("plan", *words).splitlines()
    assert f"run {program} for addresses" in lines
    assert "publish 8080->80/tcp, at those addresses" in lines
    netctl.ok("add", *words)
    server = Echo(container, 80, "web")
    assert ask(outside, "192.0.2.1", 8080) == "web 192.0.2.2"
    server.close()
    netctl.ok("check", "net1", container.path)
    netctl.ok("del", "net1", container.path)
    assert "eth0" not in container.links()


def test_a_conflist_that_names_a_network(netctl: Netctl, lab: Callable[..., Namespace]) -> None:
    one, two = lab("one"), lab("two")
    netctl.ok("network", "create", "shop", "--subnet", "10.72.0.0/24")
    netctl.conflist("theirs", {"type": "bridge", "network": "shop", "capabilities": {"portMappings": True}})
    assert "create bridge nd-shop mtu 1500" in netctl.ok("plan", "theirs", one.path)
    netctl.ok("add", "theirs", one.path, "--id", "one", "-p", "8080:80")
    netctl.ok("add", "shop", two.path, "--id", "two")
    assert pings(one, "10.72.0.3"), "one network"
    netctl.fails(4, "add", "theirs", one.path, "--id", "one")
    assert pings(one, "10.72.0.3")
    assert netctl.json("check", "theirs", one.path, "--id", "one")[0]["differences"] == []
    one.run("ip", "addr", "flush", "dev", "eth0")
    assert netctl.run("check", "theirs", one.path, "--id", "one").returncode == 6
    assert netctl.json("del", "theirs", one.path, "--id", "one")["removed"]
    assert [row["container"] for row in netctl.json("ls")] == ["two"]
