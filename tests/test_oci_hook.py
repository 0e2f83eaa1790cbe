"""The OCI hook, called as runc, crun, Podman and LXC call it: containers wired by what annotations say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from netdrivers.frontends import dispatch
from netdrivers.frontends.request import Request
from netdrivers.kernel.namespaces import own_inode
from tests.lab import Echo, Host, Namespace, ask, pings
from tests.recorded import Recorded, requests

HOOK = "netdrivers-oci-hook"
SHOP: dict[str, Any] = {
    "cniVersion": "1.0.0", "name": "shop", "type": "bridge", "bridge": "br-shop", "isGateway": True, "ipMasq": True,
    "ipam": {
        "type": "host-local", "ranges": [[{"subnet": "10.30.0.0/24"}], [{"subnet": "fd00:30::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    },
}  # fmt: skip
YARD: dict[str, Any] = {
    "cniVersion": "1.0.0", "name": "yard", "type": "bridge", "bridge": "br-yard", "isGateway": True,
    "ipam": {"type": "host-local", "subnet": "10.31.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]},
}  # fmt: skip

Inhabited = Callable[[Namespace], int]


@pytest.fixture(autouse=True)
def networks(host: Host) -> None:
    """The named networks of the host."""
    folder = host.state_dir / "networks.d"
    folder.mkdir(parents=True)
    for config in (SHOP, YARD):
        (folder / f"{config['name']}.json").write_text(json.dumps(config))


@pytest.fixture
def inhabited() -> Iterator[Inhabited]:
    """Starts a process in a namespace, as a container's; its pid."""
    started: list[subprocess.Popen[bytes]] = []

    def start(namespace: Namespace) -> int:
        process = subprocess.Popen(["nsenter", f"--net={namespace.path}", "--", "sleep", "1000"])
        started.append(process)
        inode = os.fstat(namespace.fd).st_ino
        for _ in range(200):
            if os.stat(f"/proc/{process.pid}/ns/net").st_ino == inode:
                return process.pid
            time.sleep(0.01)
        raise AssertionError("the process did not enter the namespace")

    yield start
    for process in started:
        process.kill()
        process.wait()


def call(host: Host, stdin: bytes, *args: str, **env: str) -> tuple[int, str]:
    """Exit status, and what the hook says on standard error. It never writes to standard output."""
    given = {**host.env(NETDRIVERS_NETWORKS_DIR=str(host.state_dir / "networks.d")), **env}
    with host.entered():
        response = dispatch.handle(Request(HOOK, args, given, stdin, host_inode=own_inode()))
    assert response.stdout == b""
    return response.exit_code, response.stderr.decode()


def state(pid: int, container: str = "web", status: str = "creating", **annotations: str) -> bytes:
    """A container's state; annotations without their prefix."""
    return json.dumps(
        {
            "ociVersion": "1.0.2", "id": container, "status": status, "pid": pid, "bundle": "/bundle",
            "annotations": {f"netdrivers/{key}": value for key, value in annotations.items()},
        }
    ).encode()  # fmt: skip


def attach(host: Host, pid: int, container: str = "web", **annotations: str) -> None:
    """createRuntime, which succeeds."""
    assert call(host, state(pid, container, **annotations), "createRuntime") == (0, "")


def refused(host: Host, pid: int, container: str = "web", **annotations: str) -> str:
    """The one line of a createRuntime that fails."""
    code, said = call(host, state(pid, container, **annotations), "createRuntime")
    assert code == 1
    assert said.startswith("netdrivers: ")
    assert said.count("\n") == 1
    assert "internal error" not in said
    return said.removeprefix("netdrivers: ").strip()


def stop(host: Host, container: str = "web") -> None:
    """poststop, which succeeds."""
    assert call(host, state(0, container, "stopped"), "poststop") == (0, "")


# What real engines sent

OCI = [r for folder in ("runc-hook", "crun-hook", "podman-4.3-hooks") for r in requests(folder)]


