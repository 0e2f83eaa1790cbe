"""What an executable imports: nothing heavy once its network is made, as imports are most of its time."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from tests.lab import Host, Namespace

HEAVY = (
    "pyroute2",
    "iptc",
    "click",
    "rich",
    "netaddr",
    "asyncio",
    "subprocess",
    "importlib.metadata",
    "inspect",
    "h11",
)
CODE = """
import sys
from netdrivers.frontends.executable import main
status = main(sys.argv[1], ())
print(" ".join(sorted(sys.modules)), file=sys.stderr)
sys.exit(status)
"""
CONFIG: dict[str, Any] = {
    "cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "br-net", "isDefaultGateway": True,
    "ipMasq": True, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.10.0.0/24"}], [{"subnet": "fd00::/64"}]]},
    "runtimeConfig": {
        "portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 53, "containerPort": 53, "protocol": "udp"},
        ]
    },
}  # fmt: skip
MACVLAN: dict[str, Any] = {
    "cniVersion": "1.0.0", "name": "lan", "type": "macvlan", "master": "wire0", "hostShim": True,
    "ipam": {"type": "host-local", "subnet": "192.0.2.0/24", "rangeStart": "192.0.2.10"},
}  # fmt: skip


def imported(host: Host, program: str, verb: str, config: dict[str, Any], netns: Namespace, container: str) -> set[str]:
    """The modules in an executable's interpreter when it is done; its success."""
    env = host.env(
        CNI_COMMAND=verb, CNI_CONTAINERID=container, CNI_NETNS=netns.path, CNI_IFNAME="eth0", CNI_ARGS="", CNI_PATH=""
    )
    done = host.run(sys.executable, "-c", CODE, program, input=json.dumps(config), env=env)
    return set(done.stderr.split())


def heavy(modules: set[str]) -> set[str]:
    """Those that are heavy."""
    return {module for module in modules if module in HEAVY}


@pytest.mark.parametrize(("program", "config"), [("bridge", CONFIG), ("macvlan", MACVLAN)])
def test_add_and_del_on_a_network_that_is_made(
    host: Host, outside: Namespace, container: Namespace, program: str, config: dict[str, Any]
) -> None:
    # The very first call makes the network, which takes netaddr; the next find it made.
    host.call(program, "ADD", config, container, "first")
    host.call(program, "DEL", config, container, "first")
    for verb in ("ADD", "DEL"):
        modules = imported(host, program, verb, config, container, "c1")
        assert "netdrivers.lifecycle" in modules, "the work was done here"
        assert not heavy(modules), verb


def test_none_host_loopback_and_version(host: Host, container: Namespace) -> None:
    plain = {"cniVersion": "1.0.0", "name": "n"}
    assert not heavy(imported(host, "none", "ADD", {**plain, "type": "none"}, container, "c1"))
    assert not heavy(imported(host, "host", "ADD", {**plain, "name": "h", "type": "host"}, host, "c2"))
    assert not heavy(imported(host, "loopback", "ADD", {**plain, "type": "loopback"}, container, "c1"))
    assert not heavy(imported(host, "bridge", "VERSION", {"cniVersion": "1.0.0"}, container, "c1"))


def test_the_first_add_needs_no_more_than_address_arithmetic(host: Host, container: Namespace) -> None:
    modules = heavy(imported(host, "bridge", "ADD", CONFIG, container, "c1"))
    assert modules <= {"netaddr", "subprocess", "inspect", "importlib.metadata"}, "nft(8) and netaddr"


def test_the_measure_sees_what_is_imported(host: Host, container: Namespace) -> None:
    result = host.call("bridge", "ADD", CONFIG, container)
    modules = imported(host, "bridge", "CHECK", {**CONFIG, "prevResult": result}, container, "c1")
    assert "pyroute2" in modules, "CHECK may take its time"
