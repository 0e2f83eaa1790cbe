"""Ports that Docker has published after a container is attached, and taken back before it leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from netdrivers.errors import KernelError
from netdrivers.operations import AnyOperation, Publish
from tests.docker_side import Docker, DriverError, Endpoint, port, served
from tests.lab import Echo, Host, Namespace, ask

SHOP = "10.101.0.0/24"
Make = Callable[..., Namespace]


def test_revoking_and_programming_again(docker: Docker, outside: Namespace, container: Namespace) -> None:
    endpoint = docker.run(docker.network(SHOP), container, "10.101.0.77/24", ports=[port(80, 8080)])
    served(container)
    assert ask(outside, "192.0.2.1", 8080) == "web 192.0.2.2"
    endpoint.call("RevokeExternalConnectivity")
    assert ask(outside, "192.0.2.1", 8080, timeout=1) == "no answer"
    endpoint.program(port(80, 8081))
    endpoint.program(port(80, 8081), port(80, 8082))
    assert ask(outside, "192.0.2.1", 8081) == "web 192.0.2.2"
    assert ask(outside, "192.0.2.1", 8082) == "web 192.0.2.2"
    endpoint.program(port(80, 8082))
    assert ask(outside, "192.0.2.1", 8081, timeout=1) == "no answer"
    assert ask(outside, "192.0.2.1", 8082) == "web 192.0.2.2"


def test_taken_port_is_refused_and_what_was_published_stays(
    docker: Docker, host: Host, outside: Namespace, lab: Make
) -> None:
    network = docker.network(SHOP)
    one, two = lab("one"), lab("two")
    docker.run(network, one, "10.101.0.2/24", ports=[port(80, 8080)])
    second = docker.run(network, two, "10.101.0.3/24", ports=[port(80, 8081)])
    served(one, "one")
    served(two, "two")
    with pytest.raises(DriverError, match="host port 8080/tcp is published by"):
        second.program(port(80, 8081), port(81, 8080))
    listener = Echo(host, 8082, "local")
    with pytest.raises(DriverError, match="host port 8082/tcp is held by"):
        second.program(port(80, 8081), port(81, 8082))
    listener.close()
    assert second.published() == [(8081, 80)]
    assert ask(outside, "192.0.2.1", 8080) == "one 192.0.2.2"
    assert ask(outside, "192.0.2.1", 8081) == "two 192.0.2.2"


def test_open_host_port_is_chosen_once_and_kept(docker: Docker, host: Host, outside: Namespace, lab: Make) -> None:
    network = docker.network(SHOP)
    busy = Echo(host, 9001, "local")
    one = docker.run(network, lab("one"), "10.101.0.2/24", ports=[port(80, 9000, last=9003), port(81)])
    two = docker.run(network, lab("two"), "10.101.0.3/24", ports=[port(80, 9000, last=9003), port(81)])
    assert one.published()[0] == (9000, 80)
    assert two.published()[0] == (9002, 80)
    assert one.published()[1] == (49153, 81)
    assert two.published()[1] == (49154, 81)
    two.program(port(80, 9000, last=9003), port(81))
    assert two.published() == [(9002, 80), (49154, 81)]
    docker.run(network, lab("three"), "10.101.0.4/24", ports=[port(80, 9000, last=9003)])
    with pytest.raises(DriverError, match="no free host port from 9000 to 9003"):
        docker.run(network, lab("four"), "10.101.0.5/24", ports=[port(80, 9000, last=9003)])
    busy.close()


def test_many_ports_are_published_as_one_range(docker: Docker, outside: Namespace, container: Namespace) -> None:
    ports = [port(7000 + i, 8000 + i) for i in range(200)]
    endpoint = docker.run(docker.network(SHOP), container, "10.101.0.77/24", ports=reversed(ports))
    record = docker.lifecycle.store.attachments(container=endpoint.key)[0]
    assert [str(mapping) for mapping in record.attachment.ports] == ["8000-8199->7000-7199/tcp"]
    Echo(container, 7150, "web")
    assert ask(outside, "192.0.2.1", 8150) == "web 192.0.2.2"


@pytest.mark.parametrize(
    ("binding", "word"),
    [
        ({"Proto": 1, "Port": 80}, "Proto"),
        ({"Proto": 6, "Port": 0, "HostPort": 80}, "containerPort"),
        ({"Proto": 6, "Port": 80, "HostPort": 70000}, "hostPort"),
        ({"Proto": 6, "Port": 80, "HostPort": 80, "HostPortEnd": 79}, "HostPortEnd"),
        ({"Proto": 6, "Port": 80, "HostPort": 80, "HostIP": "here"}, "HostIP"),
        ({"Port": 80}, "Proto"),
    ],
)
def test_bad_binding_is_refused(docker: Docker, container: Namespace, binding: dict[str, Any], word: str) -> None:
    with pytest.raises(DriverError, match=word):
        docker.run(docker.network(SHOP), container, "10.101.0.77/24", ports=[binding])


def test_failing_publish_leaves_what_was(
    dockers: Callable[..., Docker], host: Host, outside: Namespace, container: Namespace
) -> None:
    armed = False

    def fault(operation: AnyOperation) -> None:
        if armed and isinstance(operation, Publish) and operation.host_port == 8083:
            raise KernelError("no", 5)

    docker = dockers(fault=fault)
    endpoint = docker.run(docker.network(SHOP), container, "10.101.0.77/24", ports=[port(80, 8080)])
    served(container)
    before, rows = host.snapshot(), host.rows()
    armed = True
    with pytest.raises(DriverError, match="no"):
        endpoint.program(port(80, 8081), port(80, 8083))
    assert host.snapshot() == before
    assert host.rows() == rows
    assert ask(outside, "192.0.2.1", 8080) == "web 192.0.2.2"


class Killed(BaseException):
    """Stands for the end of the process: nothing tidies up."""


@pytest.mark.parametrize("then", ["again", "revoke", "delete"])
@pytest.mark.parametrize("at", [8081, 8083])
@pytest.mark.parametrize("first", [[], [port(80, 8080)]], ids=["nothing", "one"])
def test_publish_that_died_is_finished_or_undone_by_the_next_call(
    dockers: Callable[..., Docker], host: Host, outside: Namespace, container: Namespace, first: Any, at: int, then: str
) -> None:
    def die(operation: AnyOperation) -> None:
        if isinstance(operation, Publish) and operation.host_port == at:
            raise Killed

    docker = dockers()
    network = docker.network(SHOP)
    endpoint = docker.run(network, container, "10.101.0.77/24", ports=first)
    served(container)
    dying = dockers(fault=die)
    wanted = [port(80, 8081), port(80, 8083)]
    with pytest.raises(Killed):
        Endpoint(dying, network, endpoint.key, container).program(*wanted)
    if then == "again":
        endpoint.program(*wanted)
        assert endpoint.published() == [(8081, 80), (8083, 80)]
        assert ask(outside, "192.0.2.1", 8081) == ask(outside, "192.0.2.1", 8083) == "web 192.0.2.2"
    elif then == "revoke":
        endpoint.call("RevokeExternalConnectivity")
    else:
        endpoint.call("DeleteEndpoint")
    assert ask(outside, "192.0.2.1", 8080, timeout=1) == "no answer"
    if then != "again":
        assert ask(outside, "192.0.2.1", 8081, timeout=1) == "no answer"
        assert "ports" not in host.rows()
