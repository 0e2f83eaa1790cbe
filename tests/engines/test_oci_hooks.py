"""runc, crun, LXC, Podman and systemd-nspawn on our bridge: by the OCI hook, and by netctl where there is no hook."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from . import podman
from .bundles import HOOK, LOG, ROOT, SERVER, bundle, unpack
from .conftest import MakeHost
from .harness import HOST4, OUTSIDE4, EngineHost, environment, eventually
from .image import HELLO, WEB
from .needs import program
from .service import serving
from .snapshot import unchanged

RUNTIMES = ("runc", "crun")

LXC = f"""
lxc.uts.name = NAME
lxc.rootfs.path = dir:{ROOT}
lxc.init.cmd = /bin/{" ".join(SERVER)}
lxc.net.0.type = empty
lxc.hook.version = 1
lxc.hook.start-host = {HOOK} OPTIONS
lxc.hook.post-stop = {HOOK}
"""

PODMAN_HOOK = f"""{{
    "version": "1.0.0",
    "hook": {{"path": "{HOOK}"}},
    "when": {{"annotations": {{"^netdrivers/network$": ".*"}}}},
    "stages": ["createRuntime", "poststop"]
}}
"""


@pytest.fixture(scope="module")
def host(engine_host: MakeHost) -> EngineHost:
    """With runc and crun, LXC and systemd-nspawn where the machine has them."""
    made = engine_host("runc", r"runc version", "debian12")
    # crun does not take both kinds of cgroups side by side.
    made.run("umount", "/sys/fs/cgroup/unified", check=False)
    unpack(made)
    ready(made)
    return made


@pytest.fixture(scope="module")
def podman_host(engine_host: MakeHost) -> EngineHost:
    made = engine_host("podman", r"version 4\.3\.", "debian12")
    podman.configure(made)
    made.write("/etc/containers/oci/hooks.d/netdrivers.json", PODMAN_HOOK)
    ready(made)
    return made


def ready(host: EngineHost) -> None:
    """Two named networks, one of which is up: its bridge stays for the next container."""
    host.machine("netctl", "network", "create", "shop", "--subnet", "10.88.7.0/24", "--subnet", "fd00:88:7::/64")
    host.machine("netctl", "network", "create", "yard", "--subnet", "10.88.8.0/24")
    host.machine("ip", "netns", "add", "first")
    for network, ifname in (("shop", "eth0"), ("yard", "eth1")):
        host.machine("netctl", "add", network, "first", "--ifname", ifname)
        host.machine("netctl", "del", network, "first", "--ifname", ifname)
    host.machine("ip", "netns", "del", "first")


@pytest.fixture
def kept(host: EngineHost) -> Iterator[None]:
    """What a test starts is gone after it, and the host's network and our leases are as before."""
    with unchanged(host):
        yield


def run(host: EngineHost, runtime: str, name: str, phase: str = "createRuntime", **annotations: str) -> None:
    """Start a container."""
    host.engine(runtime, "run", "--detach", "--bundle", bundle(host, name, phase, **annotations), name)


def inside(host: EngineHost, runtime: str, name: str, *argv: str) -> str:
    """What a command in a container prints."""
    return host.engine(runtime, "exec", name, *argv)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("phase", ["createRuntime", "prestart"])
@pytest.mark.usefixtures("kept")
def test_runtime_serves_on_a_published_port(host: EngineHost, runtime: str, phase: str) -> None:
    run(host, runtime, "web", phase, network="shop", publish="8080:80", ip="10.88.7.77", mac="02:11:22:33:44:55")
    assert host.fetch(HOST4, 8080) == HELLO
    assert host.fetch(HOST4, 8080, "/cgi-bin/peer") == f"[::ffff:{OUTSIDE4}]"
    assert host.fetch("127.0.0.1", 8080, where="machine") == HELLO
    assert host.fetch("10.88.7.77", 80, where="machine") == HELLO
    assert "02:11:22:33:44:55" in inside(host, runtime, "web", "ip", "link", "show", "eth0")
    host.engine(runtime, "delete", "--force", "web")
    assert host.fetch(HOST4, 8080, seconds=0) == ""


@pytest.mark.usefixtures("kept")
def test_containers_of_two_runtimes_reach_each_other(host: EngineHost) -> None:
    run(host, "runc", "one", network="shop", ip="10.88.7.11")
    run(host, "crun", "two", network="shop,yard", ip="10.88.7.12")
    for runtime, name, address in (("runc", "one", "10.88.7.12"), ("crun", "two", "10.88.7.11")):
        got = eventually(
            lambda runtime=runtime, name=name, address=address: (
                host.run(runtime, "exec", name, "wget", "-q", "-O", "-", f"http://{address}/", check=False).stdout
            )
        )
        assert got.strip() == HELLO
    shown = inside(host, "crun", "two", "ip", "address")
    assert "inet 10.88.8." in shown
    for runtime, name in (("runc", "one"), ("crun", "two")):
        host.engine(runtime, "delete", "--force", name)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.usefixtures("kept")
