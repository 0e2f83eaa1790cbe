"""What the service tests share: a service process with a handler of ours, and executables that reach it.

Run as a program it is the service: ``service_harness.py STATE_DIR [SETTING=NUMBER...]``.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from netdrivers.frontends.request import Request, Response
from netdrivers.service import client

REPO = Path(__file__).resolve().parents[2]
OWN_SPACE = Path("/proc/self/ns/net")

IN_PROCESS = """
import hashlib, json, os, sys
def main(program):
    stdin = b"" if os.isatty(0) else sys.stdin.buffer.read()
    print(json.dumps(dict(via="in-process", program=program, args=sys.argv[1:], size=len(stdin),
        digest=hashlib.sha256(stdin).hexdigest(), env=dict(os.environ), flags=[sys.flags.isolated, sys.flags.no_site],
        descriptors=sorted(map(int, os.listdir("/proc/self/fd")))[:-1])))
    return 7 if sys.argv[1:2] == ["seven"] else 0
"""


def handle(request: Request) -> Response:
    """The test handler; the first argument says what it does."""
    match request.args:
        case ("sleep", seconds, *_):
            time.sleep(float(seconds))
        case ("say", code, stdout, stderr):
            return Response(int(code), os.fsencode(stdout), os.fsencode(stderr))
        case ("big", size):
            return Response(0, b"x" * int(size))
        case ("raise",):
            raise RuntimeError("told to")
        case ("die",):
            os.kill(os.getpid(), 9)
    facts = {
        "via": "service",
        "pid": os.getpid(),
        "program": request.program,
        "args": request.args,
        "env": request.env,
        "size": len(request.stdin),
        "digest": hashlib.sha256(request.stdin).hexdigest(),
        "netns": os.fstat(request.netns_fd).st_ino if request.netns_fd >= 0 else 0,
        "host": request.host_inode,
    }
    return Response(0, json.dumps(facts).encode())


class ServiceProcess:
    """A running service. kill, stop and wait act on the process itself."""

    def __init__(self, state_dir: Path, *settings: str, env: dict[str, str] | None = None, **popen: object) -> None:
        self.state_dir = state_dir
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(state_dir), *settings],
            env={**os.environ, "PYTHONPATH": str(REPO), **(env or {})},
            stderr=subprocess.PIPE,
            text=True,
            **popen,
        )

    def ready(self) -> ServiceProcess:
        """Waits until it answers."""
        wait_for(lambda: client.status(self.state_dir) or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.communicate()[1]
        return self

    def end(self) -> str:
        """Ends it, if need be by force; what it said on standard error."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.communicate(timeout=10)[1]
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.communicate()[1]


def wait_for(condition, limit: float = 15.0):
    """Waits until the condition is true, and returns what it gave."""
    deadline = time.monotonic() + limit
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return value


def call(
    executable: Path, *args: str, state_dir: Path, stdin: bytes = b"", **env: str
) -> subprocess.CompletedProcess[bytes]:
    """Runs an executable as an engine does."""
    variables = {"PATH": "/usr/bin:/bin", "NETDRIVERS_STATE_DIR": str(state_dir), **env}
    return subprocess.run([executable, *args], input=stdin, env=variables, capture_output=True, timeout=60, check=False)


def facts(done: subprocess.CompletedProcess[bytes]) -> dict:
    """What the call reported of itself."""
    assert done.returncode == 0, done
    return json.loads(done.stdout)


def overlay(where: Path) -> list[str]:
    """A sys.path whose netdrivers has a stand-in for the in-process front ends."""
    for package, real in (("netdrivers", REPO / "netdrivers"), ("netdrivers/frontends", REPO / "netdrivers/frontends")):
        (where / package).mkdir(parents=True)
        version = "" if "/" in package else f"exec(open({str(real / '__init__.py')!r}).read())\n"
        (where / package / "__init__.py").write_text(f"{version}__path__.append({str(real)!r})\n")
    (where / "netdrivers/frontends/executable.py").write_text(IN_PROCESS)
    return [str(where), str(Path(msgspec.__file__).parents[1])]


def serve(state_dir: str, *settings: str) -> None:
    """The service process."""
    import logging

    from netdrivers.service.main import Settings, run

    logging.basicConfig(level=logging.INFO)
    given = {name: json.loads(value) for name, _, value in (setting.partition("=") for setting in settings)}
    run(Path(state_dir), handle, settings=Settings(**given))


if __name__ == "__main__":
    serve(*sys.argv[1:])
