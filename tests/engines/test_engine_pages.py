"""The pages in docs/engines: each ```sh block is run, and what it must print is in a ```text block after it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from . import containerd, podman
from .conftest import MakeHost
from .harness import BIN_DIR, EngineHost, eventually
from .needs import program
from .snapshot import difference, network, settled

PAGES = Path(__file__).parents[2] / "docs" / "engines"
BLOCK = re.compile(r"^```sh\n(.*?)^```\n(?:```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)

SYSTEMCTL = """#!/bin/sh
# A test host has no systemd; the one command that the pages give it is understood here.
set -e
[ "$*" = "restart containerd" ]
pkill -x containerd && while pgrep -x containerd > /dev/null; do sleep 0.1; done
setsid containerd < /dev/null >> /run/containerd.log 2>&1 &
until ctr version > /dev/null 2>&1; do sleep 0.1; done
"""


def follow(host: EngineHost, page: str) -> None:
    """Run a page's commands one block after the other."""
    blocks = BLOCK.findall((PAGES / page).read_text())
    assert blocks
    for script, expected in blocks:
        said = host.run("sh", "-euc", script, timeout=60)
        host.publish_executables(BIN_DIR, "/opt/cni/bin")
        if expected:
            assert said.stdout == expected, f"{script}\n{said.stderr}"


@contextlib.contextmanager
def nothing_left(host: EngineHost) -> Iterator[None]:
    """Each page ends with everything removed: not even a bridge stays."""
    before = settled(host.machine)
    yield
    change = eventually(lambda: difference(before, network(host.machine)), lambda lines: not lines)
    assert change == []


def test_podman_page(engine_host: MakeHost) -> None:
    host = engine_host("podman", r"version 4\.3\.", "debian12")
    podman.configure(host)
    with nothing_left(host):
        follow(host, "podman-cni.md")
    assert host.engine("podman", "ps", "--all", "--quiet") == ""


def test_podman_5_page(engine_host: MakeHost) -> None:
    host = engine_host("podman", r"version 5\.", "debian13")
    podman.configure(host)
    with nothing_left(host):
        follow(host, "podman-netavark.md")
    assert host.engine("podman", "ps", "--all", "--quiet") == ""


def test_oci_page(engine_host: MakeHost) -> None:
    for name in ("runc", "crun", "lxc-start", "systemd-nspawn"):
        program(name)
    host = engine_host("podman", r"version [45]\.", "debian12")
    host.run("umount", "/sys/fs/cgroup/unified", check=False)  # crun does not take both kinds of cgroups side by side
    podman.configure(host)
    with nothing_left(host):
        follow(host, "oci.md")


def test_containerd_page(engine_host: MakeHost) -> None:
    host = engine_host("containerd", r" v?1\.[67]\.", "debian12")
    host.write("/run/bin/systemctl", SYSTEMCTL, 0o755)
    containerd.start(host)
    with nothing_left(host):
        follow(host, "containerd.md")
    assert containerd.Cri(host).ready()
