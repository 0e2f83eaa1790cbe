"""Host ports: who holds one is named; SCTP is published too, shown by packets as the kernel may lack its sockets."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from typing import Any

import pytest

from tests.kernel.wires import arrives, sctp_init
from tests.lab import CniFailed, Echo, Host, Namespace, ask

Lab = Callable[..., Namespace]


def config(*mappings: dict[str, Any], name: str = "net", **more: Any) -> dict[str, Any]:
    """A dual-stack network with published ports."""
    ranges = [[{"subnet": "10.10.0.0/24"}], [{"subnet": "fd00:10::/64"}]]
    return {
        "cniVersion": "1.1.0", "name": name, "type": "bridge", "bridge": f"br-{name}", "isDefaultGateway": True,
        "ipam": {"type": "host-local", "ranges": ranges}, "runtimeConfig": {"portMappings": list(mappings)}, **more,
    }  # fmt: skip


def port(host: int, inside: int = 80, protocol: str = "tcp", **more: Any) -> dict[str, Any]:
    """One mapping."""
    return {"hostPort": host, "containerPort": inside, "protocol": protocol, **more}


def refused(host: Host, netns: Namespace, words: str, *mappings: dict[str, Any], name: str = "net") -> None:
    """An ADD with these ports is refused with these words and changes nothing."""
    before, rows = host.snapshot(), host.rows()
    with pytest.raises(CniFailed, match=words) as failed:
        host.call("bridge", "ADD", config(*mappings, name=name), netns, netns.name)
    assert failed.value.code == 100
    assert (host.snapshot(), host.rows()) == (before, rows)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("family", [4, 6])
def test_port_of_a_listening_process_names_it(host: Host, container: Namespace, protocol: str, family: int) -> None:
    server = Echo(host, 8081, "mine", protocol, family)
    holder = rf"host port 8081/{protocol} is held by .+ \(pid {os.getpid()}\)"
    try:
        refused(host, container, holder, port(8081, protocol=protocol))
        refused(host, container, holder, port(8080, protocol=protocol, range=5))
        other = "udp" if protocol == "tcp" else "tcp"
        host.call("bridge", "ADD", config(port(8081, protocol=other)), container)
        host.call("bridge", "DEL", config(), container)
    finally:
        server.close()
    host.call("bridge", "ADD", config(port(8081, protocol=protocol)), container)


def test_a_listener_on_another_address_is_no_conflict(host: Host, outside: Namespace, container: Namespace) -> None:
    with host.entered():
        server = socket.create_server(("127.0.0.1", 8080))
    with server:
        refused(host, container, "host port 8080/tcp is held by", port(8080))
        refused(host, container, "host port 8080/tcp is held by", port(8080, hostIP="127.0.0.1"))
        host.call("bridge", "ADD", config(port(8080, hostIP="192.0.2.1")), container)
        inside = Echo(container, 80, "web")
        try:
            assert ask(outside, "192.0.2.1", 8080) == "web 192.0.2.2"
        finally:
            inside.close()


def test_a_port_in_time_wait_is_free(host: Host, container: Namespace) -> None:
    """A server that just stopped holds nothing."""
    with host.entered():
        server = socket.create_server(("127.0.0.1", 8080))
        client = socket.create_connection(("127.0.0.1", 8080))
    accepted, _ = server.accept()
    accepted.close()  # the server's side closes first and waits
    client.close()
    server.close()
    assert "TIME-WAIT" in host.run("ss", "-tan").stdout
    host.call("bridge", "ADD", config(port(8080)), container)


def test_port_of_another_attachment_names_it(host: Host, outside: Namespace, lab: Lab) -> None:
    first, second = lab("first"), lab("second")
    host.call("bridge", "ADD", config(port(8080), port(9000, range=10)), first, "first")
    refused(host, second, "host port 8080/tcp is published by net/first/eth0/bridge", port(8080))
    refused(host, second, "host port 9009/tcp is published by net/first/eth0/bridge", port(9009, range=7))
    refused(host, second, "host port 8080/tcp is published by net/first/eth0/bridge", port(8080, hostIP="192.0.2.1"))
    other = config(port(8080), name="other") | {"ipam": {"type": "host-local", "subnet": "10.20.0.0/24"}}
    before = host.snapshot()
    with pytest.raises(CniFailed, match="host port 8080/tcp is published by net/first/eth0/bridge"):
        host.call("bridge", "ADD", other, second, "second")
    assert host.snapshot() == before, "a network made for nothing is gone again"
    host.call("bridge", "ADD", config(port(8081)), second, "second")
    host.call("bridge", "DEL", config(), first, "first")
    host.call("bridge", "ADD", config(port(8080)), lab("third"), "third")


def test_two_mappings_of_one_container_for_one_port(host: Host, container: Namespace) -> None:
    refused(host, container, "host port 8080/tcp is published by net/container/eth0/bridge", port(8080), port(8080, 81))
    host.call("bridge", "ADD", config(port(8080), port(8080, 53, "udp"), port(8081)), container)


def test_host_port_zero_publishes_nothing(host: Host, container: Namespace) -> None:
    """Kubernetes sends containerPorts without a host port that way."""
    host.call("bridge", "ADD", config(port(0), port(0, 53, "udp")), container)
    assert "ports" not in host.rows()


@pytest.mark.parametrize("family", [4, 6])
def test_sctp_reaches_the_container(host: Host, outside: Namespace, container: Namespace, family: int) -> None:
    host.call("bridge", "ADD", config(port(8080, 3868, "sctp")), container)
    kind = socket.AF_INET6 if family == 6 else socket.AF_INET
    with container.entered():
        inside = socket.socket(kind, socket.SOCK_RAW, 132)
    with outside.entered():
        sender = socket.socket(kind, socket.SOCK_RAW, 132)
    public, target = ("2001:db8:1::1", "fd00:10::2") if family == 6 else ("192.0.2.1", "10.10.0.2")
    with inside, sender:
        sender.sendto(sctp_init(8080), (public, 0))
        inside.settimeout(5)
        packet, peer = inside.recvfrom(2048)
        chunk = packet[20:] if family == 4 else packet
        assert int.from_bytes(chunk[2:4], "big") == 3868, "the port is the container's"
        assert peer[0] == ("2001:db8:1::2" if family == 6 else "192.0.2.2"), "the source is kept"
        sender.sendto(sctp_init(8081), (public, 0))
        assert not arrives(inside, 0.5), "the next port is not published"
        host.call("bridge", "DEL", config(), container)
    elements = host.run("nft", "list", "map", "inet", "netdrivers", "publish4any").stdout
    assert not re.search(r"\b8080\b", elements), target