@pytest.mark.parametrize("request_", OCI, ids=lambda r: r.name)
def test_recorded_states_without_our_annotations_are_no_business_of_ours(host: Host, request_: Recorded) -> None:
    before = host.snapshot()
    code, said = call(host, request_.stdin, *request_.args)
    if request_.args == ("poststart",):
        assert (code, "createRuntime, prestart, poststop" in said) == (1, True)
    else:
        assert (code, said) == (0, "")
    assert host.snapshot() == before


@pytest.mark.parametrize("request_", [r for r in OCI if r.args[0] != "poststart"], ids=lambda r: r.name)
def test_recorded_states_with_our_annotations(
    host: Host, container: Namespace, inhabited: Inhabited, request_: Recorded
) -> None:
    given = json.loads(request_.stdin)
    given["annotations"]["netdrivers/network"] = "shop"
    pid = inhabited(container)
    if given["status"] == "stopped":
        attach(host, pid, given["id"], network="shop")
    else:
        given["pid"] = pid
    assert call(host, json.dumps(given).encode(), *request_.args) == (0, "")
    if given["status"] == "stopped":
        assert container.links() == {"lo"}
        return
    assert container.addresses("eth0") == {"10.30.0.2/24", "fd00:30::2/64"}
    stop(host, given["id"])
    assert container.links() == {"lo"}


@pytest.mark.parametrize("request_", requests("lxc-5.0-hook"), ids=lambda r: r.name)
def test_recorded_lxc_calls(host: Host, container: Namespace, inhabited: Inhabited, request_: Recorded) -> None:
    pid = inhabited(container)
    env = {**request_.env, **({"LXC_PID": str(pid)} if "LXC_PID" in request_.env else {})}
    start = {"LXC_HOOK_TYPE": "start-host", "LXC_NAME": env["LXC_NAME"], "LXC_PID": str(pid)}
    args = ("--network", "shop", "-p", "8080:80")
    if env["LXC_HOOK_TYPE"] == "start-host":
        assert call(host, b"", *args, **env) == (0, "")
        assert container.addresses("eth0") == {"10.30.0.2/24", "fd00:30::2/64"}
    else:
        assert call(host, b"", *args, **start) == (0, "")
        assert call(host, b"", **env) == (0, "")
        assert container.links() == {"lo"}
    assert call(host, b"", LXC_HOOK_TYPE="post-stop", LXC_NAME=env["LXC_NAME"]) == (0, "")
    assert host.rows().get("attachments") is None


# Attaching


def test_annotations_have_their_meaning(
    host: Host, outside: Namespace, lab: Callable[..., Namespace], inhabited: Inhabited
) -> None:
    web, other = lab("web"), lab("other")
    attach(
        host, inhabited(web), network="shop", publish="8080:80,8100-8102:100-102/udp", ip="10.30.0.77, fd00:30::77",
        mac="02:11:22:33:44:55", ifname="net7", alias="shop-front,www",
    )  # fmt: skip
    attach(host, inhabited(other), "other", network="shop")
    assert web.addresses("net7") == {"10.30.0.77/24", "fd00:30::77/64"}
    assert "02:11:22:33:44:55" in web.run("ip", "link", "show", "net7").stdout
    servers = [Echo(web, 80, "web"), Echo(web, 101, "udp", "udp")]
    try:
        assert ask(outside, "192.0.2.1", 8080) == "web 192.0.2.2"
        assert ask(outside, "192.0.2.1", 8101, "udp") == "udp 192.0.2.2"
        assert ask(other, "10.30.0.77", 80) == "web 10.30.0.78"
        assert pings(other, "fd00:30::77")
    finally:
        for server in servers:
            server.close()
    with host.lifecycle() as lifecycle:
        (record,) = lifecycle.store.attachments(container="web")
    assert (record.attachment.engine, record.attachment.label) == ("oci", "web")
    assert record.attachment.aliases == ("shop-front", "www")
    stop(host)
    assert web.links() == {"lo"}
    assert ask(outside, "192.0.2.1", 8080, timeout=0.5) == "no answer"


