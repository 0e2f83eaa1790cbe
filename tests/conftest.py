"""Fixtures of every test: the machine is the same before and after, hosts and containers are fresh namespaces."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from netdrivers.kernel.host import Fault
from tests.docker_side import Docker
from tests.lab import Host, Namespace, snapshot, wire
from tests.overlay_lab import World


def _run_here(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True)


@pytest.fixture(scope="session", autouse=True)
def machine_unchanged() -> Iterator[None]:
    """The machine's own links, addresses, routes and rules are the same after the tests as before."""
    before = snapshot(_run_here)
    yield
    assert snapshot(_run_here) == before


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Callable[..., Namespace]]:
    """Makes namespaces that go with the test; Host where ``host=True``."""
    made: list[Namespace] = []

    def make(name: str, host: bool = False) -> Namespace:
        namespace = Host(name, tmp_path / f"state-{name}") if host else Namespace(name, loopback=False)
        made.append(namespace)
        return namespace

    yield make
    for namespace in made:
        namespace.close()


@pytest.fixture
def host(lab: Callable[..., Namespace]) -> Host:
    """A test host without any other device."""
    made = lab("host", host=True)
    assert isinstance(made, Host)
    return made


@pytest.fixture
def outside(lab: Callable[..., Namespace], host: Host) -> Namespace:
    """A second test host on a wire: it has 192.0.2.2 and 2001:db8:1::2, our host .1 and its default route."""
    other = lab("outside", host=True)
    wire(host, "wire0", other, "wire0")
    for namespace, last in ((host, 1), (other, 2)):
        namespace.run("ip", "addr", "add", f"192.0.2.{last}/24", "dev", "wire0")
        namespace.run("ip", "addr", "add", f"2001:db8:1::{last}/64", "dev", "wire0", "nodad")
    for namespace, last in ((host, 1), (other, 2)):
        for _ in range(200):  # the kernel makes an IPv6 address usable a moment later
            if f"2001:db8:1::{last}" in namespace.run("ip", "-6", "route", "show", "table", "local").stdout:
                break
            time.sleep(0.02)
    host.run("ip", "route", "add", "default", "via", "192.0.2.2")
    host.run("ip", "-6", "route", "add", "default", "via", "2001:db8:1::2")
    return other


@pytest.fixture
def container(lab: Callable[..., Namespace]) -> Namespace:
    """An empty container namespace, loopback down as engines make it."""
    return lab("container")


@pytest.fixture
def dockers(host: Host, tmp_path: Path) -> Iterator[Callable[..., Docker]]:
    """Makes dockerds on the host, each with a plugin of ours; all plugins keep their data in one directory."""
    made: list[Docker] = []

    def make(driver: str = "bridge", fault: Fault | None = None) -> Docker:
        made.append(Docker(host, tmp_path / "data", driver, fault))
        return made[-1]

    yield make
    for docker in made:
        docker.close()


@pytest.fixture
def docker(dockers: Callable[..., Docker]) -> Docker:
    """A dockerd on the host with the bridge plugin."""
    return dockers()


@pytest.fixture
def world(lab: Callable[..., Namespace], tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Makes hosts with services and an etcd cluster; their processes end with the test."""
    made: list[World] = []

    def make(**settings: Any) -> World:
        made.append(World(lab, tmp_path, **settings))
        return made[-1]

    yield make
    for item in made:
        item.close()


def _skips(terminalreporter: pytest.TerminalReporter) -> dict[str, int]:
    """How many tests were skipped for want of each thing ("needs THING: why")."""
    found: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        words = reason.removeprefix("Skipped: ")
        thing = words[6:].partition(":")[0] if words.startswith("needs ") else words
        found[thing] = found.get(thing, 0) + 1
    return found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was skipped and for want of what."""
    for thing, count in sorted(_skips(terminalreporter).items()):
        terminalreporter.write_line(f"skipped {count} for want of {thing}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A skip for want of something that this machine has is a failure (NETDRIVERS_MUST_RUN)."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    must = set(os.environ.get("NETDRIVERS_MUST_RUN", "").split())
    wrong = must & set(_skips(reporter)) if reporter else set()
    if wrong:
        print(f"\nskipped although this machine has it: {', '.join(sorted(wrong))}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
