"""A named network is one network through every front end: one bridge, one pool, one view, and each engine's own GC."""

from __future__ import annotations

import http.server
import json
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from netdrivers.frontends import dispatch
from netdrivers.frontends.docker import kept
from netdrivers.frontends.docker.naming import name_endpoints
from netdrivers.frontends.docker.plugin import Plugin
from netdrivers.frontends.request import Request
from netdrivers.kernel.namespaces import own_inode
from tests.lab import Echo, Host, Namespace, ask, pings
from tests.resolving import names_in, needs_server, written

Lab = Callable[..., Namespace]

SHOP: dict[str, Any] = {
    "cniVersion": "1.1.0", "name": "shop", "type": "bridge", "bridge": "br-shop", "isDefaultGateway": True,
    "ipMasq": True, "ipam": {"type": "host-local", "subnet": "10.64.0.0/24"},
}  # fmt: skip
FRONT: dict[str, Any] = {"cniVersion": "1.1.0", "name": "front", "type": "bridge", "network": "shop"}
ENDPOINT = "e" * 64
DOCKER_NETWORK = "d" * 64


class Shared:
    """A host with a folder of named networks, and each front end as its engine calls it."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host = host
        self.networks = folder / "networks.d"
        self.networks.mkdir()
        self.folder = folder
        self.name(SHOP)

    def name(self, config: dict[str, Any]) -> Path:
        """Write a network's file."""
        path = self.networks / f"{config['name']}.json"
        path.write_text(json.dumps(config))
        return path

    def env(self, **more: str) -> dict[str, str]:
        """An engine's environment."""
        data = {"NETDRIVERS_NETWORKS_DIR": str(self.networks), "NETDRIVERS_DATA_DIR": str(self.folder / "data")}
        return self.host.env(**data, **more)

    def _handle(self, program: str, args: tuple[str, ...], stdin: Any, **env: str) -> tuple[int, Any]:
        with self.host.entered():
            request = Request(program, args, self.env(**env), json.dumps(stdin).encode(), host_inode=own_inode())
            response = dispatch.handle(request)
        said = response.stdout or response.stderr
        return response.exit_code, json.loads(said) if response.stdout else said.decode()

    def cni(
        self, verb: str, config: dict[str, Any], netns: Namespace | None, container: str = "c1", pod: str = ""
    ) -> Any:
        """A CNI call; the answer, be it an error."""
        args = f"IgnoreUnknown=1;K8S_POD_NAME={pod}" if pod else ""
        path = netns.path if netns else ""
        env = {"CNI_COMMAND": verb, "CNI_CONTAINERID": container, "CNI_NETNS": path, "CNI_IFNAME": "eth0"}
        return self._handle(config["type"], (), config, **env, CNI_ARGS=args, CNI_PATH="")[1]

    def netctl(self, *words: str) -> str:
        """netctl's output; it must succeed."""
        return self.host.run(sys.executable, "-m", "netdrivers.netctl", *words, env=self.env()).stdout

    def podman(self, verb: str, netns: Namespace, number: int = 1) -> Any:
        """A call of netavark for Podman's network that stands for ours."""
        network = {"name": "square", "driver": "netdrivers-bridge", "options": {"network": "shop"}, "subnets": None}
        own = {"aliases": ["p"], "interface_name": "eth0", "static_ips": None, "static_mac": None, "options": None}
        document = {
            "container_id": f"{number:064x}", "container_name": "from-podman", "port_mappings": None,
            "network": network, "network_options": own,
        }  # fmt: skip
        code, answer = self._handle("netdrivers-bridge", (verb, netns.path), document)
        assert code == 0, answer
        return answer

    def hook(self, netns: Namespace, container: str) -> None:
        """The OCI hook, for a container's process in a namespace."""
        with subprocess.Popen(["nsenter", f"--net={netns.path}", "--", "sh", "-c", "echo; exec sleep 60"],
                              stdout=subprocess.PIPE) as process:  # fmt: skip
            assert process.stdout
            process.stdout.readline()
            state = {
                "ociVersion": "1.0.2", "id": container, "status": "creating", "pid": process.pid,
                "annotations": {"netdrivers/network": "shop", "netdrivers/name": "from-runc"},
            }  # fmt: skip
            code, answer = self._handle("netdrivers-oci-hook", ("createRuntime",), state)
            process.kill()
        assert code == 0, answer

    def docker(self, method: str, **body: Any) -> dict[str, Any]:
        """A call of Docker's NetworkDriver."""
        plugin = Plugin("bridge", self.env(), lambda: dispatch.lifecycle(str(self.host.state_dir)))
        with self.host.entered():
            _, answer = plugin.answer(f"/NetworkDriver.{method}", json.dumps(body).encode())
        document: dict[str, Any] = json.loads(answer)
        assert "Err" not in document, document
        return document

    def docker_run(self, netns: Namespace) -> None:
        """What Docker does for one container: a network, an endpoint, and its link moved into the sandbox."""
        ids = {"NetworkID": DOCKER_NETWORK, "EndpointID": ENDPOINT}
        pool = {"AddressSpace": "null", "Pool": "0.0.0.0/0", "Gateway": ""}
        options = {"com.docker.network.generic": {"network": "shop"}}
        self.docker("CreateNetwork", NetworkID=DOCKER_NETWORK, IPv4Data=[pool], IPv6Data=[], Options=options)
        address = self.docker("CreateEndpoint", **ids, Interface={}, Options={})["Interface"]["Address"]
        joined = self.docker("Join", **ids, SandboxKey="", Options={})
        link = joined["InterfaceName"]["SrcName"]
        self.host.run("ip", "link", "set", link, "netns", netns.path, "name", "eth0")
        for words in (("addr", "add", address, "dev", "eth0"), ("link", "set", "eth0", "up")):
            netns.run("ip", *words)


