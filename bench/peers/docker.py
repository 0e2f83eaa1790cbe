"""dockerd's own bridge as a peer: `network connect` and `disconnect` on a running container, through the API.

The container runs on an internal network, so connect makes the endpoint, NAT and published ports and
nothing else; the time is that of the HTTP request, dockerd's own bookkeeping included.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import time
from dataclasses import dataclass
from typing import Any

from bench import process, world
from bench.peers.base import Attachment, Done, Net, Peer, memory_of

_SOCKET = f"{world.STATE}/docker.sock"
_IDLE = {"Name": "idle", "Driver": "bridge", "Internal": True, "IPAM": {"Config": [{"Subnet": "10.99.0.0/16"}]}}


class _Connection(http.client.HTTPConnection):
    """HTTP over dockerd's Unix socket."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        self.sock.connect(_SOCKET)


@dataclass
class Docker(Peer):
    """A dockerd of its own in the world. root: where Debian's packages were unpacked ("" for /)."""

    root: str = ""
    features: frozenset[str] = frozenset({"latency", "memory"})

    def absent(self) -> str:
        """Needs dockerd, containerd, runc and a static busybox for the container."""
        path = self._path()
        missing = [name for name in ("dockerd", "containerd", "runc", "busybox") if not shutil.which(name, path=path)]
        return f"no {', '.join(missing)}" if missing else ""

    def _path(self) -> str:
        own = [f"{self.root}/usr/sbin", f"{self.root}/usr/bin"] if self.root else []
        return ":".join([*own, process.PATH])

    def start(self) -> None:
        """dockerd, an image, the idle network."""
        data = f"{world.STATE}/docker"
        os.makedirs(data)
        words = ["dockerd", "--data-root", data, "--exec-root", f"{data}-exec", "-H", f"unix://{_SOCKET}"]
        words += ["-p", f"{data}.pid", "--storage-driver", "vfs", "--userland-proxy=false", "--bridge", "none"]
        with open(f"{data}.log", "wb") as log:
            self._daemon = subprocess.Popen(words, env={"PATH": self._path()}, stdout=log, stderr=log)
        self._networks: set[str] = set()
        self._containers: dict[str, str] = {}
        for _ in range(300):
            try:
                self._ask("GET", "/_ping")
                break
            except OSError:
                if self._daemon.poll() is not None:
                    break
                time.sleep(0.1)
        else:
            raise process.PeerError("dockerd did not answer within 30 s")
        if self._daemon.poll() is not None:
            with open(f"{data}.log", encoding="utf-8", errors="replace") as text:
                raise process.PeerError(f"dockerd ended: {text.read()[-300:]}")
        self._ask("POST", "/images/create?fromSrc=-&repo=bench", _image(), kind="application/x-tar")
        self._ask("POST", "/networks/create", _IDLE)

    def stop(self) -> None:
        """Remove the containers, end dockerd."""
        for container in self._containers.values():
            self._ask("DELETE", f"/containers/{container}?force=1")
        self._daemon.terminate()
        self._daemon.wait(30)

    def prepare(self, attachment: Attachment) -> None:
        """A running container on the idle network, its port bindings waiting for a network that can publish."""
        net = attachment.net
        if net.name not in self._networks:
            self._networks.add(net.name)
            self._ask("POST", "/networks/create", _network(net))
        container = self._ask("POST", f"/containers/create?name={attachment.name}", _container(attachment))["Id"]
        self._containers[attachment.name] = container
        self._ask("POST", f"/containers/{container}/start")
        pid = self._ask("GET", f"/containers/{container}/json")["State"]["Pid"]
        os.symlink(f"/proc/{pid}/ns/net", attachment.netns)

    def release(self, attachment: Attachment) -> None:
        """Remove the container."""
        os.unlink(attachment.netns)
        self._ask("DELETE", f"/containers/{self._containers.pop(attachment.name)}?force=1")

    def add(self, attachment: Attachment) -> Done:
        """connect."""
        container = self._containers[attachment.name]
        seconds = self._time(f"/networks/{attachment.net.name}/connect", {"Container": container})
        found = self._ask("GET", f"/containers/{container}/json")["NetworkSettings"]["Networks"]
        return Done(seconds, found[attachment.net.name]["IPAddress"])

    def delete(self, attachment: Attachment, done: Done) -> float:
        """disconnect."""
        container = self._containers[attachment.name]
        return self._time(f"/networks/{attachment.net.name}/disconnect", {"Container": container})

    def resident_kib(self) -> tuple[int, int] | None:
        """Of dockerd, without containerd."""
        return memory_of(self._daemon.pid)

    def _time(self, path: str, body: dict[str, Any]) -> float:
        connection = _Connection("docker")
        connection.connect()
        data = json.dumps(body)
        start = time.perf_counter()
        connection.request("POST", path, data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        seconds = time.perf_counter() - start
        connection.close()
        if answer.status >= 300:
            raise process.PeerError(f"dockerd: {path}: {text.decode(errors='replace')[:200]}")
        return seconds

    def _ask(self, method: str, path: str, body: object = None, kind: str = "application/json") -> Any:
        connection = _Connection("docker")
        data = body if isinstance(body, bytes) else json.dumps(body) if body is not None else None
        connection.request(method, path, data, {"Content-Type": kind} if data is not None else {})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if answer.status >= 300:
            raise process.PeerError(f"dockerd: {method} {path}: {text.decode(errors='replace')[:200]}")
        return json.loads(text) if "/json" in path or "create?name" in path else None


def _network(net: Net) -> dict[str, Any]:
    return {
        "Name": net.name,
        "Driver": "bridge",
        "IPAM": {"Config": [{"Subnet": net.subnet, "Gateway": net.gateway}]},
        "Options": {
            "com.docker.network.bridge.name": net.bridge,
            "com.docker.network.bridge.enable_ip_masquerade": "true" if net.nat else "false",
        },
    }


def _container(attachment: Attachment) -> dict[str, Any]:
    return {
        "Image": "bench",
        "Cmd": ["/bin/busybox", "sleep", "86400"],
        "ExposedPorts": {f"{container}/tcp": {} for _, container in attachment.ports},
        "HostConfig": {
            "NetworkMode": "idle",
            "PortBindings": {f"{container}/tcp": [{"HostPort": str(host)}] for host, container in attachment.ports},
        },
    }


def _image() -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(shutil.which("busybox", path=process.PATH) or "", "bin/busybox")
    return archive.getvalue()
