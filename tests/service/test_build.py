"""What writes the executables: which launcher, how ours are known, odd paths; and the units' text."""

from __future__ import annotations

import configparser
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from service_harness import call, facts, overlay

from netdrivers import __version__
from netdrivers.launcher import build
from netdrivers.launcher.build import Executable, inspect, is_ours, write_executable
from netdrivers.service.units import units


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_compiled_and_known_again(tmp_path: Path) -> None:
    path = tmp_path / "bridge"
    assert write_executable(path, "bridge", sys.executable, ["/some/where"]) == "c"
    assert inspect(path) == Executable("c", __version__, "bridge")
    assert path.stat().st_mode & 0o777 == 0o755
    assert list(tmp_path.iterdir()) == [path]


def test_python_without_a_compiler(tmp_path: Path, no_compiler: None) -> None:
    path = tmp_path / "netdrivers-macvlan"
    assert write_executable(path, "netdrivers-macvlan", sys.executable, overlay(tmp_path / "o")) == "python"
    assert inspect(path) == Executable("python", __version__, "netdrivers-macvlan")
    assert facts(call(path, "x", state_dir=tmp_path))["program"] == "netdrivers-macvlan"


def test_python_where_the_compiler_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken-cc"
    broken.write_text("#!/bin/sh\necho no headers >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    assert build.compile_launcher(str(broken), tmp_path / "out") == "no headers\n"
    assert write_executable(tmp_path / "bridge", "bridge", sys.executable, []) == "python"


@pytest.mark.parametrize("kind", ["c", "python"])
def test_an_interpreter_and_modules_at_odd_paths(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    odd = tmp_path / """it's a "path" with \\ and ü"""
    sys_path = overlay(odd / "modules")
    python = odd / "python"
    python.symlink_to(sys.executable)
    if kind == "python":
        request.getfixturevalue("no_compiler")
    path = odd / "bridge"
    assert write_executable(path, "bridge", str(python), sys_path) == kind
    assert is_ours(path)
    got = facts(call(path, "a", "b c", state_dir=tmp_path, stdin=b"abc"))
    assert (got["via"], got["args"], got["size"]) == ("in-process", ["a", "b c"], 3)


def test_paths_beyond_the_block_make_it_python(tmp_path: Path) -> None:
    assert write_executable(tmp_path / "bridge", "bridge", sys.executable, ["/x" * build.BLOCK_SIZE]) == "python"


def test_a_lost_interpreter_is_said(tmp_path: Path) -> None:
    path = tmp_path / "bridge"
    write_executable(path, "bridge", "/nonexistent/python", [])
    done = call(path, state_dir=tmp_path)
    assert done.returncode == 1
    assert b'"code":100' in done.stdout
    assert b"/nonexistent/python" in done.stdout


def test_what_is_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"", b"\x7fELF" + b"\0" * 100, b"#!/bin/sh\necho netdrivers-executable\n", b"\xff" * 2000):
        path.write_bytes(content)
        assert not is_ours(path)
    assert not is_ours(tmp_path / "absent")
    assert not is_ours(tmp_path)
    assert not is_ours(Path("/bin/true"))


def test_an_executable_at_work_can_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "bridge"
    write_executable(path, "bridge", sys.executable, overlay(tmp_path / "o"))
    reader, writer = os.pipe()
    with subprocess.Popen([path], stdin=reader, env={}, stdout=subprocess.PIPE) as running:
        os.close(reader)
        write_executable(path, "host", sys.executable, [])
        os.close(writer)
        assert running.stdout
        assert b'"program": "bridge"' in running.stdout.read()
    assert inspect(path) == Executable("c", __version__, "host")


def test_a_launcher_for_no_name_goes_by_its_own(tmp_path: Path) -> None:
    path = tmp_path / "any"
    write_executable(path, "", sys.executable, overlay(tmp_path / "o"))
    other = tmp_path / "netdrivers-overlay"
    other.symlink_to(path)
    done = call(other, state_dir=tmp_path, NETDRIVERS_SERVICE="require")
    assert done.stdout.startswith(b'{"error":')


def test_the_runtime_path_is_enough_for_a_bare_interpreter() -> None:
    code = f"import sys; sys.path += {build.runtime_path()!a}; import netdrivers.frontends.request"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, cwd="/")


def test_units_say_how_to_start(tmp_path: Path) -> None:
    command = ["/opt/my venv/bin/python", "-I", "-m", "netdrivers", "--with=100%"]
    texts = units(command, Path("/run/netdrivers"))
    assert set(texts) == {"netdrivers.service", "netdrivers.socket"}
    parsed = {}
    for name, text in texts.items():
        parsed[name] = configparser.ConfigParser(interpolation=None)
        parsed[name].read_string(text)
    service = parsed["netdrivers.service"]["Service"]
    assert shlex.split(service["ExecStart"]) == [*command[:-1], "--with=100%%"]
    assert service["Type"] == "notify"
    assert service["Environment"] == "NETDRIVERS_STATE_DIR=/run/netdrivers"
    assert parsed["netdrivers.socket"]["Socket"]["ListenStream"] == "/run/netdrivers/service.sock"
