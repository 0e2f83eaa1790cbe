"""netctl as a process on a test host, with networks and conflists of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.lab import Host, Namespace


class Netctl:
    """Runs netctl on a host. networks and conflists are the directories where it looks names up."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host = host
        self.networks = folder / "networks.d"
        self.conflists = folder / "net.d"
        self.conflists.mkdir()

    def run(self, *words: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run it, whatever its exit status. A person never sees a traceback, and an error is one line."""
        more = {"NETDRIVERS_NETWORKS_DIR": str(self.networks), "NETCONFPATH": str(self.conflists), **(env or {})}
        done = self.host.run(
            sys.executable, "-m", "netdrivers.netctl", *map(str, words), env=self.host.env(**more), check=False
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.stderr.count("\n") <= 1, done.stderr
        return done

    def ok(self, *words: str | Path) -> str:
        """Run it; its output. It must succeed."""
        done = self.run(*words)
        assert done.returncode == 0, done.stderr or done.stdout
        return done.stdout

    def json(self, *words: str | Path, status: int = 0) -> Any:
        """Run it with --json; what it printed."""
        done = self.run(*words, "--json")
        assert done.returncode == status, done.stderr or done.stdout
        return json.loads(done.stdout)

    def fails(self, status: int, *words: str | Path) -> str:
        """Run it; it must fail with that exit status, and print nothing but one line of error, which is returned."""
        done = self.run(*words)
        assert (done.returncode, done.stdout) == (status, ""), done
        assert done.stderr.startswith("netctl: "), done.stderr
        return done.stderr.removeprefix("netctl: ").strip()

    def conflist(self, name: str, *plugins: dict[str, Any], **more: Any) -> Path:
        """Write a conflist among those that are found by name."""
        path = self.conflists / f"{name}.conflist"
        path.write_text(json.dumps({"cniVersion": "1.0.0", "name": name, "plugins": plugins, **more}))
        return path


def bridge(subnet: str = "10.70.0.0/24", name: str = "br-test", /, **more: Any) -> dict[str, Any]:
    """A bridge plugin with a way out and published ports."""
    return {
        "type": "bridge",
        "bridge": name,
        "isDefaultGateway": True,
        "ipMasq": True,
        "capabilities": {"portMappings": True},
        "ipam": {"type": "host-local", "ranges": [[{"subnet": subnet}]]},
        **more,
    }


def pid_in(namespace: Namespace) -> subprocess.Popen[bytes]:
    """A process in a namespace."""
    holder = subprocess.Popen(
        ["nsenter", f"--net={namespace.path}", "--", "sh", "-c", "echo; exec sleep 300"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout
    assert holder.stdout.readline() == b"\n"
    return holder
