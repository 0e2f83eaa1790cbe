"""The other nodes, commanded from node 1 by ssh; each has the installed product and containers."""

from __future__ import annotations

import json
import shlex
import subprocess
from contextlib import suppress
from typing import Any

from tests.vm.node import BIN, until

ADDRESS = "10.77.0.1{}"


class Machine:
    """A node by its number; node 1 is where the tests run."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.name = f"node{number}"
        self.address = ADDRESS.format(number)

    def run(self, command: str, given: str = "", check: bool = True, limit: float = 180.0) -> str:
        """Run a shell command there; its output."""
        words = ["sh", "-c", command] if self.number == 1 else ["ssh", "-o", "BatchMode=yes", self.name, command]
        done = subprocess.run(words, input=given, capture_output=True, text=True, timeout=limit)
        if check and done.returncode:
            raise AssertionError(f"{self.name}: {command}: {done.stderr or done.stdout}")
        return done.stdout

    def answers(self) -> bool:
        """Whether it is up, its job done: the wheel is installed."""
        with suppress(subprocess.TimeoutExpired):
            command = "test -e /srv/state/installed && echo yes"
            return self.run(command, check=False, limit=30).strip() == "yes"
        return False

    def ready(self) -> Machine:
        """Once it is up: our executables and units installed."""
        until(self.answers, f"{self.name} answers by ssh", 400)
        self.run(
            f"PATH=/opt/netdrivers/bin:$PATH netctl install --bin-dir {BIN} --systemd >/dev/null &&"
            " systemctl daemon-reload && systemctl enable -q --now netdrivers.socket"
        )
        return self

    def cni(self, command: str, config: dict[str, Any], container: str) -> Any:
        """Call an installed executable there, for a namespace of ip-netns(8)."""
        variables = {
            "CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_IFNAME": "eth0",
            "CNI_NETNS": f"/run/netns/{container}", "CNI_PATH": str(BIN),
        }  # fmt: skip
        words = " ".join(f"{key}={shlex.quote(value)}" for key, value in variables.items())
        said = self.run(f"env {words} {BIN}/{config['type']} || true", json.dumps(config))
        answer = json.loads(said) if said.strip() else {}
        assert "code" not in answer, f"{self.name}: {answer}"
        return answer

    def attach(self, config: dict[str, Any], container: str) -> str:
        """A new container there, with a web server that gives a file of 200 kB; its address."""
        self.run(f"ip netns add {container}")
        address: str = self.cni("ADD", config, container)["ips"][0]["address"].partition("/")[0]
        self.run(
            f"mkdir -p /srv/web && head -c 200000 /dev/urandom >/srv/web/{container} &&"
            f" ip netns exec {container} busybox httpd -p 80 -h /srv/web"
        )
        return address

    def reaches(self, container: str, address: str, tries: int = 3) -> bool:
        """Whether a container there gets an answer to a ping."""
        command = f"ip netns exec {container} ping -q -c 1 -W 3 {address}"
        return any("1 received" in self.run(command, check=False) for _ in range(tries))

    def fetches(self, container: str, address: str, name: str, there: Machine) -> bool:
        """Whether a container there gets another's file as it is."""
        got = self.run(f"ip netns exec {container} curl -s -m 60 http://{address}/{name} | sha256sum")
        return got == there.run(f"sha256sum </srv/web/{name}")

    def pull_the_plug(self) -> None:
        """Reset it, without a word to any process; it boots anew at once."""
        with suppress(subprocess.TimeoutExpired):
            self.run("echo b >/proc/sysrq-trigger", check=False, limit=5)
        subprocess.run(["ssh", "-O", "exit", self.name], capture_output=True)
