"""The node as an engine's host: the installed executables and units, containers of ``ip netns``, no laboratory."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.lab import CniFailed

BIN = Path("/opt/netdrivers/cni")
SOCKET, SERVICE = "netdrivers.socket", "netdrivers.service"
DEVICE = "eth0" if not Path("/sys/class/net/eth1").exists() else "eth1"
"""The node's device on the switch; Vagrant has its own before it."""


def run(*command: str, check: bool = True, input: str | None = None, env: dict[str, str] | None = None) -> str:
    """Run a command on the node; its output."""
    done = subprocess.run(command, capture_output=True, text=True, input=input, env=env, timeout=180)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return done.stdout


def netctl(*words: str) -> Any:
    """The answer of netctl --json."""
    return json.loads(run("netctl", *words, "--json"))


def install() -> None:
    """Executables and units, the socket enabled, as the manual says."""
    run("netctl", "install", "--bin-dir", str(BIN), "--systemd")
    run("systemctl", "daemon-reload")
    run("systemctl", "enable", "--now", SOCKET)


def unit(name: str, field: str = "ActiveState") -> str:
    """A property of a unit."""
    return run("systemctl", "show", "--value", "--property", field, name).strip()


def until(condition: Callable[[], object], what: str, seconds: float = 120.0) -> None:
    """Wait for something; emulation is slow."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.2)


def cni(command: str, config: dict[str, Any], name: str, check: bool = True, **env: str) -> Any:
    """Call the installed executable for the container of a namespace's name. CniFailed for an error."""
    done = subprocess.run(
        [str(BIN / config["type"])],
        input=json.dumps(config),
        capture_output=True,
        text=True,
        timeout=180,
        env={
            "PATH": os.environ["PATH"], "CNI_COMMAND": command, "CNI_CONTAINERID": name, "CNI_IFNAME": "eth0",
            "CNI_NETNS": f"/run/netns/{name}", "CNI_PATH": str(BIN), **env,
        },
    )  # fmt: skip
    answer = json.loads(done.stdout) if done.stdout.strip() else None
    if done.returncode and check:
        assert answer, done.stderr
        raise CniFailed(answer)
    return answer


def bridge(name: str, subnet: str, **more: Any) -> dict[str, Any]:
    """A bridge network with a way out."""
    return {
        "cniVersion": "1.1.0", "name": name, "type": "bridge", "bridge": f"br-{name}", "isDefaultGateway": True,
        "ipMasq": True, "ipam": {"type": "host-local", "ranges": [[{"subnet": subnet}]]}, **more,
    }  # fmt: skip


def published(host: int, inside: int) -> dict[str, Any]:
    """A configuration's part that publishes a TCP port."""
    return {"runtimeConfig": {"portMappings": [{"hostPort": host, "containerPort": inside, "protocol": "tcp"}]}}


class Web:
    """A web server of busybox in a namespace, answering with a word."""

    def __init__(self, namespace: str, word: str, folder: Path, port: int = 80) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "index.html").write_text(word)
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", namespace, "busybox", "httpd", "-f", "-p", str(port), "-h", str(folder)]
        )

    def close(self) -> None:
        """Stop."""
        self._process.kill()
        self._process.wait()


def fetched(address: str, port: int, tries: int = 5) -> str:
    """What a web server says; "" when it does not answer."""
    for _ in range(tries):
        try:
            with socket.create_connection((address, port), timeout=3) as client:
                client.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
                said = b""
                while chunk := client.recv(4096):
                    said += chunk
                return said.partition(b"\r\n\r\n")[2].decode()
        except OSError:
            time.sleep(0.5)
    return ""