@pytest.fixture
def shared(host: Host, tmp_path: Path) -> Shared:
    return Shared(host, tmp_path)


def test_every_front_end_attaches_to_the_same_network(shared: Shared, lab: Lab, outside: Namespace) -> None:
    before = shared.host.snapshot()
    spaces = {name: lab(name) for name in ("netctl", "pod", "podman4", "podman5", "runc", "docker")}
    shared.netctl("add", "shop", spaces["netctl"].path, "--id", "box", "--name", "from-netctl")
    shared.cni("ADD", FRONT, spaces["pod"], "pod")
    shared.cni("ADD", {**FRONT, "name": "back"}, spaces["podman4"], "podman4", pod="from-podman4")
    shared.podman("setup", spaces["podman5"])
    shared.hook(spaces["runc"], "runc1")
    shared.docker_run(spaces["docker"])
    rows = names_in(shared.netctl("ls", "--json"), ("network", "engine", "container", "label"))
    assert rows == sorted(
        [
            ("shop", "netctl", "box", "from-netctl"),
            ("shop", "containerd", "pod", ""),  # its namespace's path begins as containerd's do
            ("shop", "podman", "podman4", "from-podman4"),
            ("shop", "podman", f"{1:064x}", "from-podman"),
            ("shop", "oci", "runc1", "from-runc"),
            ("shop", "docker", ENDPOINT, ""),
        ]
    )
    addresses = {name: next(iter(space.addresses("eth0"))).partition("/")[0] for name, space in spaces.items()}
    assert set(addresses.values()) == {f"10.64.0.{last}" for last in range(2, 8)}, "one pool"
    for here, there in permutations(spaces, 2):
        assert pings(spaces[here], addresses[there]), f"{here} to {there}"
    links = shared.host.links()
    assert sum(not link.startswith(("veth", "lo", "wire")) for link in links) == 1, "one bridge"
    shared.netctl("del", "shop", spaces["netctl"].path, "--id", "box")
    shared.cni("DEL", FRONT, None, "pod")
    shared.cni("DEL", {**FRONT, "name": "back"}, None, "podman4")
    shared.podman("teardown", spaces["podman5"])
    shared.netctl("del", "shop", spaces["runc"].path, "--id", "runc1")
    shared.docker("DeleteEndpoint", NetworkID=DOCKER_NETWORK, EndpointID=ENDPOINT)
    shared.docker("DeleteNetwork", NetworkID=DOCKER_NETWORK)
    shared.netctl("gc")
    assert json.loads(shared.netctl("ls", "--json")) == []
    assert shared.host.snapshot() == before