def test_several_networks(host: Host, container: Namespace, inhabited: Inhabited) -> None:
    """Each address goes to the network that holds it, MACs and names by position."""
    attach(
        host, inhabited(container), network="yard,shop", ip="10.30.0.9,10.31.0.9", mac=",02:00:00:00:00:05",
        ifname="front",
    )  # fmt: skip
    assert container.addresses("front") == {"10.31.0.9/24"}
    assert container.addresses("eth1") == {"10.30.0.9/24", "fd00:30::2/64"}
    assert "02:00:00:00:00:05" in container.run("ip", "link", "show", "eth1").stdout
    assert "default via 10.31.0.1 dev front" in container.run("ip", "route", "get", "192.0.2.9").stdout.replace(
        "192.0.2.9 via", "default via"
    )
    stop(host)
    assert container.links() == {"lo"}


def test_arguments_are_defaults_for_annotations(host: Host, container: Namespace, inhabited: Inhabited) -> None:
    pid = inhabited(container)
    args = ("createRuntime", "--network", "yard", "--ifname=net0")
    assert call(host, state(pid, network="shop"), *args) == (0, "")
    assert container.addresses("net0") == {"10.30.0.2/24", "fd00:30::2/64"}


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        ({"network": "shpo"}, ["no network 'shpo'", "did you mean shop?"]),
        ({"netwrok": "shop"}, ["netdrivers/netwrok", "did you mean netdrivers/network?"]),
        ({"network": "shop,shop"}, ["network", "once"]),
        ({"network": "shop", "publish": "80"}, ["publish", "'80'", "8080:80"]),
        ({"network": "shop", "publish": "999.1.1.1:80:80"}, ["publish", "999.1.1.1"]),
        ({"network": "shop", "publish": "0:80"}, ["hostPort", "0", "65535"]),
        ({"network": "shop", "ip": "10.99.0.1,10.30.0.3"}, ["10.99.0.1", "10.30.0.0/24"]),
        ({"network": "shop", "ip": "here"}, ["ip", "'here'"]),
        ({"network": "shop", "mac": "01:00:00:00:00:01"}, ["mac", "unicast"]),
        ({"network": "shop", "mac": "02:00:00:00:00:01,02:00:00:00:00:02"}, ["mac", "there are 1"]),
        ({"network": "shop", "ifname": "much-too-long-a-name"}, ["ifname", "1 to 15"]),
        ({"network": "../shop"}, ["network", "'../shop'"]),
    ],
)
def test_bad_wishes_are_named(
    host: Host, container: Namespace, inhabited: Inhabited, annotations: dict[str, str], words: list[str]
) -> None:
    before = host.snapshot()
    message = refused(host, inhabited(container), **annotations)
    for word in words:
        assert word in message
    assert host.snapshot() == before
    assert container.links() == {"lo"}


@pytest.mark.parametrize(
    ("stdin", "words"),
    [
        (b"", "JSON"),
        (b"[]", "not a JSON object"),
        (b'{"status": "creating", "pid": 1}', "id: missing"),
        (b'{"id": "a/b", "status": "creating", "pid": 1}', "id: 'a/b'"),
        (b'{"id": "a", "pid": 1}', "status: missing"),
        (b'{"id": "a", "status": "creating"}', "pid"),
        (b'{"id": "a", "status": "creating", "pid": "1"}', "pid"),
        (b'{"id": "a", "status": "creating", "pid": 1, "annotations": []}', "annotations"),
        (b'{"id": "a", "status": "creating", "pid": 1, "annotations": {"netdrivers/ip": 4}}', "netdrivers/ip"),
    ],
)
def test_bad_states_are_named(host: Host, stdin: bytes, words: str) -> None:
    code, said = call(host, stdin, "createRuntime")
    assert code == 1
    assert words in said


def test_unknown_arguments_are_named(host: Host) -> None:
    assert "did you mean --network?" in call(host, state(1), "--netwrok=shop")[1]
    assert "createRuntime" in call(host, state(1), "createContainer")[1]
    code, said = call(host, b"", LXC_HOOK_TYPE="pre-start", LXC_NAME="x")
    assert (code, "start-host or post-stop" in said) == (1, True)
    assert "LXC_PID" in call(host, b"", LXC_HOOK_TYPE="start-host", LXC_NAME="x")[1]


def test_container_in_the_hosts_namespace_is_refused(host: Host, inhabited: Inhabited) -> None:
    before = host.snapshot()
    assert "of the container's own" in refused(host, inhabited(host), network="shop")
    assert host.snapshot() == before


