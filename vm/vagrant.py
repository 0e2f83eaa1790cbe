"""Nodes by Vagrant and libvirt; to be run in namespaces of network, mounts and processes made for it.

libvirtd runs here with directories of its own laid over the machine's, so that no network, domain or file of it
outlives the namespaces.
"""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from vm.console import Console
from vm.errors import NodeFailed

TOP = Path(__file__).resolve().parent.parent
OVERLAID = ("/etc/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt", "/run")
CONFIGURATION = """\
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
"""
"""qemu.conf for a machine without systemd, AppArmor and a second user: nothing is confined but by our namespaces."""

UP_SECONDS = 600
POLL_SECONDS = 0.5


class Nodes:
    """libvirtd, and Vagrant's commands on it."""

    def __init__(self, box: Path, job: Path, count: int, work: Path) -> None:
        self.names = [f"node{number}" for number in range(1, count + 1)]
        self._work = work
        self._consoles = work / "consoles"
        self._consoles.mkdir()
        self.consoles = {name: Console(self._consoles / name) for name in self.names}
        self._environment = {
            **os.environ,
            "HOME": str(work / "home"),
            "VAGRANT_HOME": str(work / "home" / ".vagrant.d"),
            "VAGRANT_CWD": str(TOP / "vagrant"),
            "VAGRANT_DOTFILE_PATH": str(work / "dotfile"),
            "VAGRANT_CHECKPOINT_DISABLE": "1",
            "NETDRIVERS_BOX": str(box),
            "NETDRIVERS_JOB": str(job),
            "NETDRIVERS_CONSOLES": str(self._consoles),
        }
        (work / "home").mkdir()
        self._log = work / "libvirtd.log"
        self._libvirtd = self._start_libvirtd()

    def _start_libvirtd(self) -> subprocess.Popen[bytes]:
        for place in OVERLAID:
            own = self._work / "overlaid" / place.strip("/").replace("/", "-")
            own.mkdir(parents=True)
            Path(place).mkdir(parents=True, exist_ok=True)
            _run("mount", "--bind", str(own), place)
        Path("/var/lib/libvirt/images").mkdir()
        Path("/etc/libvirt/qemu.conf").write_text(CONFIGURATION)
        # Of this network namespace and not of the machine's.
        _run("mount", "-t", "sysfs", "sysfs", "/sys")
        _run("ip", "link", "set", "lo", "up")
        with self._log.open("wb") as log:
            started = subprocess.Popen(["nice", "-n", "15", "libvirtd"], stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not Path("/run/libvirt/libvirt-sock").exists():
            if started.poll() is not None or time.monotonic() > deadline:
                raise NodeFailed("host", "libvirtd does not start", said=self._log.read_text(errors="replace"))
            time.sleep(POLL_SECONDS)
        return started

    def vagrant(self, *words: str, limit: float = UP_SECONDS) -> None:
        """Run a command of Vagrant, shown as it goes. NodeFailed with the consoles of those that did not boot."""
        command = ["nice", "-n", "10", "vagrant", *words, "--no-tty"]
        try:
            status = subprocess.run(command, env=self._environment, stdin=subprocess.DEVNULL, timeout=limit).returncode
        except subprocess.TimeoutExpired:
            status = -1
        if status:
            raise self.failure(f"vagrant {' '.join(words)}: {'took too long' if status < 0 else f'status {status}'}")

    def ssh(self, name: str, command: str, output: Path | None = None) -> None:
        """Run a command in a node."""
        words = ["vagrant", "ssh", "--no-tty", name, "-c", command]
        with (output or Path(os.devnull)).open("wb") as out:
            done = subprocess.run(
                words, env=self._environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, timeout=120
            )
        if done.returncode:
            raise self.failure(f"{name}: {command}: {done.stderr.decode(errors='replace').strip()}")

    def failure(self, what: str) -> NodeFailed:
        """What went wrong, with each console's last lines."""
        tails = []
        for name, console in self.consoles.items():
            console.follow()
            tails.append(f"  {name}:\n{console.tail(20)}")
        return NodeFailed("host", what, "\n".join(tails), self._log.read_text(errors="replace")[-2000:].strip())

    def close(self, results: Path) -> None:
        """Destroy the nodes, stop libvirtd, keep the consoles."""
        with suppress(NodeFailed):
            self.vagrant("destroy", "--force")
        self._libvirtd.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._libvirtd.wait(30)
        for name, console in self.consoles.items():
            console.follow()
            (results / f"{name}.console").write_text("\n".join([*console.lines, ""]))


def run(box: Path, job: Path, count: int, work: Path, results: Path, limit: float) -> None:
    """Start the nodes, have each do its job, show what node 1 says until it is done, keep its results. NodeFailed."""
    nodes = Nodes(box, job, count, work)
    try:
        nodes.vagrant("up", "--provider", "libvirt", *nodes.names)
        for name in reversed(nodes.names):
            nodes.ssh(name, "sudo systemctl start --no-block vm-job.service")
        _watch(nodes, time.monotonic() + limit)
        answer = work / "results.tar"
        nodes.ssh("node1", "sudo tar -c -C /srv/results .", answer)
        _run("tar", "-xf", str(answer), "-C", str(results))
    finally:
        nodes.close(results)


def _watch(nodes: Nodes, deadline: float) -> None:
    while True:
        for name, console in nodes.consoles.items():
            for line in console.follow():
                print(line if name == "node1" else f"{name}: {line}", flush=True)
            if console.panicked:
                raise nodes.failure(f"{name} panicked")
        if nodes.consoles["node1"].done:
            return
        if time.monotonic() > deadline:
            raise nodes.failure("node1 did not finish in time")
        time.sleep(POLL_SECONDS)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NodeFailed("host", f"{' '.join(command)}: {done.stderr.strip()}")
