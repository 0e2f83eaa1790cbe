"""The chained plugins portmap, firewall and tuning behind a bridge, ours or the reference's."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab import CniFailed, Echo, Host, Namespace, ask, pings

REFERENCE = "/usr/lib/cni"


def chain(host: Host, command: str, plugins: list[dict[str, Any]], netns: Namespace, container: str = "c1") -> Any:
    """Run a plugin list as libcni does."""
    result = None
    for plugin in plugins if command != "DEL" else reversed(plugins):
        config = {"cniVersion": "1.0.0", "name": "net", **plugin}
        if result is not None:
            config["prevResult"] = result
        answer = host.cni(plugin["type"], command, config, netns, container)
        result = answer if command == "ADD" else result
    return result


BRIDGE = {
    "type": "bridge",
    "bridge": "br-net",
    "isDefaultGateway": True,
    "hairpinMode": True,  # with br_netfilter the answer leaves by the port that it came in by
    "ipMasq": True,
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.20.0.0/24"}]]},
}
PORTMAP = {
    "type": "portmap",
    "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]},
}


def test_portmap_publishes_for_our_bridge(host: Host, outside: Namespace, lab: Callable[..., Namespace]) -> None:
    before = host.snapshot()
    web, other = lab("web"), lab("other")
    result = chain(host, "ADD", [BRIDGE, PORTMAP], web, "web")
    assert result["ips"][0]["address"] == "10.20.0.2/24"
    chain(host, "ADD", [BRIDGE], other, "other")
    server = Echo(web, 80, "web")
    try:
        assert ask(outside, "192.0.2.1", 8080) == "web 192.0.2.2"
        assert ask(host, "127.0.0.1", 8080).startswith("web ")
        assert ask(web, "192.0.2.1", 8080).startswith("web ")
        assert ask(other, "192.0.2.1", 8080).startswith("web ")
    finally:
        server.close()
    host.cni("portmap", "CHECK", {"cniVersion": "1.0.0", "name": "net", **PORTMAP, "prevResult": result}, web, "web")
    chain(host, "DEL", [BRIDGE, PORTMAP], web, "web")
    chain(host, "DEL", [BRIDGE], other, "other")
    with host.entered():
        from netdrivers.kernel.host import Kernel
        from netdrivers.lifecycle import Lifecycle
        from netdrivers.state.store import Store

        Lifecycle(Store(str(host.state_dir)), Kernel()).gc_dead()
    assert host.snapshot() == before


def test_portmap_behind_the_reference_bridge(host: Host, outside: Namespace, container: Namespace) -> None:
    if not os.path.exists(f"{REFERENCE}/bridge"):
        pytest.skip("needs containernetworking-plugins: no reference plugins")
    data = host.state_dir / "host-local"
    config = {
        "cniVersion": "1.0.0",
        "name": "net",
        **BRIDGE,
        "ipMasq": False,
        "ipam": {**BRIDGE["ipam"], "dataDir": str(data)},  # type: ignore[dict-item]
    }
    env = host.env(
        CNI_COMMAND="ADD", CNI_CONTAINERID="c1", CNI_NETNS=container.path, CNI_IFNAME="eth0", CNI_PATH=REFERENCE
    )
    result = json.loads(host.run(f"{REFERENCE}/bridge", input=json.dumps(config), env=env).stdout)
    host.cni("portmap", "ADD", {"cniVersion": "1.0.0", "name": "net", **PORTMAP, "prevResult": result}, container)
    server = Echo(container, 80, "web")
    try:
        assert ask(outside, "192.0.2.1", 8080) == "web 192.0.2.2"
        assert ask(host, "127.0.0.1", 8080).startswith("web ")
        assert ask(container, "192.0.2.1", 8080).startswith("web "), "hairpin, by the exact address"
    finally:
        server.close()


def test_tuning_sets_what_it_is_told(host: Host, container: Namespace) -> None:
    tuning = {
        "type": "tuning",
        "mac": "02:00:00:00:00:42",
        "mtu": 1400,
        "promisc": True,
        "sysctl": {"net.core.somaxconn": "512", "net.ipv4.conf.eth0.arp_notify": "1"},
    }
    result = chain(host, "ADD", [BRIDGE, tuning], container)
    link = json.loads(container.run("ip", "-j", "-d", "link", "show", "eth0").stdout)[0]
    assert (link["address"], link["mtu"], link["promiscuity"]) == ("02:00:00:00:00:42", 1400, 1)
    assert container.run("sysctl", "-n", "net.core.somaxconn").stdout.strip() == "512"
    assert result["interfaces"][-1]["mac"] == "02:00:00:00:00:42"
    assert pings(container, "10.20.0.1")
    with pytest.raises(CniFailed, match=r"kernel\.panic"):
        chain(host, "ADD", [{**tuning, "sysctl": {"kernel.panic": "1"}, "prevResult": result}], container, "c2")


def test_firewall_same_bridge_keeps_other_bridges_out(host: Host, lab: Callable[..., Namespace]) -> None:
    left, right = lab("left"), lab("right")
    other = {**BRIDGE, "bridge": "br-two", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.21.0.0/24"}]]}}
    host.cni("bridge", "ADD", {"cniVersion": "1.0.0", "name": "two", **other}, right, "right")
    chain(host, "ADD", [BRIDGE], left, "left")
    assert pings(right, "10.20.0.2")
    third = lab("third")
    chain(host, "ADD", [BRIDGE, {"type": "firewall", "ingressPolicy": "same-bridge"}], third, "third")
    assert not pings(right, "10.20.0.3")
    assert pings(left, "10.20.0.3")


def test_a_chained_plugin_alone_is_refused(host: Host, container: Namespace) -> None:
    with pytest.raises(CniFailed, match="prevResult: missing"):
        host.cni("portmap", "ADD", {"cniVersion": "1.0.0", "name": "net", **PORTMAP}, container)
