"""One network with a container of Docker, of Podman, of containerd and of ``ip netns``: all talk, by name; all goes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from itertools import permutations

import pytest

from netdrivers.names import server

from . import containerd, docker, podman
from .conftest import MakeHost
from .harness import BIN_DIR, EngineHost, answered, eventually
from .image import WEB
from .needs import needs
from .snapshot import unchanged
from .test_engine_pages import follow

FRONT = {
    "cniVersion": "1.0.0",
    "name": "front",
    "plugins": [
        {
            "type": "bridge",
            "network": "shop",
            "capabilities": {"portMappings": True, "ips": True, "mac": True, "aliases": True},
        }
    ],
}
GATEWAY = "10.90.0.1"
SUBNET = "10.90.0.0/24"
RESOLVER = f"nameserver {GATEWAY}\nsearch netdrivers.internal\n"
NETAVARK = f"""
[network]
network_backend = "netavark"
netavark_plugin_dirs = ["{BIN_DIR}"]
"""
DEBIAN12 = (("dockerd", r"version 20\.10\."), ("podman", r"version 4\.3\."), ("containerd", r" v?1\.6\."))
DEBIAN13 = (("dockerd", r"version 26\.1\."), ("podman", r"version 5\."), ("containerd", r" v?1\.7\."))
ALL = ("from-docker", "from-podman", "from-containerd", "from-netns")

Ask = Callable[[str], str]
"""What a URL answers, asked from within a container."""


@pytest.fixture(scope="module", params=["debian12", "debian13"])
def host(request: pytest.FixtureRequest, engine_host: MakeHost) -> Iterator[EngineHost]:
    """Docker, Podman and containerd of one Debian release on one host, with our service."""
    if server.executable() is None:
        needs("aardvark-dns", "containers' names resolve through it")
    first, *others = DEBIAN12 if request.param == "debian12" else DEBIAN13
    made = engine_host(first[0], first[1], request.param, *others)
    docker.serve(made)
    docker.start(made)
    docker.load(made)
    containerd.start(made)
    podman.configure(made, podman.CNI if request.param == "debian12" else NETAVARK)
    # ctr looks only in its built-in directories.
    made.engine("sh", "-c", f"mkdir -p /opt/cni && ln -s {BIN_DIR} /opt/cni/bin")
    made.write("/etc/cni/net.d/10-front.conflist", json.dumps(FRONT))
    made.write("/run/resolv.conf", RESOLVER)
    yield made
    made.close()


@contextlib.contextmanager
def by_docker(host: EngineHost, name: str) -> Iterator[Ask]:
    """A container of Docker. Its resolver is Docker's own, which is told where to ask for what it does not know."""
    docker.network(host, "dock", "--opt", "network=shop", "--ipam-driver", "null")
    docker.run(host, name, "--network", "dock", "--dns", GATEWAY, "--network-alias", "harbour")
    yield lambda url: docker.get(host, name, url)
    docker.remove(host, name)
    host.engine("docker", "network", "rm", "dock")


@contextlib.contextmanager
def by_podman(host: EngineHost, name: str) -> Iterator[Ask]:
    """A container of Podman, which writes the resolver's file by itself: through CNI, or through a netavark plugin."""
    plugin = "cni_plugin_dirs" not in host.path("/etc/containers/containers.conf").read_text()
    if plugin:
        host.engine("podman", "network", "create", "-d", "netdrivers-bridge", "--opt", "network=shop", "front")
    podman.serve(host, name, "--network", "front", "--network-alias", "pod")
    yield lambda url: podman.get(host, name, url)
    podman.remove(host, name)
    if plugin:
        host.engine("podman", "network", "rm", "front")


@contextlib.contextmanager
def by_containerd(host: EngineHost, name: str) -> Iterator[Ask]:
    """A container of ctr, which writes no resolver's file: it is mounted."""
    mount = "type=bind,src=/run/resolv.conf,dst=/etc/resolv.conf,options=rbind:ro"
    with containerd.ctr_run(host, name, "--mount", mount):
        yield lambda url: containerd.ctr_get(host, name, url)


