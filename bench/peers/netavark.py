"""netavark as a peer: `netavark setup` and `teardown` with Podman's JSON on standard input.

Podman allocates the addresses, so netavark's times hold no IPAM.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from dataclasses import dataclass
from typing import Any

from bench import process, world
from bench.peers.base import Attachment, Done, Peer


@dataclass
class Netavark(Peer):
    """One netavark executable. backend: "iptables" or "nftables" (from release 1.10)."""

    executable: str = ""
    backend: str = "iptables"

    def absent(self) -> str:
        """Needs the executable."""
        return "" if os.access(self.executable, os.X_OK) else f"no executable {self.executable}"

    def start(self) -> None:
        """A directory for its state."""
        self._state = f"{world.STATE}/netavark"
        os.makedirs(self._state, exist_ok=True)

    def add(self, attachment: Attachment) -> Done:
        """setup."""
        finished = self._call("setup", attachment)
        status = json.loads(finished.stdout)[attachment.net.name]
        subnet = status["interfaces"]["eth0"]["subnets"][0]["ipnet"]
        return Done(finished.seconds, subnet.partition("/")[0])

    def delete(self, attachment: Attachment, done: Done) -> float:
        """teardown."""
        return self._call("teardown", attachment).seconds

    def _call(self, command: str, attachment: Attachment) -> process.Finished:
        environment = {"PATH": process.PATH, "NETAVARK_FW": self.backend}
        argv = [self.executable, "--config", self._state, command, attachment.netns]
        return self.call(argv, json.dumps(request(attachment)).encode(), environment)


def request(attachment: Attachment) -> dict[str, Any]:
    """Podman's request; a network without NAT is an internal one, as netavark has no other."""
    net = attachment.net
    return {
        "container_id": attachment.container,
        "container_name": attachment.name,
        "networks": {
            net.name: {
                "interface_name": "eth0",
                "static_ips": [attachment.address],
                "static_mac": attachment.mac,
            }
        },
        "network_info": {
            net.name: {
                "name": net.name,
                "id": hashlib.sha256(net.name.encode()).hexdigest(),
                "driver": "bridge",
                "network_interface": net.bridge,
                "created": "2026-01-01T00:00:00Z",
                "subnets": [{"subnet": net.subnet, "gateway": net.gateway}],
                "ipv6_enabled": False,
                "internal": not net.nat,
                "dns_enabled": False,
                "ipam_options": {"driver": "host-local"},
            }
        },
        "port_mappings": [
            {"host_ip": "", "host_port": host, "container_port": container, "range": 1, "protocol": "tcp"}
            for host, container in attachment.ports
        ],
    }


def version_of(executable: str) -> str:
    """ "1.4.0", or "" where there is none."""
    try:
        done = subprocess.run([executable, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return ""
    return done.stdout.split()[-1] if done.stdout.split() else ""
