"""Fixtures of the service tests: state directories, services that end with the test, each kind of launcher."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from service_harness import ServiceProcess, overlay

from netdrivers.launcher import build

SANITIZED = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.fixture
def state_dir() -> Iterator[Path]:
    """A directory with a path short enough for a socket."""
    path = Path(tempfile.mkdtemp(prefix="nd-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def start(state_dir: Path) -> Iterator[Callable[..., ServiceProcess]]:
    """Starts services of state_dir."""
    started: list[ServiceProcess] = []

    def begin(*settings: str, **options: object) -> ServiceProcess:
        started.append(ServiceProcess(state_dir, *settings, **options))
        return started[-1]

    yield begin
    for service in started:
        service.end()


@pytest.fixture
def service(start: Callable[..., ServiceProcess]) -> ServiceProcess:
    """A service that is ready."""
    return start().ready()


@pytest.fixture(scope="session", params=["c", "sanitized", "python"])
def bridge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installed executable of the program "bridge": of C as shipped, of C with sanitizers, of Python."""
    return _executable(request.param, "bridge", tmp_path_factory)


@pytest.fixture(scope="session", params=["c", "sanitized", "python"])
def plugin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for a netavark plugin."""
    return _executable(request.param, "netdrivers-bridge", tmp_path_factory)


@pytest.fixture(scope="session", params=["c", "sanitized", "python"])
def hook(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for the OCI hook."""
    return _executable(request.param, "netdrivers-oci-hook", tmp_path_factory)


def _executable(kind: str, program: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp(kind)
    sys_path = overlay(where / "overlay")
    path = where / program
    compiler = build.find_compiler()
    assert compiler, "these tests need a C compiler"
    if kind == "c":
        assert build.write_executable(path, program, sys.executable, sys_path) == "c"
    elif kind == "sanitized":
        assert build.compile_launcher(compiler, path, SANITIZED) == ""
        path.write_bytes(build._patched(path.read_bytes(), program, sys.executable, sys_path))
    else:
        path.write_bytes(build._script(program, sys.executable, sys_path))
        path.chmod(0o755)
    return path


@pytest.fixture
def namespace() -> Iterator[Path]:
    """The path of a fresh network namespace."""
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo; exec sleep 300"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    assert holder.stdout
    assert holder.stdout.readline() == b"\n"
    yield Path(f"/proc/{holder.pid}/ns/net")
    holder.kill()
    holder.communicate()
