"""Calling the netavark plugins as Podman and netavark call them, and the documents that they send."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from netdrivers.frontends import dispatch
from netdrivers.frontends.request import Request
from netdrivers.kernel.namespaces import own_inode
from tests.lab import Host, Namespace

BRIDGE, MACVLAN = "netdrivers-bridge", "netdrivers-macvlan"
ID = "3482b2c6445fe2e18993f85da855fe23554f25089c4b304bb88b3f953e6c2fb1"


def plugin(host: Host, verb: str, document: Any, netns: Namespace | None = None, program: str = BRIDGE) -> Any:
    """What a plugin answers: (exit code, its JSON, None when it says nothing)."""
    args = (verb,) if netns is None else (verb, netns.path)
    stdin = document if isinstance(document, bytes) else json.dumps(document).encode()
    env = host.env(NETDRIVERS_NETWORKS_DIR=str(host.state_dir / "networks.d"))
    with host.entered():
        response = dispatch.handle(Request(program, args, env, stdin, host_inode=own_inode()))
    return response.exit_code, json.loads(response.stdout) if response.stdout else None


def done(host: Host, verb: str, document: Any, netns: Namespace | None = None, program: str = BRIDGE) -> Any:
    """The answer of a call that succeeds."""
    code, answer = plugin(host, verb, document, netns, program)
    assert code == 0, answer
    return answer


def refused(host: Host, verb: str, document: Any, netns: Namespace | None = None, program: str = BRIDGE) -> str:
    """The message of a call that fails."""
    code, answer = plugin(host, verb, document, netns, program)
    assert code == 1, answer
    assert list(answer) == ["error"]
    assert "internal error" not in answer["error"]
    return str(answer["error"])


def asked(name: str = "shop", **more: Any) -> dict[str, Any]:
    """A network as Podman hands it to ``create``."""
    return {
        "name": name, "id": ID, "driver": BRIDGE, "created": "0001-01-01T00:00:00Z", "ipv6_enabled": False,
        "internal": False, "dns_enabled": True, **more,
    }  # fmt: skip


def network(name: str = "shop", subnets: tuple[str, ...] = ("10.95.0.0/24",), **more: Any) -> dict[str, Any]:
    """A network as netavark hands it to ``setup``, nulls and all."""
    gateways = [f"{subnet.partition('/')[0].removesuffix('0')}1" for subnet in subnets]
    return {
        "dns_enabled": False, "driver": BRIDGE, "id": ID, "internal": False,
        "ipv6_enabled": any(":" in subnet for subnet in subnets), "name": name, "network_interface": f"nd-{name}",
        "options": None, "ipam_options": None, "routes": None, "network_dns_servers": None,
        "subnets": [
            {"gateway": gateway, "lease_range": None, "subnet": subnet}
            for subnet, gateway in zip(subnets, gateways, strict=True)
        ],
        **more,
    }  # fmt: skip


def port(host: int, inside: int, protocol: str = "tcp", count: int = 1, host_ip: str = "") -> dict[str, Any]:
    """One port mapping."""
    return {"container_port": inside, "host_ip": host_ip, "host_port": host, "protocol": protocol, "range": count}


def container(
    net: dict[str, Any], *ips: str, number: int = 1, ports: list[dict[str, Any]] | None = None, ifname: str = "eth0",
    **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """A container on a network, as ``setup`` and ``teardown`` get it."""
    return {
        "container_id": f"{number:064x}", "container_name": f"c{number}", "port_mappings": ports, "network": net,
        "network_options": {
            "aliases": [f"{number:012x}"], "interface_name": ifname, "static_ips": list(ips), "static_mac": None,
            "options": None, **options,
        },
    }  # fmt: skip


def shared(host: Host, config: dict[str, Any]) -> None:
    """A named network of the host."""
    folder = Path(host.state_dir / "networks.d")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{config['name']}.json").write_text(json.dumps(config))


def still(host: Host) -> dict[str, Any]:
    """The host as it looks once it looks the same twice: the kernel is busy with a new link for a moment."""
    seen = [host.snapshot()]
    for _ in range(40):
        time.sleep(0.05)
        seen.append(host.snapshot())
        if seen[-1] == seen[-2]:
            break
    return seen[-1]


def assert_same(host: Host, before: dict[str, Any]) -> None:
    """The host looks as before, or does in a moment."""
    for _ in range(40):
        if host.snapshot() == before:
            return
        time.sleep(0.05)
    assert host.snapshot() == before