def test_what_belongs_to_the_call_stays_and_the_rest_is_the_networks(
    shared: Shared, container: Namespace, outside: Namespace
) -> None:
    config = {
        **FRONT, "bridge": "br-other", "ipam": {"type": "host-local", "subnet": "10.99.0.0/24"}, "mtu": 1300,
        "runtimeConfig": {
            "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
            "ips": ["10.64.0.77"], "mac": "02:00:00:00:64:77", "dns": {"servers": ["192.0.2.53"]},
        },
    }  # fmt: skip
    result = shared.cni("ADD", config, container)
    assert [item["address"] for item in result["ips"]] == ["10.64.0.77/24"]
    assert result["dns"] == {"nameservers": ["192.0.2.53"]}
    assert "02:00:00:00:64:77" in container.run("ip", "link", "show", "eth0").stdout
    assert "br-other" not in shared.host.links()
    server = Echo(container, 80, "web")
    assert ask(outside, "192.0.2.1", 8080) == "web 192.0.2.2"
    server.close()
    with shared.host.lifecycle() as lifecycle:
        made = lifecycle.store.network("shop")
        assert made is not None
        assert made.network.dns.nameservers == (), "of one container, not of the network"
    assert shared.cni("CHECK", {**config, "prevResult": result}, container) == ""
    assert shared.cni("STATUS", FRONT, None) == ""
    assert shared.cni("DEL", config, container) == ""
    assert container.links() == {"lo"}


def test_a_plugin_behind_others_in_a_chain(shared: Shared, container: Namespace) -> None:
    previous = {"cniVersion": "1.1.0", "interfaces": [{"name": "dummy0"}], "ips": [], "routes": [], "dns": {}}
    result = shared.cni("ADD", {**FRONT, "prevResult": previous}, container)
    assert [item["name"] for item in result["interfaces"]][:2] == ["dummy0", "br-shop"]
    assert result["ips"][0]["interface"] == 3


@pytest.mark.parametrize(
    ("config", "code", "words"),
    [
        ({**FRONT, "type": "macvlan"}, 7, ["macvlan", "that one is of type bridge"]),
        ({**FRONT, "network": "shopp"}, 107, ["no network 'shopp'"]),
        ({**FRONT, "network": 7}, 7, ["network: 7 is not valid: a string"]),
        ({**FRONT, "network": "../shop"}, 7, ["network"]),
        ({**FRONT, "runtimeConfig": {"ipRanges": [[{"subnet": "10.9.0.0/24"}]]}}, 7, ["shop has its own addresses"]),
    ],
)
def test_what_is_wrong_is_said(
    shared: Shared, container: Namespace, config: dict[str, Any], code: int, words: list[str]
) -> None:
    for verb in ("ADD", "STATUS"):
        answer = shared.cni(verb, config, container)
        assert answer["code"] == code
        for word in words:
            assert word in answer["msg"]
    assert container.links() == {"lo"}


@pytest.mark.parametrize("change", ["file gone", "file of another type", "network dropped", "network renamed"])
def test_del_goes_by_the_record_whatever_became_of_the_files(shared: Shared, container: Namespace, change: str) -> None:
    shared.cni("ADD", FRONT, container)
    config = dict(FRONT)
    if change == "file gone":
        (shared.networks / "shop.json").unlink()
    elif change == "file of another type":
        shared.name({**SHOP, "type": "macvlan"})
    elif change == "network dropped":
        config = {**SHOP, "name": "front"}
    else:
        config["network"] = "yard"
    assert shared.cni("DEL", config, container) == ""
    assert container.links() == {"lo"}
    assert json.loads(shared.netctl("ls", "--json")) == []