def test_second_network_fails_and_the_first_is_taken_back(
    host: Host, lab: Callable[..., Namespace], inhabited: Inhabited
) -> None:
    first, second = lab("first"), lab("second")
    attach(host, inhabited(first), "first", network="yard", ip="10.31.0.9")
    assert "10.31.0.9" in refused(host, inhabited(second), "second", network="shop,yard", ip="10.31.0.9")
    assert second.links() == {"lo"}
    with host.lifecycle() as lifecycle:
        assert [record.attachment.container for record in lifecycle.store.attachments()] == ["first"]


def test_poststop_needs_neither_namespace_nor_network_file(
    host: Host, lab: Callable[..., Namespace], inhabited: Inhabited
) -> None:
    web = lab("web")
    attach(host, inhabited(web), network="shop,yard", publish="8080:80")
    (host.state_dir / "networks.d" / "shop.json").unlink()
    web.close()
    for _ in range(2):
        stop(host)
    rows = host.rows()
    assert not {"attachments", "leases", "ports"} & set(rows)


def test_poststop_leaves_what_other_engines_did(
    host: Host, lab: Callable[..., Namespace], inhabited: Inhabited
) -> None:
    web = lab("web")
    host.call("bridge", "ADD", YARD, web, "web", ifname="eth5")
    attach(host, inhabited(web), network="shop")
    stop(host)
    assert web.links() == {"lo", "eth5"}


def test_id_is_used_again_when_nobody_said_that_it_was_free(
    host: Host, lab: Callable[..., Namespace], inhabited: Inhabited
) -> None:
    first, second = lab("first"), lab("second")
    pid = inhabited(first)
    attach(host, pid, network="shop", publish="8080:80", ip="10.30.0.5")
    assert "already" in refused(host, inhabited(second), network="shop"), "the first one lives"
    os.kill(pid, 9)
    ours = {link for link in host.links() if link.startswith("veth")}
    first.close()
    for _ in range(100):  # the kernel takes a moment to clear a namespace away
        if not ours & host.links():
            break
        time.sleep(0.05)
    attach(host, inhabited(second), network="shop", publish="8080:80", ip="10.30.0.5")
    assert "10.30.0.5/24" in second.addresses("eth0")


def test_the_executable_speaks_the_protocol(host: Host, container: Namespace, inhabited: Inhabited) -> None:
    """By its own process, as a runtime starts it: with no environment but what the bundle sets."""
    env = {key: value for key, value in host.env().items() if key != "PATH"}
    env["NETDRIVERS_NETWORKS_DIR"] = str(host.state_dir / "networks.d")
    code = f"import sys; from netdrivers.frontends.executable import main; sys.exit(main({HOOK!r}))"

    def run(stdin: bytes | None, *args: str, **more: str) -> subprocess.CompletedProcess[bytes]:
        command = ["nsenter", f"--net={host.path}", "--", sys.executable, "-c", code, *args]
        if stdin is not None:
            return subprocess.run(command, input=stdin, env={**env, **more}, capture_output=True, timeout=60)
        reading, writing = os.pipe()  # nobody ever writes, as LXC's hooks may find it
        try:
            return subprocess.run(command, stdin=reading, env={**env, **more}, capture_output=True, timeout=60)
        finally:
            os.close(reading)
            os.close(writing)

    pid = inhabited(container)
    assert run(state(pid, network="shop"), "createRuntime").returncode == 0
    assert container.addresses("eth0") == {"10.30.0.2/24", "fd00:30::2/64"}
    assert run(state(0, status="stopped"), "poststop").returncode == 0
    assert container.links() == {"lo"}
    failed = run(state(pid, network="nope"), "createRuntime")
    assert (failed.returncode, failed.stdout) == (1, b"")
    assert b"no network 'nope'" in failed.stderr
    assert run(None, "--network=shop", LXC_HOOK_TYPE="start-host", LXC_NAME="x", LXC_PID=str(pid)).returncode == 0
    assert "eth0" in container.links()
    assert run(None, LXC_HOOK_TYPE="post-stop", LXC_NAME="x").returncode == 0
    assert container.links() == {"lo"}
