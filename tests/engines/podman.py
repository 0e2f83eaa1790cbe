"""Podman on an EngineHost: its configuration there, and the commands the tests share."""

from __future__ import annotations

import json
from typing import Any

from .harness import BIN_DIR, EngineHost, answered
from .image import WEB

CONTAINERS_CONF = """
[containers]
{limits}
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
"""

CNI = f"""
[network]
network_backend = "cni"
cni_plugin_dirs = ["{BIN_DIR}"]
"""

CAP_SYS_RESOURCE = 24


def configure(host: EngineHost, network: str = "") -> None:
    """Write containers.conf as this machine needs it, followed by ``network``, and load the images."""
    # Podman raises limits for its containers, which takes a capability that a virtual machine's root may lack.
    limits = "" if may_raise_limits(host) else 'default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]'
    host.write("/etc/containers/containers.conf", CONTAINERS_CONF.format(limits=limits) + network)
    host.engine("podman", "load", "--quiet", "--input", "/run/web.tar")


def may_raise_limits(host: EngineHost) -> bool:
    """Whether processes on the host have CAP_SYS_RESOURCE."""
    status = dict(line.split(":\t", 1) for line in host.engine("cat", "/proc/self/status").splitlines())
    return bool(int(status["CapBnd"], 16) >> CAP_SYS_RESOURCE & 1)


def serve(host: EngineHost, name: str, *options: str) -> None:
    """Start the web server as a container."""
    host.engine("podman", "run", "--detach", "--pull", "never", "--name", name, *options, WEB)


def remove(host: EngineHost, *names: str) -> None:
    """Remove containers, running or not."""
    host.engine("podman", "rm", "--force", "--time", "0", *names)


def get(host: EngineHost, name: str, url: str) -> str:
    """What a URL answers, asked from within a container."""
    return answered(lambda: host.engine("podman", "exec", name, "wget", "-q", "-O", "-", url))


def attached(host: EngineHost, name: str, network: str) -> dict[str, Any]:
    """What Podman says of a container on a network: IPAddress, MacAddress, Gateway, GlobalIPv6Address."""
    networks: dict[str, dict[str, Any]] = json.loads(
        host.engine("podman", "inspect", "--format", "{{json .NetworkSettings.Networks}}", name)
    )
    return networks[network]
