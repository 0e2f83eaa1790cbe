"""containerd's ``ctr run --cni`` on our bridge: published, reachable, and without a trace afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from . import containerd
from .conftest import MakeHost
from .harness import HOST4, OUTSIDE4, EngineHost, eventually
from .image import HELLO
from .networks import addresses_of, conflist
from .snapshot import unchanged

PORTS = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
"""ctr passes no runtimeConfig of its own, so the conflist says what to publish."""


@pytest.fixture(scope="module")
def host(engine_host: MakeHost) -> EngineHost:
    made = engine_host("containerd", r" v?1\.[67]\.", "debian12")
    # ctr looks only in its built-in directories.
    made.engine("sh", "-c", "mkdir -p /opt/cni && ln -s /opt/netdrivers/bin /opt/cni/bin")
    containerd.start(made)
    network(made)
    with containerd.ctr_run(made, "first"):
        pass
    return made


def network(host: EngineHost, **keys: Any) -> None:
    """The one network ctr uses: the first conflist."""
    host.write("/etc/cni/net.d/10-dock.conflist", conflist("dock", "br-dock", "10.88.9.0/24", **keys))


@pytest.fixture(autouse=True)
def as_before(host: EngineHost) -> Iterator[None]:
    """Whatever a test runs, ending it leaves the host's network and our leases as before."""
    with unchanged(host):
        yield
        network(host)


def test_published_port_answers_from_every_side(host: EngineHost) -> None:
    network(host, runtimeConfig=PORTS)
    with containerd.ctr_run(host, "web"):
        assert host.fetch(HOST4, 8080) == HELLO
        assert host.fetch(HOST4, 8080, "/cgi-bin/peer") == f"[::ffff:{OUTSIDE4}]"
        assert host.fetch("127.0.0.1", 8080, where="machine") == HELLO
    assert host.fetch(HOST4, 8080, seconds=0) == ""


def test_two_containers_reach_each_other(host: EngineHost) -> None:
    with containerd.ctr_run(host, "one"), containerd.ctr_run(host, "two"):
        for here, there in (("one", "two"), ("two", "one")):
            address = addresses_of(containerd.ctr_exec(host, there, "ip", "address", "show", "dev", "eth0"))[0]
            assert containerd.ctr_get(host, here, f"http://{address}/") == HELLO


def test_container_reaches_the_other_host_with_the_hosts_address(host: EngineHost) -> None:
    with containerd.ctr_run(host, "one"), host.listen(OUTSIDE4, 9000) as peers:
        containerd.ctr_exec(host, "one", "nc", "-w", "2", OUTSIDE4, "9000")
        assert eventually(peers) == [HOST4]
