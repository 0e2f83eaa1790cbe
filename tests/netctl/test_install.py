"""netctl install and serve: executables that engines can call, units, and a service that does their work."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from netdrivers.frontends.dispatch import PROGRAMS
from netdrivers.launcher.build import inspect
from tests.lab import Host, Namespace, pings
from tests.netctl.runner import Netctl, bridge


def call(host: Host, executable: Path, verb: str, config: dict[str, Any], netns: Namespace, **env: str) -> Any:
    """Run an installed executable as an engine does; its answer."""
    variables = {
        "PATH": os.environ["PATH"],
        "NETDRIVERS_STATE_DIR": str(host.state_dir),
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": netns.path,
        "CNI_IFNAME": "eth0",
        **env,
    }
    done = host.run(str(executable), input=json.dumps(config), env=variables, check=False)
    assert done.returncode == 0, done.stdout
    return json.loads(done.stdout) if done.stdout else None


@pytest.mark.parametrize("compiler", [True, False])
def test_installed_executables_work(netctl: Netctl, container: Namespace, tmp_path: Path, compiler: bool) -> None:
    where = tmp_path / "bin"
    env = {} if compiler else {"PATH": _path_without_compilers(tmp_path)}
    done = netctl.run("install", "--bin-dir", where, "--json", env=env)
    written = json.loads(done.stdout)
    assert [item["program"] for item in written] == list(PROGRAMS)
    assert {item["kind"] for item in written} == {"c" if compiler else "python"}
    config = {"cniVersion": "1.0.0", "name": "net1", **bridge()}
    answer = call(netctl.host, where / "bridge", "ADD", config, container, NETDRIVERS_SERVICE="off")
    assert answer["ips"][0]["address"] == "10.70.0.2/24"
    assert pings(container, "10.70.0.1")
    assert netctl.json("ls")[0]["container"] == "c1"
    call(netctl.host, where / "bridge", "DEL", config, container, NETDRIVERS_SERVICE="off")
    assert "eth0" not in container.links()


def _path_without_compilers(tmp_path: Path) -> str:
    """A PATH with all that the tests need and no C compiler."""
    folder = tmp_path / "path"
    folder.mkdir()
    for name in ("nft", "ip", "sh", "nsenter"):
        found = shutil.which(name)
        assert found
        (folder / name).symlink_to(found)
    return str(folder)


def test_install_again_replaces_ours(netctl: Netctl, tmp_path: Path) -> None:
    where = tmp_path / "bin"
    netctl.ok("install", "--bin-dir", where)
    before = os.stat(where / "bridge").st_ino
    netctl.ok("install", "--bin-dir", where)
    assert os.stat(where / "bridge").st_ino != before
    assert {inspect(where / program).program for program in PROGRAMS} == set(PROGRAMS)  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["script", "link", "directory"])
def test_a_file_that_is_not_ours_is_never_replaced(netctl: Netctl, tmp_path: Path, kind: str) -> None:
    where = tmp_path / "bin"
    where.mkdir()
    victim = where / "macvlan"
    if kind == "script":
        victim.write_text("#!/bin/sh\n# the reference plugin\n")
    elif kind == "link":
        victim.symlink_to("/nowhere")
    else:
        victim.mkdir()
    assert str(victim) in netctl.fails(4, "install", "--bin-dir", where)
    assert os.listdir(where) == ["macvlan"], "nothing was written beside it"


def test_a_place_that_is_no_directory(netctl: Netctl, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "a directory" in netctl.fails(2, "install", "--bin-dir", tmp_path / "file")
    assert "a directory" in netctl.fails(2, "install", "--bin-dir", tmp_path / "file" / "bin")


def test_units(netctl: Netctl, tmp_path: Path) -> None:
    where, unit_dir = tmp_path / "bin", tmp_path / "system"
    written = netctl.json("install", "--bin-dir", where, "--systemd", "--unit-dir", unit_dir)
    assert {item["program"] for item in written if item["kind"] == "unit"} == set(os.listdir(unit_dir))
    assert str(netctl.host.state_dir) in (unit_dir / "netdrivers.service").read_text()
    netctl.ok("install", "--bin-dir", where, "--systemd", "--unit-dir", unit_dir)
    (unit_dir / "netdrivers.socket").write_text("[Socket]\nListenStream=/run/mine\n")
    netctl.fails(4, "install", "--bin-dir", where, "--systemd", "--unit-dir", unit_dir)
    assert "/run/mine" in (unit_dir / "netdrivers.socket").read_text()


def test_the_unit_starts_the_service(netctl: Netctl, tmp_path: Path) -> None:
    netctl.ok("install", "--bin-dir", tmp_path / "bin", "--systemd", "--unit-dir", tmp_path / "system")
    text = (tmp_path / "system" / "netdrivers.service").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("ExecStart="))
    done = netctl.host.run("sh", "-c", f"{line.removeprefix('ExecStart=')} --help", env=netctl.host.env())
    assert "Run the warm service" in done.stdout


class Service:
    """netctl serve on a host, until the test ends."""

    def __init__(self, netctl: Netctl) -> None:
        self.netctl = netctl
        self.process = subprocess.Popen(
            ["nsenter", f"--net={netctl.host.path}", "--", sys.executable, "-m", "netdrivers.netctl", "serve"],
            env=netctl.host.env(),
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 20
        while netctl.run("service", "status").returncode:
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def status(self) -> Any:
        """How it is."""
        return self.netctl.json("service", "status")

    def end(self) -> None:
        """End it, if need be by force."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()


def test_the_service_does_the_executables_work(
    netctl: Netctl, container: Namespace, lab: Callable[..., Namespace], tmp_path: Path
) -> None:
    netctl.ok("install", "--bin-dir", tmp_path / "bin")
    assert "no service" in netctl.run("service", "status").stdout
    service = Service(netctl)
    try:
        config = {"cniVersion": "1.0.0", "name": "net1", **bridge()}
        call(netctl.host, tmp_path / "bin" / "bridge", "ADD", config, container, NETDRIVERS_SERVICE="require")
        assert pings(container, "10.70.0.1")
        assert service.status()["served"] == 1
        assert f"pid {service.process.pid}" in netctl.ok("service", "status")
        (row,) = netctl.json("ls")
        assert row["container"] == "c1"
        netctl.conflist("net1", bridge())
        other = lab("other")
        netctl.ok("add", "net1", other.path)
        assert pings(other, "10.70.0.2"), "netctl's own work and the service's are on one network"
        call(netctl.host, tmp_path / "bin" / "bridge", "DEL", config, container, NETDRIVERS_SERVICE="require")
        (found,) = (item for item in netctl.json("doctor") if item["subject"] == "service")
        assert found["state"] == "ok"
        assert netctl.json("service", "stop")["stopped"] == service.process.pid
        assert service.process.wait(timeout=30) == 0
        assert netctl.json("service", "status", status=3) is None
        netctl.json("service", "stop", status=3)
    finally:
        service.end()


def test_two_services_for_one_state_are_refused(netctl: Netctl) -> None:
    service = Service(netctl)
    try:
        assert "running already" in netctl.fails(4, "serve")
    finally:
        service.end()
