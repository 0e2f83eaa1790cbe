"""firewalld on the same host: what it reloads and restarts leaves our networks as they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.node import Web, bridge, cni, install, published, run

pytestmark = [pytest.mark.feature("systemd"), pytest.mark.whole]
OUTSIDE = "192.0.2.2"


@pytest.fixture(autouse=True)
def _firewalld() -> Iterator[None]:
    """firewalld with its default zone, and another host on a wire."""
    install()
    run("ip", "netns", "add", "outside")
    run("ip", "link", "add", "out0", "type", "veth", "peer", "name", "out0", "netns", "outside")
    for inside, last in (((), 1), (("-n", "outside"), 2)):
        run("ip", *inside, "addr", "add", f"192.0.2.{last}/24", "dev", "out0")
        run("ip", *inside, "link", "set", "out0", "up")
    run("systemctl", "start", "firewalld")
    yield
    run("systemctl", "stop", "firewalld")
    run("ip", "netns", "del", "outside")


def from_outside(port: int) -> str:
    """What the other host fetches from a published port."""
    command = ["ip", "netns", "exec", "outside", "curl", "-s", "-m", "10", f"http://192.0.2.1:{port}/"]
    return run(*command, check=False).strip()


def test_published_port_outlives_reload_and_restart(tmp_path: Path) -> None:
    run("ip", "netns", "add", "web")
    config = bridge("net", "10.66.0.0/24", **published(8080, 80))
    result = cni("ADD", config, "web")
    server = Web("web", "hello", tmp_path)
    try:
        assert run("firewall-cmd", "--state").strip() == "running"
        assert from_outside(8080) == "hello"
        # What its default zone rejects is the containers' own way out; that is said once, as an administrator does.
        run("firewall-cmd", "--permanent", "--zone=trusted", "--add-interface=br-net")
        for command in (
            ("firewall-cmd", "--reload"),
            ("firewall-cmd", "--complete-reload"),
            ("systemctl", "restart", "firewalld"),
        ):
            run(*command)
            assert from_outside(8080) == "hello", " ".join(command)
            assert run("ip", "netns", "exec", "web", "ping", "-c", "1", "-W", "3", OUTSIDE), "and the way out"
            cni("CHECK", {**config, "prevResult": result}, "web")
    finally:
        server.close()
        run("firewall-cmd", "--permanent", "--zone=trusted", "--remove-interface=br-net", check=False)
        cni("DEL", config, "web")
        run("ip", "netns", "del", "web")
        run("netctl", "gc")
