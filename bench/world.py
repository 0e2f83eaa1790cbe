"""A world: a private host for one peer (mount, network, UTS namespaces) with an outside host beside it.

The machine's own network, /run and /var/lib/cni are out of reach inside. A world belongs to the
process that made it, and goes when that process and its children end.
"""

from __future__ import annotations

import ctypes
import os
import subprocess

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWNET = 0x00020000, 0x04000000, 0x40000000
MS_BIND = 4096

HOST_ADDRESS = "192.0.2.1"
OUTSIDE_ADDRESS = "192.0.2.2"
OUTSIDE = "/run/netns/outside"
STATE = "/run/bench"

_SETUP = f"""
set -e
mount --make-rprivate /
cgroups=$(mktemp -d)
if [ -d /sys/fs/cgroup ]; then mount --rbind /sys/fs/cgroup "$cgroups"; fi
mount -t sysfs sysfs /sys
if mountpoint -q "$cgroups"; then mount --move "$cgroups" /sys/fs/cgroup; fi
rmdir "$cgroups"
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib/cni
mkdir -p /run/netns /run/lock {STATE}
hostname bench
ip link set lo up
sysctl -qw net.ipv4.ip_forward=1
ip netns add outside
ip link add up0 type veth peer name out0 netns outside
ip addr add {HOST_ADDRESS}/24 dev up0
ip link set up0 up
ip -n outside link set lo up
ip -n outside addr add {OUTSIDE_ADDRESS}/24 dev out0
ip -n outside link set out0 up
ip route add default via {OUTSIDE_ADDRESS}
"""

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def enter_new() -> None:
    """Move this (single-threaded) process into a new world. OSError where that cannot be, as without root."""
    _check(_libc.unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWNET), "unshare")
    done = subprocess.run(["bash", "-c", _SETUP], capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise OSError(f"a world cannot be made here: {done.stderr.strip()[-200:]}")


def make_netns(path: str) -> None:
    """A new network namespace bound to a path, as `ip netns add` does, without a process for each."""
    own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        _check(_libc.unshare(CLONE_NEWNET), "unshare")
        try:
            _check(_libc.mount(b"/proc/self/ns/net", path.encode(), b"none", MS_BIND, None), f"bind {path}")
        finally:
            _check(_libc.setns(own, CLONE_NEWNET), "setns")
    finally:
        os.close(own)


def remove_netns(path: str) -> None:
    """Unbind and remove a namespace made by make_netns."""
    _check(_libc.umount2(path.encode(), 2), f"umount {path}")
    os.unlink(path)