def test_runtime_shows_why_a_container_does_not_start(host: EngineHost, runtime: str) -> None:
    failed = host.run(runtime, "run", "--detach", "--bundle", bundle(host, "web", network="shpo"), "web", check=False)
    assert failed.returncode
    assert "no network 'shpo' in /etc/netdrivers/networks.d (did you mean shop?)" in (
        failed.stderr if runtime == "runc" else host.engine("cat", LOG)
    )
    host.run(runtime, "delete", "--force", "web", check=False)


@pytest.mark.usefixtures("kept")
def test_service_does_the_work_and_may_die_at_any_time(host: EngineHost) -> None:
    with serving(host) as service:
        run(host, "runc", "web", network="shop", publish="8080:80")
        assert host.fetch(HOST4, 8080) == HELLO
        assert service.served() == 1
        service.kill()
    assert host.fetch(HOST4, 8080) == HELLO
    host.engine("runc", "delete", "--force", "web")
    assert host.fetch(HOST4, 8080, seconds=0) == ""


@pytest.mark.usefixtures("kept")
def test_lxc(host: EngineHost) -> None:
    program("lxc-start")
    for name, options in (("web", "--network shop -p 8080:80 --ip 10.88.7.9"), ("bad", "--network shpo")):
        host.write(f"/run/lxc/{name}/config", LXC.replace("NAME", name).replace("OPTIONS", options))
    start = ("lxc-start", "--lxcpath", "/run/lxc", "--name")
    for _ in range(2):  # the address is free again
        host.engine(*start, "web")
        assert host.fetch(HOST4, 8080) == HELLO
        assert "10.88.7.9" in host.engine("lxc-info", "--lxcpath", "/run/lxc", "--name", "web")
        assert '"lxc"' in host.machine("netctl", "ls", "--json")
        host.engine("lxc-stop", "--lxcpath", "/run/lxc", "--kill", "--name", "web")
        assert eventually(lambda: host.fetch(HOST4, 8080, seconds=0), lambda said: not said) == ""
    failed = host.run(*start, "bad", "--logfile", "/run/lxc/log", "--logpriority", "DEBUG", check=False)
    assert failed.returncode
    assert "did you mean shop?" in host.path("/run/lxc/log").read_text()


@pytest.mark.usefixtures("kept")
def test_systemd_nspawn(host: EngineHost) -> None:
    program("systemd-nspawn")
    host.engine("mkdir", "-p", f"{ROOT}/usr")  # without it nspawn takes the directory for no system
    host.engine("ip", "netns", "add", "box")
    host.machine("netctl", "add", "shop", "box", "--publish", "8080:80")
    space = ("--network-namespace-path=/run/netns/box", "--register=no", "--keep-unit", "--as-pid2")
    argv = host.command(("systemd-nspawn", "--quiet", *space, "--directory", ROOT, f"/bin/{SERVER[0]}", *SERVER[1:]))
    quiet = subprocess.DEVNULL
    container = subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=quiet, env=environment())
    assert host.fetch(HOST4, 8080) == HELLO
    host.machine("netctl", "del", "shop", "box")
    assert host.fetch(HOST4, 8080, seconds=0) == ""
    host.engine("pkill", "-x", "httpd")
    container.wait(timeout=30)
    host.engine("ip", "netns", "del", "box")


def test_podman_hooks_dir(podman_host: EngineHost) -> None:
    host = podman_host
    with unchanged(host):
        wired = ("--network", "none", "--annotation", "netdrivers/network=shop")
        host.engine(
            "podman", "--hooks-dir", "/etc/containers/oci/hooks.d", "run", "--detach", "--pull", "never",
            "--name", "web", *wired, "--annotation", "netdrivers/publish=8080:80", WEB,
        )  # fmt: skip
        assert host.fetch(HOST4, 8080) == HELLO
        assert "inet 10.88.7." in host.engine("podman", "exec", "web", "ip", "address", "show", "dev", "eth0")
        podman.serve(host, "plain", "--network", "none")
        assert "eth0" not in host.engine("podman", "exec", "plain", "ip", "link")
        podman.remove(host, "web", "plain")
        assert host.fetch(HOST4, 8080, seconds=0) == ""
