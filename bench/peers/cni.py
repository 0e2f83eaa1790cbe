"""CNI executables as a peer: a chain of plugins run as libcni runs it (ADD in order, DEL in reverse)."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field
from typing import Any

from bench import process, world
from bench.peers.base import Attachment, Done, Net, Peer, memory_of

VERSION = "1.0.0"


@dataclass
class Chain(Peer):
    """A chain of CNI executables. bin_dir holds them; environment goes to each of them."""

    bin_dir: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    def plugins(self, attachment: Attachment) -> list[dict[str, Any]]:
        """The chain's configurations, capabilities already turned into runtimeConfig."""
        raise NotImplementedError

    def add(self, attachment: Attachment) -> Done:
        """ADD of each plugin, fed with the result of the one before; the time is that of the processes."""
        seconds, result = 0.0, None
        for plugin in self.plugins(attachment):
            finished = self._call("ADD", plugin, attachment, result)
            seconds += finished.seconds
            result = json.loads(finished.stdout)
        return Done(seconds, _address(result), result)

    def delete(self, attachment: Attachment, done: Done) -> float:
        """DEL of each plugin in reverse order, with the result of ADD."""
        plugins = reversed(self.plugins(attachment))
        return sum(self._call("DEL", plugin, attachment, done.record).seconds for plugin in plugins)

    def _call(
        self, command: str, plugin: dict[str, Any], attachment: Attachment, result: dict[str, Any] | None
    ) -> process.Finished:
        request = {"cniVersion": VERSION, "name": attachment.net.name, **plugin}
        if result is not None:
            request["prevResult"] = result
        environment = {
            "PATH": process.PATH,
            "CNI_PATH": self.bin_dir,
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": attachment.container,
            "CNI_NETNS": attachment.netns,
            "CNI_IFNAME": "eth0",
            **self.environment,
        }
        return self.call([os.path.join(self.bin_dir, plugin["type"])], json.dumps(request).encode(), environment)


def _address(result: dict[str, Any] | None) -> str:
    return str(result["ips"][0]["address"]).partition("/")[0] if result else ""


def bridge_configuration(net: Net, data_dir: str) -> dict[str, Any]:
    """The bridge plugin's part, the same for the reference and for ours."""
    return {
        "type": "bridge",
        "bridge": net.bridge,
        "isGateway": True,
        "ipMasq": net.nat,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": data_dir,
            "ranges": [[{"subnet": net.subnet}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }


def _mappings(attachment: Attachment) -> dict[str, Any]:
    return {
        "portMappings": [
            {"hostPort": host, "containerPort": container, "protocol": "tcp"} for host, container in attachment.ports
        ]
    }


@dataclass
class Reference(Chain):
    """containernetworking-plugins: bridge with host-local, then portmap where ports are published.

    backend: "iptables", or "nftables" (from release 1.7). Without ports the chain is bridge alone.
    """

    backend: str = "iptables"

    def absent(self) -> str:
        """Needs the three executables, and iptables or nft on PATH."""
        missing = [name for name in ("bridge", "host-local", "portmap") if not _executable(self.bin_dir, name)]
        return f"no {', '.join(missing)} in {self.bin_dir}" if missing else ""

    def plugins(self, attachment: Attachment) -> list[dict[str, Any]]:
        """bridge, then portmap."""
        bridge = bridge_configuration(attachment.net, f"{world.STATE}/host-local")
        portmap: dict[str, Any] = {"type": "portmap", "snat": True, "runtimeConfig": _mappings(attachment)}
        if self.backend == "nftables":
            bridge["ipMasqBackend"] = portmap["backend"] = "nftables"
        return [bridge, portmap] if attachment.ports else [bridge]


@dataclass
class Ours(Chain):
    """netdrivers' own bridge executable. service: "off" works in-process, "require" needs the warm service."""

    netctl: str = ""
    service: str = "off"

    def absent(self) -> str:
        """Needs netctl, able to install the executables, and to serve where the service is asked for."""
        if not os.access(self.netctl, os.X_OK):
            return f"no executable {self.netctl or 'netctl'}"
        if self.service == "require" and not _knows(self.netctl, "serve"):
            return "this netctl has no command serve"
        return "" if _knows(self.netctl, "install") else "this netctl has no command install"

    def start(self) -> None:
        """Install the executables, and start the service where it is asked for."""
        self.bin_dir = f"{world.STATE}/bin"
        self.environment = {"NETDRIVERS_SERVICE": self.service, "NETDRIVERS_STATE_DIR": f"{world.STATE}/state"}
        self._serving: subprocess.Popen[bytes] | None = None
        surroundings = {**os.environ, **self.environment, "NETDRIVERS_SERVICE": "auto"}
        process.check(process.run([self.netctl, "install", "--bin-dir", self.bin_dir], b"", surroundings), "install")
        if self.service == "require":
            self._serve(surroundings)

    def _serve(self, environment: dict[str, str]) -> None:
        with open(f"{world.STATE}/service.log", "wb") as log:
            self._serving = subprocess.Popen([self.netctl, "serve"], env=environment, stdout=log, stderr=log)
        for _ in range(100):
            status = process.run([self.netctl, "service", "status"], b"", environment, timeout=10)
            if status.code == 0:
                return
            if self._serving.poll() is not None:
                break
        with open(f"{world.STATE}/service.log", encoding="utf-8", errors="replace") as log_text:
            raise process.PeerError(f"the service does not answer: {log_text.read()[-200:]}")

    def stop(self) -> None:
        """End the service."""
        if self._serving is not None:
            self._serving.terminate()
            self._serving.wait(10)

    def plugins(self, attachment: Attachment) -> list[dict[str, Any]]:
        """One plug-in: it publishes by itself."""
        bridge = bridge_configuration(attachment.net, f"{world.STATE}/host-local")
        return [{**bridge, "runtimeConfig": _mappings(attachment)} if attachment.ports else bridge]

    def resident_kib(self) -> tuple[int, int] | None:
        """Of the service."""
        return memory_of(self._serving.pid) if self._serving is not None else None


def _executable(directory: str, name: str) -> bool:
    return os.access(os.path.join(directory, name), os.X_OK)


def _knows(netctl: str, command: str) -> bool:
    return process.run([netctl, command, "--help"], b"", dict(os.environ), timeout=20).code == 0
