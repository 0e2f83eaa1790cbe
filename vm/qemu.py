"""Nodes by plain qemu, on a switch of their own; to be run in a network namespace made for it.

Each node has four virtio devices in this order: the root disk (a copy-on-write layer above the box), the job as a tar,
a blank disk that node 1 writes a tar of its results to, and a network card on the switch.
"""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from vm import job
from vm.console import Console
from vm.errors import NodeFailed

SWITCH = "vmswitch"
RESULT_BYTES = 64 << 20
MEMORY_MIB = int(os.environ.get("NETDRIVERS_VM_MEMORY", "1024"))
ACCELERATION = os.environ.get("NETDRIVERS_VM_ACCEL", "tcg,thread=multi")
BOOT_SECONDS = 240
POLL_SECONDS = 0.5


class Node:
    """One virtual machine, from its start to its end. number: 1 to 3."""

    def __init__(self, number: int, box: Path, job_disk: Path, work: Path) -> None:
        self.number = number
        self.name = f"node{number}"
        self._work = work / self.name
        self._work.mkdir()
        self.console = Console(self._work / "console")
        self._results = self._work / "results.tar"
        with self._results.open("wb") as file:
            file.truncate(RESULT_BYTES)
        root = self._work / "root.qcow2"
        _run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(box / "box.img"), str(root))
        tap = f"vmtap{number}"
        _run("ip", "tuntap", "add", tap, "mode", "tap")
        _run("ip", "link", "set", tap, "master", SWITCH, "up")
        self._said = self._work / "qemu.log"
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [
                    *("nice", "-n", "15", "qemu-system-x86_64", "-name", self.name),
                    *("-accel", ACCELERATION, "-cpu", "host" if ACCELERATION == "kvm" else "qemu64"),
                    *("-smp", "1", "-m", str(MEMORY_MIB), "-nodefaults", "-no-user-config", "-display", "none"),
                    *("-kernel", str(box / "vmlinuz"), "-initrd", str(box / "initrd")),
                    *("-append", "console=ttyS0 quiet panic=0 net.ifnames=0 mitigations=off systemd.show_status=auto"),
                    *("-serial", f"file:{self._work / 'console'}"),
                    *_disk("root", root, "qcow2", "cache=unsafe"),
                    *_disk("job", job_disk, "raw", "readonly=on"),
                    *_disk("results", self._results, "raw"),
                    *("-netdev", f"tap,id=switch,ifname={tap},script=no,downscript=no"),
                    *("-device", f"virtio-net-pci,netdev=switch,mac=52:54:00:77:00:{number:02x},romfile="),
                    *("-device", "virtio-rng-pci"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )

    def ended(self) -> bool:
        """The machine is off."""
        return self._process.poll() is not None

    def stop(self) -> None:
        """Pull the plug."""
        self._process.kill()
        self._process.wait()

    def failure(self, what: str) -> NodeFailed:
        """What went wrong, with what the node and qemu said last."""
        said = self._said.read_text(errors="replace").strip()
        return NodeFailed(self.name, what, self.console.tail(), said)

    def results(self, target: Path) -> None:
        """Unpack what the node wrote to its third disk."""
        done = subprocess.run(["tar", "-xf", self._results, "-C", target], capture_output=True, text=True)
        if done.returncode or not (target / "done").exists():
            raise self.failure(f"wrote no results {done.stderr.strip()}")


def _disk(name: str, path: Path, form: str, more: str = "") -> tuple[str, ...]:
    options = f"id={name},file={path},format={form},if=none" + (f",{more}" if more else "")
    return ("-drive", options, "-device", f"virtio-blk-pci,drive={name}")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NodeFailed("host", f"{' '.join(command)}: {done.stderr.strip()}")


def run(box: Path, job_directory: Path, nodes: int, work: Path, results: Path, limit: float) -> None:
    """Start the nodes, show what node 1 says until it is off, keep its results. NodeFailed; limit in seconds."""
    disk = work / "job.tar"
    job.pack(job_directory, disk)
    _run("ip", "link", "add", SWITCH, "type", "bridge", "mcast_snooping", "0")
    _run("ip", "link", "set", SWITCH, "up")
    started = [Node(number, box, disk, work) for number in range(1, nodes + 1)]
    first = started[0]
    try:
        _watch(started, time.monotonic() + limit)
        first.results(results)
    finally:
        for node in started:
            node.stop()
            with suppress(OSError):
                (results / f"{node.name}.console").write_text("\n".join([*node.console.lines, ""]))


def _watch(nodes: list[Node], deadline: float) -> None:
    """Until node 1 is off; others may go on and off as they like, but each must have started its job."""
    boot_deadline = time.monotonic() + BOOT_SECONDS
    while not nodes[0].ended():
        for node in nodes:
            for line in node.console.follow():
                print(line if node.number == 1 else f"{node.name}: {line}", flush=True)
            if node.console.panicked:
                raise node.failure("panicked")
            if node.number > 1 and node.ended():
                raise node.failure("went off")
            if not node.console.started and time.monotonic() > boot_deadline:
                raise node.failure(f"did not get as far as its job in {BOOT_SECONDS} s")
        if time.monotonic() > deadline:
            raise nodes[0].failure("did not finish in time")
        time.sleep(POLL_SECONDS)
    for line in nodes[0].console.follow():
        print(line, flush=True)
    if not nodes[0].console.started:
        raise nodes[0].failure("went off before its job began")