def test_gc_of_one_conflist_leaves_everybody_else_alone(shared: Shared, lab: Lab) -> None:
    """A runtime knows what it attached by its own conflist, and nothing of others on the same network."""
    back = {**FRONT, "name": "back"}
    spaces = [lab(f"c{i}") for i in range(7)]
    shared.cni("ADD", FRONT, spaces[0], "stale")
    shared.cni("ADD", FRONT, spaces[1], "valid")
    shared.cni("ADD", back, spaces[2], "other-conflist")
    shared.cni("ADD", FRONT, spaces[3], "podmans", pod="p")
    shared.netctl("add", "shop", spaces[4].path, "--id", "netctls")
    shared.podman("setup", spaces[5])
    shared.docker_run(spaces[6])
    everybody = {row[0] for row in names_in(shared.netctl("ls", "--json"), ("container",))}
    valid = [{"containerID": "valid", "ifname": "eth0"}]
    assert shared.cni("GC", {**FRONT, "cni.dev/valid-attachments": valid}, None) == ""
    left = {row[0] for row in names_in(shared.netctl("ls", "--json"), ("container",))}
    assert everybody - left == {"stale"}
    assert spaces[0].links() == {"lo"}
    assert shared.cni("GC", {**back, "cni.dev/valid-attachments": []}, None) == ""
    assert {row[0] for row in names_in(shared.netctl("ls", "--json"), ("container",))} == left - {"other-conflist"}
    assert shared.cni("GC", {**SHOP, "cni.dev/valid-attachments": []}, None) == "", "no conflist of that name asked"
    assert {row[0] for row in names_in(shared.netctl("ls", "--json"), ("container",))} == left - {"other-conflist"}


def test_netctl_attaches_through_a_conflist_too(shared: Shared, container: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "front.conflist"
    path.write_text(
        json.dumps({"cniVersion": "1.0.0", "name": "front", "plugins": [{"type": "bridge", "network": "shop"}]})
    )
    assert "create bridge br-shop" in shared.netctl("plan", str(path), container.path)
    shared.netctl("add", str(path), container.path, "--id", "box")
    assert names_in(shared.netctl("ls", "--json"), ("network", "container")) == [("shop", "box")]
    shared.netctl("check", str(path), container.path, "--id", "box")
    shared.netctl("del", str(path), container.path, "--id", "box")
    assert container.links() == {"lo"}


def test_lint_knows_that_a_named_network_says_everything(shared: Shared, tmp_path: Path) -> None:
    path = tmp_path / "front.conf"

    def findings(**more: Any) -> list[tuple[str, ...]]:
        path.write_text(json.dumps({**FRONT, **more}))
        done = shared.host.run(
            sys.executable, "-m", "netdrivers.netctl", "lint", str(path), "--json", env=shared.env(), check=False
        )
        return names_in(done.stdout, ("level", "field"))

    assert findings() == []
    assert findings(bridge="br-x", mtu=1400) == [("warning", "bridge"), ("warning", "mtu")]
    assert findings(network="shopp") == [("error", "network")]


# Docker's names


class DockerApi(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """A stand-in for dockerd's API on a Unix socket. answers: path to document."""

    daemon_threads = True

    def __init__(self, path: Path, answers: dict[str, Any]) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known = self.path in answers
                body = json.dumps(answers.get(self.path, {"message": "no such thing"})).encode()
                self.send_response(200 if known else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

            def address_string(self) -> str:
                return "unix"

        super().__init__(str(path), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


def test_containers_are_called_what_docker_calls_them(shared: Shared, lab: Lab, tmp_path: Path) -> None:
    """In the form that dockerd 20.10 answers (and 26.1, but for fields that we do not look at)."""
    needs_server()
    shared.name({**SHOP, "names": True})
    space, container = lab("docker"), "c" * 64
    answers: dict[str, Any] = {}
    api = DockerApi(tmp_path / "docker.sock", answers)
    env = shared.env(DOCKER_HOST=f"unix://{tmp_path}/docker.sock")

    def named() -> list[tuple[str, ...]]:
        with shared.host.lifecycle() as lifecycle:
            name_endpoints(lifecycle, kept.networks(env), env)
        return names_in(shared.netctl("ls", "--json"), ("container", "label"))

    shared.docker_run(space)
    assert named() == [(ENDPOINT, "")], "Docker does not know it yet"
    answers[f"/networks/{DOCKER_NETWORK}"] = {
        "Name": "front",
        "Containers": {container: {"Name": "web", "EndpointID": ENDPOINT, "IPv4Address": "10.64.0.2/24"}},
    }
    networks = {"front": {"EndpointID": ENDPOINT, "Aliases": ["www"]}, "other": {"EndpointID": "", "Aliases": None}}
    answers[f"/containers/{container}/json"] = {"Name": "/web", "NetworkSettings": {"Networks": networks}}
    assert named() == [(ENDPOINT, "web")]
    assert written(shared.host)["shop"].splitlines()[1] == f"{ENDPOINT} 10.64.0.2  web,www,{'c' * 12}"
    api.shutdown()
    api.server_close()
