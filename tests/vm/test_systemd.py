"""The units under a real systemd: socket activation, the watchdog, restarts amid calls, a flushed ruleset."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.vm.node import SERVICE, SOCKET, Web, bridge, cni, fetched, install, netctl, published, run, unit, until

pytestmark = pytest.mark.feature("systemd")
Names = Callable[[str], str]


@pytest.fixture(scope="module", autouse=True)
def _units() -> Iterator[None]:
    install()
    yield
    run("systemctl", "disable", "--now", SOCKET, SERVICE)


@pytest.fixture
def container() -> Iterator[Names]:
    """Makes a namespace of ip-netns(8), which goes with the test."""
    made: list[str] = []

    def make(name: str) -> str:
        run("ip", "netns", "add", name)
        made.append(name)
        return name

    yield make
    for name in made:
        run("ip", "netns", "del", name)
    run("netctl", "gc")
    assert netctl("ls") == []


def pid() -> int:
    """The service's process, 0 when it does not run."""
    return int(unit(SERVICE, "MainPID"))


def test_first_call_starts_the_service(container: Names) -> None:
    run("systemctl", "stop", SERVICE)
    assert (unit(SOCKET), unit(SERVICE)) == ("active", "inactive")
    config = bridge("net", "10.61.0.0/24")
    result = cni("ADD", config, container("c1"))
    until(lambda: unit(SERVICE) == "active", "the service is up")
    before = netctl("service", "status")
    assert before["pid"] == pid()
    cni("CHECK", {**config, "prevResult": result}, "c1", NETDRIVERS_SERVICE="require")
    assert netctl("service", "status")["served"] == before["served"] + 1
    assert run("ip", "netns", "exec", "c1", "ping", "-c", "1", "-W", "2", "10.61.0.1")
    cni("DEL", config, "c1", NETDRIVERS_SERVICE="require")


def test_unit_is_well_formed_and_unprivileged_where_it_can_be() -> None:
    files = [f"/etc/systemd/system/{name}" for name in (SOCKET, SERVICE)]
    assert run("systemd-analyze", "verify", *files).strip() == ""
    assert unit(SERVICE, "NoNewPrivileges") == "yes"
    assert oct(Path("/run/netdrivers/service.sock").stat().st_mode & 0o777) == "0o600"


def test_watchdog_restarts_a_service_that_hangs(container: Names) -> None:
    """A call in the meantime gives the silent service up after some seconds, and does the work by itself."""
    limits = Path(f"/run/systemd/system/{SERVICE}.d/quick.conf")
    limits.parent.mkdir(parents=True, exist_ok=True)
    limits.write_text("[Service]\nWatchdogSec=10\n")
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", SERVICE)
    hung = pid()
    os.kill(hung, signal.SIGSTOP)
    try:
        result = cni("ADD", bridge("net", "10.61.0.0/24"), container("c1"))
        assert result["ips"][0]["address"].startswith("10.61.0.")
        until(lambda: pid() not in (0, hung), "a new process")
        until(lambda: netctl_served() is not None, "the new one answers")
        assert unit(SERVICE, "NRestarts") == "1"
        cni("CHECK", {**bridge("net", "10.61.0.0/24"), "prevResult": result}, "c1", NETDRIVERS_SERVICE="require")
    finally:
        limits.unlink()
        run("systemctl", "daemon-reload")
        run("systemctl", "restart", SERVICE)


def netctl_served() -> int | None:
    """Calls that the service has answered, None when there is no service."""
    said = run("netctl", "service", "status", "--json", check=False)
    return None if said.strip() in ("", "null") else netctl("service", "status")["served"]


def test_restarts_in_a_storm_of_adds_lose_no_call(container: Names) -> None:
    names = [container(f"s{i}") for i in range(16)]
    config = bridge("net", "10.61.0.0/24")
    first = pid()
    with ThreadPoolExecutor(5) as pool:
        adds = [pool.submit(cni, "ADD", config, name) for name in names]
        for _ in range(3):
            run("systemctl", "restart", SERVICE)
        results = {name: add.result() for name, add in zip(names, adds, strict=True)}
    assert pid() not in (0, first)
    addresses = {result["ips"][0]["address"] for result in results.values()}
    assert len(addresses) == len(names), "no address twice"
    for name in names[::5]:
        cni("CHECK", {**config, "prevResult": results[name]}, name)
    assert len(netctl("ls")) == len(names)
    with ThreadPoolExecutor(5) as pool:
        dels = [pool.submit(cni, "DEL", config, name) for name in names]
        run("systemctl", "restart", SERVICE)
        for done in dels:
            done.result()
    assert netctl("ls") == []


def test_flushed_ruleset_is_mended_by_reload(container: Names, tmp_path: Path) -> None:
    config = bridge("net", "10.61.0.0/24", **published(8080, 80))
    result = cni("ADD", config, container("web"))
    server = Web("web", "hello", tmp_path)
    try:
        assert fetched("10.77.0.11", 8080) == "hello"
        run("nft", "flush", "ruleset")
        assert fetched("10.77.0.11", 8080, tries=1) == ""
        with pytest.raises(AssertionError, match="table missing"):
            run("netctl", "check")
        assert netctl("reload")
        assert fetched("10.77.0.11", 8080) == "hello"
        cni("CHECK", {**config, "prevResult": result}, "web")
    finally:
        server.close()
    cni("DEL", {**config, "prevResult": result}, "web")
