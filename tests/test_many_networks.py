"""One container on several networks that all publish its ports, as Podman asks for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.lab import CniFailed, Echo, Host, Namespace, ask
from tests.test_bridge_traffic import conflist, port


def two(ports: list[dict[str, object]]) -> tuple[dict[str, object], dict[str, object]]:
    """The configurations of two networks."""
    return tuple(  # type: ignore[return-value]
        conflist(name, ports=ports, ipam={"type": "host-local", "ranges": [[{"subnet": subnet}]]})
        for name, subnet in (("one", "10.31.0.0/24"), ("two", "10.32.0.0/24"))
    )


def test_a_port_moves_to_the_network_that_stays(host: Host, outside: Namespace, container: Namespace) -> None:
    one, two_ = two([port(8080, 80)])
    host.cni("bridge", "ADD", one, container, "c", "eth0")
    host.cni("bridge", "ADD", two_, container, "c", "eth1")
    server = Echo(container, 80, "web")
    try:
        assert ask(outside, "192.0.2.1", 8080) == "web 192.0.2.2"
        host.cni("bridge", "DEL", one, container, "c", "eth0")
        container.run("ip", "route", "replace", "default", "via", "10.32.0.1")
        assert ask(outside, "192.0.2.1", 8080) == "web 192.0.2.2", "by the other network now"
        host.cni("bridge", "DEL", two_, container, "c", "eth1")
        assert ask(outside, "192.0.2.1", 8080, timeout=0.5) == "no answer"
    finally:
        server.close()


def test_another_containers_port_is_still_refused(host: Host, lab: Callable[..., Namespace]) -> None:
    one, two_ = two([port(8080, 80)])
    host.cni("bridge", "ADD", one, lab("c"), "c")
    with pytest.raises(CniFailed, match="8080/tcp is published by one/c/eth0"):
        host.cni("bridge", "ADD", two_, lab("d"), "d")


def test_the_containers_own_monitor_may_hold_the_port(host: Host, container: Namespace) -> None:
    """conmon listens on a running container's ports, and has the container's id among its arguments."""
    code = "import socket,sys,time; s=socket.create_server(('0.0.0.0',8080)); print('up',flush=True); time.sleep(60)"
    for identity, refused in (("somebody", True), ("c", False)):
        monitor = subprocess.Popen(
            ["nsenter", f"--net={host.path}", "--", sys.executable, "-c", code, "-c", identity],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert monitor.stdout
            assert monitor.stdout.readline() == "up\n"
            if refused:
                with pytest.raises(CniFailed, match=rf"8080/tcp is held by .*pid {monitor.pid}"):
                    host.cni("bridge", "ADD", two([port(8080, 80)])[0], container, "c")
            else:
                host.cni("bridge", "ADD", two([port(8080, 80)])[0], container, "c")
        finally:
            monitor.kill()
            monitor.wait()


def test_after_a_flush_one_add_mends_every_network(
    host: Host, outside: Namespace, lab: Callable[..., Namespace]
) -> None:
    """Whoever flushes the rules takes those of all networks; a new table must not hide it."""
    (one, two_), left, right = two([port(8080, 80)]), lab("left"), lab("right")
    host.cni("bridge", "ADD", one, left, "left")
    host.cni("bridge", "ADD", {**two_, "runtimeConfig": {}}, right, "right")
    beyond = Echo(outside, 7000, "beyond")
    try:
        assert ask(right, "192.0.2.2", 7000) == "beyond 192.0.2.1"
        host.run("nft", "flush", "ruleset")
        host.cni("bridge", "ADD", {**one, "runtimeConfig": {}}, lab("third"), "third")
        assert ask(right, "192.0.2.2", 7000) == "beyond 192.0.2.1", "masqueraded again"
    finally:
        beyond.close()
