"""containerd on an EngineHost: its configuration there, its client ctr, and its CRI from Python."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

from .harness import BIN_DIR, EngineHost, answered, eventually
from .image import PAUSE, WEB
from .needs import module

CONFIG = f"""
version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
# A machine's root may lack the capability to lower a process's OOM score.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{BIN_DIR}"
conf_dir = "/etc/cni/net.d"
"""

SOCKET = "/run/containerd/containerd.sock"


def start(host: EngineHost) -> None:
    """Start containerd and load the images for ctr and for CRI."""
    host.write("/etc/containerd/config.toml", CONFIG)
    host.spawn("containerd", log="/run/containerd.log")
    up = eventually(lambda: host.run("ctr", "version", check=False).returncode == 0, seconds=30)
    assert up, host.path("/run/containerd.log").read_text()
    for namespace in ("default", "k8s.io"):
        for archive in ("web", "pause"):
            host.engine("ctr", "--namespace", namespace, "images", "import", f"/run/{archive}.tar")


@contextlib.contextmanager
def ctr_run(
    host: EngineHost, name: str, *options: str, image: str = WEB, command: Sequence[str] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """The web server by ``ctr run --cni``; in the foreground, as ctr detaches from the network only when it waits.

    image, command: something else to run.
    """
    argv = ("ctr", "run", "--rm", "--cni", "--null-io", *options, image, name, *command)
    process = host.spawn(*argv, log=f"/run/{name}.log")
    try:
        # A task is first "CREATED", then attached to the network, then "RUNNING".
        running = eventually(
            lambda: re.search(rf"^{name}\s+\d+\s+RUNNING", host.engine("ctr", "tasks", "list"), re.MULTILINE)
        )
        assert running, host.path(f"/run/{name}.log").read_text()
        yield process
    finally:
        host.run("ctr", "tasks", "kill", "--signal", "SIGKILL", name, check=False)
        assert process.wait(timeout=20) in (0, 137), host.path(f"/run/{name}.log").read_text()


def ctr_exec(host: EngineHost, name: str, *argv: str) -> str:
    """Standard output of a command in a container that runs."""
    return host.engine("ctr", "tasks", "exec", "--exec-id", "test", name, *argv)


def ctr_get(host: EngineHost, name: str, url: str) -> str:
    """What a URL answers, asked from within a container."""
    return answered(lambda: ctr_exec(host, name, "wget", "-q", "-O", "-", url))


class Cri:
    """The part of the container runtime interface, version v1, that running one container in a pod takes."""

    def __init__(self, host: EngineHost) -> None:
        package = "container-runtime-interface-api"
        self.api: Any = module("cri_api.v1.api_pb2", package)
        services: Any = module("cri_api.v1.api_pb2_grpc", package)
        grpc: Any = module("grpc", "grpcio")
        self._channel = grpc.insecure_channel(f"unix:{host.path(SOCKET)}")
        self._runtime = services.RuntimeServiceStub(self._channel)
        self._pods: dict[str, Any] = {}

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def ready(self) -> bool:
        """Whether containerd reports its network as ready."""
        conditions = self._runtime.Status(self.api.StatusRequest()).status.conditions
        return any(condition.type == "NetworkReady" and condition.status for condition in conditions)

    def run_pod(self, name: str, ports: Sequence[tuple[int, int]] = ()) -> str:
        """Start a pod that publishes (host port, container port) over TCP; returns its id."""
        config = self.api.PodSandboxConfig(
            metadata=self.api.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="default"),
            hostname=name,
            log_directory=f"/run/pods/{name}",
            port_mappings=[
                self.api.PortMapping(protocol=self.api.TCP, host_port=host_port, container_port=container_port)
                for host_port, container_port in ports
            ],
            linux=self.api.LinuxPodSandboxConfig(),
        )
        pod: str = self._runtime.RunPodSandbox(self.api.RunPodSandboxRequest(config=config)).pod_sandbox_id
        self._pods[pod] = config
        return pod

    def run_web(self, pod: str) -> str:
        """Start the web server in a pod; returns the container's id."""
        config = self.api.ContainerConfig(
            metadata=self.api.ContainerMetadata(name="web"),
            image=self.api.ImageSpec(image=WEB),
            log_path="web.log",
            linux=self.api.LinuxContainerConfig(),
        )
        request = self.api.CreateContainerRequest(pod_sandbox_id=pod, config=config, sandbox_config=self._pods[pod])
        container: str = self._runtime.CreateContainer(request).container_id
        self._runtime.StartContainer(self.api.StartContainerRequest(container_id=container))
        return container

    def addresses(self, pod: str) -> list[str]:
        """The pod's addresses, as CRI reports them."""
        network = self._runtime.PodSandboxStatus(self.api.PodSandboxStatusRequest(pod_sandbox_id=pod)).status.network
        return [network.ip, *(extra.ip for extra in network.additional_ips)]

    def execute(self, container: str, *argv: str) -> str:
        """Standard output of a command in a container."""
        answer = self._runtime.ExecSync(self.api.ExecSyncRequest(container_id=container, cmd=argv, timeout=10))
        assert answer.exit_code == 0, answer.stderr.decode()
        output: bytes = answer.stdout
        return output.decode()

    def get(self, container: str, url: str) -> str:
        """What a URL answers, asked from within a container."""
        return answered(lambda: self.execute(container, "wget", "-q", "-O", "-", url))

    def stop_pod(self, pod: str) -> None:
        """Stop a pod: containerd detaches it from the network. May be called again."""
        self._runtime.StopPodSandbox(self.api.StopPodSandboxRequest(pod_sandbox_id=pod))

    def remove_pods(self) -> None:
        """Stop and remove all pods."""
        for pod in list(self._pods):
            self.stop_pod(pod)
            self._runtime.RemovePodSandbox(self.api.RemovePodSandboxRequest(pod_sandbox_id=pod))
            del self._pods[pod]
