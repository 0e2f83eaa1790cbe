"""containerd's CRI, as a kubelet would call it, on our bridge: a pod with a published port, and its removal."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import containerd
from .conftest import MakeHost
from .containerd import Cri
from .harness import HOST4, HOST6, OUTSIDE4, EngineHost, eventually
from .image import HELLO
from .networks import conflist
from .snapshot import unchanged


@pytest.fixture(scope="module")
def host(engine_host: MakeHost) -> EngineHost:
    made = engine_host("containerd", r" v?1\.[67]\.", "debian12")
    made.write("/etc/cni/net.d/10-pods.conflist", conflist("pods", "br-pods", "10.88.10.0/24", "fd00:88:10::/64"))
    containerd.start(made)
    return made


@pytest.fixture(scope="module")
def cri(host: EngineHost) -> Iterator[Cri]:
    client = Cri(host)
    assert eventually(client.ready), "containerd does not find our network"
    client.run_pod("first")
    client.remove_pods()
    yield client
    client.close()


@pytest.fixture(autouse=True)
def as_before(host: EngineHost, cri: Cri) -> Iterator[None]:
    """Whatever a test runs, removing its pods leaves the host's network and our leases as before."""
    with unchanged(host):
        yield
        cri.remove_pods()


def test_published_port_answers_from_every_side(host: EngineHost, cri: Cri) -> None:
    container = cri.run_web(cri.run_pod("web", [(8080, 80)]))
    for address in (HOST4, HOST6):
        assert host.fetch(address, 8080) == HELLO
    assert host.fetch(HOST4, 8080, "/cgi-bin/peer") == f"[::ffff:{OUTSIDE4}]"
    assert host.fetch("127.0.0.1", 8080, where="machine") == HELLO
    assert cri.get(container, f"http://{HOST4}:8080/") == HELLO


def test_pod_is_detached_when_stopped_and_may_be_stopped_twice(host: EngineHost, cri: Cri) -> None:
    pod = cri.run_pod("web", [(8080, 80)])
    cri.run_web(pod)
    assert host.fetch(HOST4, 8080) == HELLO
    cri.stop_pod(pod)
    assert host.fetch(HOST4, 8080, seconds=0) == ""
    cri.stop_pod(pod)


def test_pod_has_loopback_and_an_address_of_each_family(host: EngineHost, cri: Cri) -> None:
    pod = cri.run_pod("web")
    container = cri.run_web(pod)
    four, six = sorted(cri.addresses(pod), key=lambda address: ":" in address)
    assert four.startswith("10.88.10.")
    assert six.startswith("fd00:88:10::")
    assert cri.get(container, "http://127.0.0.1/") == HELLO


def test_two_pods_reach_each_other(cri: Cri) -> None:
    pods = [cri.run_pod(name) for name in ("one", "two")]
    containers = [cri.run_web(pod) for pod in pods]
    for container, other in zip(containers, reversed(pods), strict=True):
        for address in cri.addresses(other):
            url = f"http://[{address}]/" if ":" in address else f"http://{address}/"
            assert cri.get(container, url) == HELLO


def test_pod_reaches_the_other_host_with_the_hosts_address(host: EngineHost, cri: Cri) -> None:
    container = cri.run_web(cri.run_pod("one"))
    with host.listen(OUTSIDE4, 9000) as peers:
        cri.execute(container, "nc", "-w", "2", OUTSIDE4, "9000")
        assert eventually(peers) == [HOST4]
