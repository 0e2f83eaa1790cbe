"""A system that chose iptables-legacy and has no nft(8): networks choose that by themselves, and work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import CniFailed, Echo, Host, Namespace, ask, pings
from tests.vm.node import run

pytestmark = pytest.mark.feature("legacy iptables")
Lab = Callable[..., Namespace]
NFT = Path("/usr/sbin/nft")
PORTS = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}


@pytest.fixture(scope="module", autouse=True)
def _legacy_is_the_systems_choice() -> Iterator[None]:
    aside = NFT.with_suffix(".aside")
    NFT.rename(aside)
    for name in ("iptables", "ip6tables"):
        run("update-alternatives", "--set", name, f"/usr/sbin/{name}-legacy")
    yield
    aside.rename(NFT)
    for name in ("iptables", "ip6tables"):
        run("update-alternatives", "--auto", name)


def config(name: str = "net", subnet: str = "10.71.0.0/24", **more: Any) -> dict[str, Any]:
    """A network that says nothing of firewalls."""
    return {
        "cniVersion": "1.1.0", "name": name, "type": "bridge", "bridge": f"br-{name}", "isDefaultGateway": True,
        "ipMasq": True, "isolate": True, "ipam": {"type": "host-local", "ranges": [[{"subnet": subnet}]]}, **more,
    }  # fmt: skip


def rules(host: Host) -> str:
    """The tables' rules, without counters."""
    lines = [line for table in ("nat", "filter") for line in host.run("iptables", "-t", table, "-S").stdout.split("\n")]
    return "\n".join(lines)


def test_published_masqueraded_isolated_checked_and_gone(host: Host, outside: Host, lab: Lab) -> None:
    assert "legacy" in host.run("iptables", "--version").stdout
    before = rules(host)
    web, other = lab("web"), lab("other")
    given = config(runtimeConfig=PORTS)
    result = host.call("bridge", "ADD", given, web, "web")
    host.call("bridge", "ADD", config("two", "10.72.0.0/24"), other, "other")
    assert rules(host) != before
    server, beyond = Echo(web, 80, "web"), Echo(outside, 7000, "beyond")
    try:
        assert ask(outside, "192.0.2.1", 8080) == "web 192.0.2.2"
        assert ask(host, "127.0.0.1", 8080).startswith("web ")
        assert ask(web, "192.0.2.1", 8080).startswith("web ")
        assert ask(web, "192.0.2.2", 7000) == "beyond 192.0.2.1"
        assert ask(other, "10.71.0.2", 80, timeout=2) == "no answer"
        host.run("iptables", "-t", "nat", "-F")
        with pytest.raises(CniFailed) as failed:
            host.call("bridge", "CHECK", {**given, "prevResult": result}, web, "web")
        assert failed.value.code == 104
        assert ask(outside, "192.0.2.1", 8080, timeout=2) == "no answer"
        with host.lifecycle() as lifecycle:
            assert lifecycle.reload()
        assert ask(outside, "192.0.2.1", 8080) == "web 192.0.2.2"
    finally:
        server.close()
        beyond.close()
    for name, namespace in (("net", web), ("two", other)):
        host.call("bridge", "DEL", config(name), namespace, namespace.name)
    with host.lifecycle() as lifecycle:
        lifecycle.gc_dead()
    assert rules(host) == before


def test_policy_drop_with_dockers_chain(host: Host, outside: Host, lab: Lab) -> None:
    """What Docker leaves behind where iptables is legacy: FORWARD drops, and DOCKER-USER is for others."""
    host.run("iptables", "-N", "DOCKER-USER")
    host.run("iptables", "-A", "FORWARD", "-j", "DOCKER-USER")
    host.run("iptables", "-P", "FORWARD", "DROP")
    before, web = rules(host), lab("web")
    host.call("bridge", "ADD", config(runtimeConfig=PORTS), web, "web")
    server = Echo(web, 80, "web")
    try:
        assert ask(outside, "192.0.2.1", 8080) == "web 192.0.2.2"
        assert pings(web, "192.0.2.2")
    finally:
        server.close()
    host.call("bridge", "DEL", config(), web, "web")
    with host.lifecycle() as lifecycle:
        lifecycle.gc_dead()
    assert rules(host) == before
