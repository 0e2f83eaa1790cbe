"""A real reboot with containers attached: nothing of before is left, and all that was taken is free."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.vm.conftest import STATE
from tests.vm.node import SERVICE, SOCKET, Web, bridge, cni, fetched, install, netctl, published, run, unit

pytestmark = pytest.mark.feature("a reboot")
KEPT = STATE / "before.json"
CONFIG = bridge("lan", "10.62.0.0/24", **published(8080, 80))
PLAIN = bridge("lan", "10.62.0.0/24")
NAMED = Path("/etc/netdrivers/networks.d/shop.json")


def boot_id() -> str:
    """The kernel's id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.mark.last
def test_containers_are_attached_when_the_node_goes_down(tmp_path: Path) -> None:
    install()
    for name in ("web", "two", "three"):
        run("ip", "netns", "add", name)
    first = cni("ADD", CONFIG, "web")
    cni("ADD", PLAIN, "two")
    NAMED.unlink(missing_ok=True)
    run("netctl", "network", "create", "shop", "--subnet", "10.63.0.0/24")
    run("netctl", "add", "shop", "three", "-p", "8081:81")
    server = Web("web", "before", tmp_path)
    try:
        assert fetched("10.77.0.11", 8080) == "before"
    finally:
        server.close()
    assert len(netctl("ls")) == 3
    KEPT.write_text(json.dumps({"boot": boot_id(), "first": first}))
    (STATE / "reboot").touch()


@pytest.fixture(scope="module")
def before() -> dict[str, Any]:
    """What the first boot wrote down."""
    found: dict[str, Any] = json.loads(KEPT.read_text())
    assert found["boot"] != boot_id(), "the node was not rebooted"
    return found


@pytest.mark.boot(2)
def test_nothing_is_stale_and_nothing_runs_before_it_is_called(before: dict[str, Any]) -> None:
    links = run("ip", "-br", "link")
    assert not [word for word in ("br-lan", "shop", "veth", "ndvl", "ndsh") if word in links], links
    assert run("nft", "list", "ruleset") == ""
    assert not Path("/run/netns").exists() or not os.listdir("/run/netns")
    assert netctl("ls") == []
    assert netctl("check") == []
    assert (unit(SOCKET), unit(SERVICE)) == ("active", "inactive"), "by the boot, for the first call"


@pytest.mark.boot(2)
def test_named_network_is_there_for_the_first_that_asks(before: dict[str, Any], tmp_path: Path) -> None:
    assert [item["name"] for item in netctl("network", "ls")] == ["shop"]
    run("ip", "netns", "add", "three")
    run("netctl", "add", "shop", "three", "-p", "8081:81")
    server = Web("three", "shop again", tmp_path, port=81)
    try:
        assert fetched("10.77.0.11", 8081) == "shop again"
    finally:
        server.close()
    run("netctl", "del", "shop", "three")


@pytest.mark.boot(2)
def test_a_container_of_before_can_be_deleted_and_added_anew(before: dict[str, Any], tmp_path: Path) -> None:
    """Engines do both: DEL of what they remember, and the same container's ADD; its address and port are free."""
    cni("DEL", {**CONFIG, "prevResult": before["first"]}, "web", CNI_NETNS="")
    run("ip", "netns", "add", "web")
    again = cni("ADD", CONFIG, "web", NETDRIVERS_SERVICE="require")
    assert unit(SERVICE) == "active", "the boot's socket started it"
    assert again["ips"][0]["address"] == before["first"]["ips"][0]["address"] == "10.62.0.2/24"
    server = Web("web", "after", tmp_path)
    try:
        assert fetched("10.77.0.11", 8080) == "after"
    finally:
        server.close()
    cni("DEL", CONFIG, "web")
    run("ip", "netns", "del", "web")
    run("netctl", "gc")
    assert [item for item in netctl("network", "ls") if item["name"] == "lan"] == []
