"""Podman with our netavark plugin and Docker with our driver, as Debian starts them, on one network; then a reboot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.image import HELLO, WEB, archive
from tests.vm.conftest import BOOT, STATE
from tests.vm.node import BIN, SERVICE, fetched, install, netctl, run, until

pytestmark = [pytest.mark.feature("systemd"), pytest.mark.whole]
CONTAINERS = Path("/etc/containers/containers.conf.d/50-netdrivers.conf")
ADDRESS = "10.77.0.11"


@pytest.fixture(scope="module", autouse=True)
def _engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Both engines up, with one image, as the manuals say; at the next boot only where a test waits for it."""
    install()
    run("systemctl", "enable", "--now", SERVICE)
    CONTAINERS.parent.mkdir(parents=True, exist_ok=True)
    CONTAINERS.write_text(f'[network]\nnetwork_backend = "netavark"\nnetavark_plugin_dirs = ["{BIN}"]\n')
    run("systemctl", "enable", "--now", "containerd.service", "docker.service")
    image = archive(tmp_path_factory.mktemp("image") / "web.tar", WEB, ["httpd", "-f", "-p", "80", "-h", "/www"])
    for engine in ("docker", "podman"):
        if WEB not in run(engine, "image", "ls", "--format", "{{.Repository}}:{{.Tag}}"):
            run(engine, "load", "--quiet", "--input", str(image))
    yield
    if BOOT == 1:
        run("systemctl", "disable", "--now", "docker.service", "docker.socket", "containerd.service", SERVICE)


def rows() -> dict[str, dict[str, object]]:
    """What netctl says of the containers, by their names."""
    return {item["label"]: item for item in netctl("ls")}


@pytest.fixture
def networks() -> Iterator[None]:
    """One named network that both engines know by a name of their own."""
    run("netctl", "network", "create", "yard", "--subnet", "10.64.0.0/24")
    options = ("-d", "netdrivers-bridge", "--opt", "network=yard")
    run("docker", "network", "create", *options, "--ipam-driver", "null", "dock")
    run("podman", "network", "create", *options, "front")
    yield
    run("docker", "network", "rm", "dock")
    run("podman", "network", "rm", "front")
    run("netctl", "network", "rm", "yard")


def test_podman_and_docker_share_a_network(networks: None) -> None:
    run("docker", "run", "-d", "--name", "ship", "--network", "dock", "-p", "8082:80", WEB)
    run("podman", "run", "-d", "--name", "pod", "--network", "front", "-p", "8083:80", WEB)
    try:
        until(lambda: set(rows()) == {"ship", "pod"}, "both are known by their names")
        found = rows()
        assert {(name, item["engine"], item["network"]) for name, item in found.items()} == {
            ("ship", "docker", "yard"),
            ("pod", "podman", "yard"),
        }
        ips = {name: str(item["addresses"][0]).partition("/")[0] for name, item in found.items()}  # type: ignore[index]
        assert run("docker", "exec", "ship", "wget", "-q", "-O", "-", f"http://{ips['pod']}/").strip() == HELLO
        assert run("podman", "exec", "pod", "wget", "-q", "-O", "-", f"http://{ips['ship']}/").strip() == HELLO
        assert [fetched(ADDRESS, port).strip() for port in (8082, 8083)] == [HELLO, HELLO]
        run("nft", "flush", "ruleset")
        netctl("reload")
        assert [fetched(ADDRESS, port).strip() for port in (8082, 8083)] == [HELLO, HELLO]
    finally:
        run("docker", "rm", "-f", "ship")
        run("podman", "rm", "-f", "-t", "0", "pod")
    assert netctl("ls") == []


@pytest.mark.boot(2)
@pytest.mark.last
def test_docker_has_a_container_to_start_at_boot() -> None:
    run("docker", "network", "create", "-d", "netdrivers-bridge", "--subnet", "10.65.0.0/24", "pier")
    run("docker", "run", "-d", "--name", "stay", "--restart", "always", "--network", "pier", "-p", "8084:80", WEB)
    assert fetched(ADDRESS, 8084).strip() == HELLO
    before = json.loads(run("docker", "network", "inspect", "pier"))[0]["Id"]
    (STATE / "pier").write_text(before)
    (STATE / "reboot").touch()


@pytest.mark.feature("a reboot")
@pytest.mark.boot(3)
def test_docker_started_it_again_and_it_is_published() -> None:
    """Docker tells of a network once, and not again after a reboot."""
    until(lambda: fetched(ADDRESS, 8084, tries=1).strip() == HELLO, "it answers", 240)
    assert json.loads(run("docker", "network", "inspect", "pier"))[0]["Id"] == (STATE / "pier").read_text()
    assert rows()["stay"]["state"] == "attached"
    run("docker", "rm", "-f", "stay")
    run("docker", "network", "rm", "pier")
    assert netctl("ls") == []
