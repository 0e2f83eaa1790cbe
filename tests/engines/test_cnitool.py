"""CNI's own client, cnitool: ADD, CHECK, DEL, GC and STATUS of our bridge through libcni."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator

import pytest

from .cnitool import cnitool
from .conftest import install
from .harness import BIN_DIR, HOST4, EngineHost
from .image import HELLO
from .networks import conflist
from .snapshot import unchanged

PORTS = json.dumps({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]})


@pytest.fixture(scope="module")
def host() -> Iterator[EngineHost]:
    program = cnitool()
    with EngineHost() as made:
        shutil.copy(program, made.path("/run/bin/cnitool"))
        install(made)
        made.write("/etc/cni/net.d/10-tool.conflist", conflist("tool", "br-tool", "10.88.11.0/24", version="1.1.0"))
        made.write("/run/www/index.html", f"{HELLO}\n")
        made.machine("ip", "netns", "add", "box")
        tool(made, "add")
        tool(made, "del")
        made.spawn("ip", "netns", "exec", "box", sys.executable, "-m", "http.server", "80", "--directory", "/run/www")
        yield made


@pytest.fixture(autouse=True)
def as_before(host: EngineHost) -> Iterator[None]:
    """Whatever a test attaches, it detaches: the host's network and our leases are as before."""
    with unchanged(host):
        yield


def tool(host: EngineHost, command: str, *, check: bool = True) -> str:
    """Run cnitool for the network and the namespace; what it prints on both outputs."""
    env = {"CNI_PATH": BIN_DIR, "NETCONFPATH": "/etc/cni/net.d", "CAP_ARGS": PORTS}
    done = host.run("cnitool", command, "tool", "/run/netns/box", where="machine", env=env, check=check)
    return done.stdout + done.stderr


def test_add_check_and_del(host: EngineHost) -> None:
    result = json.loads(tool(host, "add"))
    assert result["cniVersion"] == "1.1.0"
    address = result["ips"][0]["address"].partition("/")[0]
    assert host.fetch(address, 80, where="machine") == HELLO
    assert host.fetch(HOST4, 8080) == HELLO
    tool(host, "check")
    tool(host, "del")
    assert host.fetch(HOST4, 8080, seconds=0) == ""
    tool(host, "del")


def test_check_names_what_is_gone(host: EngineHost) -> None:
    tool(host, "add")
    host.machine("ip", "-n", "box", "route", "del", "default")
    assert "route 0.0.0.0/0" in tool(host, "check", check=False)
    tool(host, "del")


def test_gc_removes_what_nobody_claims(host: EngineHost) -> None:
    tool(host, "add")
    assert host.fetch(HOST4, 8080) == HELLO
    # Without libcni's own memory of the attachment only our record can tell that it is stale.
    host.machine("rm", "-r", "/var/lib/cni")
    tool(host, "gc")
    assert host.fetch(HOST4, 8080, seconds=0) == ""


def test_status_says_ready(host: EngineHost) -> None:
    tool(host, "status")
