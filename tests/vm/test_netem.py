"""Networks over wires that lose, delay, double and swap packets (netem): publishing, overlay, CHECK, UDP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.lab import Echo, Host, Namespace, ask
from tests.test_overlay_static import Cluster
from tests.vm.transfer import Receiver, arrives_whole

pytestmark = pytest.mark.feature("netem")
Lab = Callable[..., Namespace]
BAD = ("delay", "20ms", "10ms", "loss", "3%", "duplicate", "2%", "reorder", "20%", "limit", "10000")
SIZE = 300_000


def spoil(namespace: Namespace, device: str) -> None:
    """What leaves by a device suffers; segments are single packets, so that they can be swapped."""
    namespace.run("ethtool", "-K", device, "tso", "off", "gso", "off", "gro", "off")
    namespace.run("tc", "qdisc", "replace", "dev", device, "root", "netem", *BAD)


def suffered(namespace: Namespace, device: str) -> bool:
    """Whether the bad wire was really passed."""
    said = namespace.run("tc", "-s", "qdisc", "show", "dev", device).stdout
    return "netem" in said and "Sent 0 bytes" not in said


def test_published_port_over_a_bad_wire(host: Host, outside: Namespace, container: Namespace) -> None:
    ports = [{"hostPort": port, "containerPort": port, "protocol": kind} for port, kind in ((8080, "tcp"), (53, "udp"))]
    config = {
        "cniVersion": "1.1.0", "name": "shop", "type": "bridge", "bridge": "br-shop", "isDefaultGateway": True,
        "ipMasq": True, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.41.0.0/24"}]]},
        "runtimeConfig": {"portMappings": ports},
    }  # fmt: skip
    spoil(outside, "wire0")
    spoil(host, "wire0")
    result = host.call("bridge", "ADD", config, container)
    inside, beyond = Receiver(container, 8080), Receiver(outside, 9000)
    udp = Echo(container, 53, "udp", "udp")
    try:
        assert arrives_whole(outside, "192.0.2.1", 8080, SIZE)
        assert arrives_whole(container, "192.0.2.2", 9000, SIZE), "masqueraded"
        answers = [ask(outside, "192.0.2.1", 53, "udp") for _ in range(10)]
        assert "udp 192.0.2.2" in answers
        assert set(answers) <= {"udp 192.0.2.2", "no answer"}
    finally:
        for server in (inside, beyond, udp):
            server.close()
    assert suffered(outside, "wire0")
    host.call("bridge", "CHECK", {**config, "prevResult": result}, container)


@pytest.mark.parametrize("family", [4, pytest.param(6, marks=pytest.mark.whole)])
def test_overlay_over_a_bad_underlay(lab: Lab, family: int) -> None:
    cluster = Cluster(lab, family)
    for host in cluster.hosts[:2]:
        spoil(host, "eth0")
    crosses(cluster, cluster.config(), lab)
    assert suffered(cluster.hosts[0], "eth0")


def crosses(cluster: Cluster, config: dict[str, Any], lab: Lab) -> None:
    """Bytes arrive between containers of the first two hosts, both ways; CHECK finds nothing."""
    near, far = lab("near"), lab("far")
    for host, container in zip(cluster.hosts, (near, far), strict=False):
        result = host.call("overlay", "ADD", config, container, container.name)
        host.call("overlay", "CHECK", {**config, "prevResult": result}, container, container.name)
    servers = [Receiver(near, 80), Receiver(far, 80)]
    try:
        assert arrives_whole(near, "10.210.2.2", 80, SIZE)
        assert arrives_whole(far, "10.210.1.2", 80, SIZE)
    finally:
        for server in servers:
            server.close()