@contextlib.contextmanager
def by_netns(host: EngineHost, name: str) -> Iterator[Ask]:
    """A namespace of ``ip netns``, whose resolver's file ip netns mounts."""
    host.machine("ip", "netns", "add", "space")
    said = host.machine("netctl", "add", "shop", "space", "--name", name, "--alias", "box")
    assert f"nameserver {GATEWAY}, search netdrivers.internal" in said
    host.machine("sh", "-c", "mkdir -p /etc/netns/space /run/www && cp /run/resolv.conf /etc/netns/space/")
    host.machine("sh", "-c", f"echo {name} > /run/www/index.html")
    inside = ("ip", "netns", "exec", "space")
    host.machine(*inside, "busybox", "httpd", "-p", "80", "-h", "/run/www")
    yield lambda url: answered(lambda: host.machine(*inside, "curl", "--silent", "--fail", "--max-time", "5", url))
    host.machine("sh", "-c", "kill $(ip netns pids space)")
    host.machine("netctl", "del", "shop", "space")
    host.machine("ip", "netns", "del", "space")


def write_page(host: EngineHost, name: str) -> None:
    """Each says its own name."""
    page = ("sh", "-c", f"echo {name} > /www/index.html")
    if name == "from-docker":
        host.engine("docker", "exec", name, *page)
    elif name == "from-podman":
        host.engine("podman", "exec", name, *page)
    elif name == "from-containerd":
        containerd.ctr_exec(host, name, *page)


def test_all_of_them_on_one_network(host: EngineHost) -> None:
    ways = dict(zip(ALL, (by_docker, by_podman, by_containerd, by_netns), strict=True))
    with unchanged(host):
        host.machine("netctl", "network", "create", "shop", "--subnet", SUBNET)
        with contextlib.ExitStack() as running:
            ask = {name: running.enter_context(way(host, name)) for name, way in ways.items()}
            for name in ALL:
                write_page(host, name)
            rows = eventually(lambda: listed(host), lambda rows: {row["label"] for row in rows} == set(ALL))
            assert {(row["network"], row["engine"], row["label"]) for row in rows} == {
                ("shop", "docker", "from-docker"),
                ("shop", "podman", "from-podman"),
                ("shop", "containerd", "from-containerd"),
                ("shop", "netctl", "from-netns"),
            }
            addresses = {row["label"]: row["addresses"][0].partition("/")[0] for row in rows}
            assert len(set(addresses.values())) == 4
            assert all(address.startswith("10.90.0.") for address in addresses.values())
            for here, there in permutations(ALL, 2):
                assert ask[here](f"http://{addresses[there]}/") == there
                assert ask[here](f"http://{there}/") == there, f"{here} finds {there}"
            for alias, whose in (("harbour", "from-docker"), ("pod", "from-podman"), ("box", "from-netns")):
                assert ask["from-containerd"](f"http://{alias}/") == whose
        assert listed(host) == []
        eventually(lambda: name_servers(host), lambda found: found == "")
        assert name_servers(host) == ""
        host.machine("netctl", "gc")
        host.machine("netctl", "network", "rm", "shop")


@pytest.mark.parametrize("host", ["debian12"], indirect=True)
def test_the_page_of_one_network(host: EngineHost) -> None:
    """The index of the engines' pages, which is written for the engines of Debian 12."""
    host.engine("docker", "tag", WEB, "busybox")
    with unchanged(host):
        follow(host, "README.md")


def test_the_page_of_names(host: EngineHost) -> None:
    with unchanged(host):
        follow(host, "../names.md")


def listed(host: EngineHost) -> list[dict[str, object]]:
    """netctl's view."""
    rows: list[dict[str, object]] = json.loads(host.machine("netctl", "ls", "--json"))
    return rows


def name_servers(host: EngineHost) -> str:
    """The processes of aardvark-dns on the host."""
    return host.run("pgrep", "-x", "aardvark-dns", where="machine", check=False).stdout
