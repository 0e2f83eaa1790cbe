"""Docker on an EngineHost: its daemon, our service beside it, and the commands the tests share."""

from __future__ import annotations

import json
from typing import Any

from .harness import EngineHost, answered, eventually
from .image import WEB

PLUGINS = "/run/docker/plugins"
DAEMON = ("dockerd", "--exec-opt", "native.cgroupdriver=cgroupfs")


def start(host: EngineHost, *options: str) -> None:
    """Start dockerd and wait until it answers; its own release's client comes first on the PATH."""
    host.run("ln", "-sf", "/usr/bin/docker", "/run/bin/docker")
    host.spawn(*DAEMON, *options, log="/run/dockerd.log")
    up = eventually(lambda: host.run("docker", "version", check=False).returncode == 0, seconds=60)
    assert up, host.path("/run/dockerd.log").read_text()


def load(host: EngineHost) -> None:
    """Load the web server's image."""
    host.engine("docker", "load", "--quiet", "--input", "/run/web.tar")


def end(host: EngineHost, signal: str = "TERM") -> None:
    """End dockerd, with a signal, and wait until it has."""
    _end(host, signal, "-x", "dockerd", seconds=60)


def serve(host: EngineHost) -> None:
    """Start our service and wait for its sockets."""
    host.spawn("env", f"NETDRIVERS_DOCKER_PLUGINS={PLUGINS}", "netctl", "serve", log="/run/netdrivers.log")
    up = eventually(lambda: host.path(f"{PLUGINS}/netdrivers-bridge.sock").exists())
    assert up, host.path("/run/netdrivers.log").read_text()


def end_service(host: EngineHost, signal: str = "TERM") -> None:
    """End our service, with a signal, and wait until it has."""
    _end(host, signal, "-f", "netctl serve")
    if signal == "KILL":  # what it leaves must not pass for a new one
        host.path(f"{PLUGINS}/netdrivers-bridge.sock").unlink()


def _end(host: EngineHost, signal: str, *which: str, seconds: float = 30) -> None:
    host.run("pkill", f"-{signal}", *which, where="machine")
    gone = eventually(lambda: host.run("pgrep", *which, where="machine", check=False).returncode == 1, seconds=seconds)
    assert gone


def network(host: EngineHost, name: str, *options: str, driver: str = "netdrivers-bridge") -> None:
    """Create a network."""
    host.engine("docker", "network", "create", "--driver", driver, *options, name)


def run(host: EngineHost, name: str, *options: str) -> None:
    """Start the web server as a container."""
    host.engine("docker", "run", "--detach", "--pull", "never", "--name", name, *options, WEB)


def remove(host: EngineHost, *names: str) -> None:
    """Remove containers, running or not."""
    host.engine("docker", "rm", "--force", *names)


def remove_all(host: EngineHost) -> None:
    """Remove every container, and every network that is not Docker's own."""
    for kind, options in (("container", ("--all",)), ("network", ("--filter", "type=custom"))):
        names = host.engine("docker", kind, "ls", *options, "--quiet").split()
        if names:
            host.engine("docker", kind, "rm", *(("--force",) if kind == "container" else ()), *names)


def get(host: EngineHost, name: str, url: str) -> str:
    """What a URL answers, asked from within a container."""
    return answered(lambda: host.engine("docker", "exec", name, "wget", "-q", "-O", "-", url))


def attached(host: EngineHost, name: str, network: str) -> dict[str, Any]:
    """What Docker says of a container on a network: IPAddress, MacAddress, Gateway, GlobalIPv6Address."""
    networks: dict[str, dict[str, Any]] = json.loads(
        host.engine("docker", "inspect", "--format", "{{json .NetworkSettings.Networks}}", name)
    )
    return networks[network]
