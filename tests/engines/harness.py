"""A host to run container engines on: a process in namespaces of its own, and a second host on a wire.

Everything the engines do (links, rules, files below /etc, /opt, /run and /var/lib, processes) is inside the
holder's namespaces and gone with it. The machine's own network is never entered.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

HOST4, OUTSIDE4 = "192.0.2.1", "192.0.2.2"
HOST6, OUTSIDE6 = "2001:db8::1", "2001:db8::2"
BIN_DIR = "/opt/netdrivers/bin"

T = TypeVar("T")

HOLDER = """
# Runtimes leave their containers' roots to be found from the mount namespace's root: in a chroot, make ours that.
if [ "$(stat -c %d:%i /)" != "$(nsenter --mount=/proc/self/ns/mnt stat -c %d:%i /)" ]; then
    exec nsenter --mount=/proc/self/ns/mnt --wd=/ sh -ec '
        here=$(pwd -P)
        mount --rbind "$here" "$here"
        cd "$here"
        pivot_root . .
        umount -l .
        exec env --ignore-signal=CHLD sleep infinity
    '
fi
# As init of its process namespace it would have to reap orphans; ignoring CHLD does that.
exec env --ignore-signal=CHLD sleep infinity
"""

FILES = """
mount -t tmpfs -o mode=755 run /run
mount --make-shared /run
mkdir /run/netns /run/lock /run/home /run/bin /run/harness
mount -t tmpfs harness /run/harness
mount --make-private /run/harness
# sysfs shows the links of the namespace it was mounted in; the cgroup trees below the old one move along.
mkdir /run/harness/sys
mount -t sysfs sys /run/harness/sys
[ ! -d /sys/fs/cgroup ] || mount --rbind /sys/fs/cgroup /run/harness/sys/fs/cgroup
mount --rbind /run/harness/sys /sys
for dir in etc opt var/lib; do
    mkdir -p /$dir /run/harness/up/$dir /run/harness/work/$dir
    mount -t overlay -o lowerdir=/$dir,upperdir=/run/harness/up/$dir,workdir=/run/harness/work/$dir files /$dir
done
# An engine's image store is often an overlay itself, which the kernel refuses above another one.
for store in containers containerd docker; do
    mkdir -p /run/harness/store/$store /var/lib/$store
    mount --bind /run/harness/store/$store /var/lib/$store
done
mkdir -p BIN_DIR
"""

FOREIGN_ROOT = """
cd /run/harness
mkdir root upper-root work-root
mount -t overlay -o lowerdir=LOWER,upperdir=upper-root,workdir=work-root root root
# Peers of the machine's own /run: a namespace file bound in one root is seen in the other.
mount --bind /run root/run
for dir in proc sys dev; do
    mount --rbind /$dir root/$dir
done
for store in containers containerd docker; do
    mkdir -p root/var/lib/$store
    mount --bind store/$store root/var/lib/$store
done
mkdir -p rootBIN_DIR
touch root/etc/resolv.conf
cd root
pivot_root . mnt
mount --make-rprivate /mnt
umount -l /mnt
exec sleep infinity
"""

CROSSING = """#!/bin/sh
exec nsenter --target 1 --mount -- PROGRAM "$@"
"""
"""An executable of ours in a foreign root: it runs in the machine's root, in the caller's other namespaces."""

NETWORK = """
ip link set lo up
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
ip netns add outside
ip link add wire type veth peer name wire netns outside
ip address add HOST4/24 dev wire
ip address add HOST6/64 dev wire nodad
ip link set wire up
ip -n outside link set lo up
ip -n outside address add OUTSIDE4/24 dev wire
ip -n outside address add OUTSIDE6/64 dev wire nodad
ip -n outside link set wire up
# As an uplink would be: the host's default route leaves by the wire, and nothing answers behind it.
ip route add default via OUTSIDE4
ip -6 route add default via OUTSIDE6
"""

GET = """
import socket, sys
host, port, path = sys.argv[1:]
with socket.create_connection((host, int(port)), timeout=2) as connection:
    connection.sendall(f"GET {path} HTTP/1.0\\r\\nHost: test\\r\\n\\r\\n".encode())
    head, _, body = connection.makefile("rb").read().decode().partition("\\r\\n\\r\\n")
if head.split()[1] == "200":
    print(body, end="")
"""
"""Fetches one page. (The wget of a static busybox crashes outside a container: it loads the machine's libc.)"""

LISTEN = """
import socket, sys
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready")
while True:
    connection, peer = server.accept()
    print(peer[0])
    connection.close()
"""


def eventually(what: Callable[[], T], until: Callable[[T], bool] = bool, seconds: float = 10) -> T:
    """Call ``what`` until its value satisfies ``until``; the last value, whatever it is, after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        value = what()
        if until(value) or time.monotonic() > deadline:
            return value
        time.sleep(0.1)


def answered(ask: Callable[[], str], seconds: float = 10) -> str:
    """What ``ask`` returns, stripped, once it fails no more: a server needs a moment after its container is up."""

    def tried() -> str | AssertionError:
        try:
            return ask().strip()
        except AssertionError as failure:
            return failure

    value = eventually(tried, lambda said: isinstance(said, str), seconds)
    if isinstance(value, AssertionError):
        raise value
    return value


class EngineHost:
    """A host with a second one ("outside") on a wire; a context manager.

    root: None runs engines in the machine's own root (its /etc, /opt and /var/lib covered by overlays), a path
    runs them in a mount namespace of their own whose root is an overlay of that path.
    """

    def __init__(self, root: Path | None = None) -> None:
        self._cgroups = _cgroup_parents()
        self._holders: list[subprocess.Popen[bytes]] = []
        unshare = ("unshare", "--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child")
        try:
            self.pid = self._hold(*unshare, "--propagation", "private", "--mount-proc", "sh", "-ec", HOLDER)
            self.engine_pid = self.pid
            self.machine("sh", "-ec", _filled(FILES))
            if root:
                script = _filled(FOREIGN_ROOT.replace("LOWER", shlex.quote(str(root))))
                entered = self.command(("unshare", "--mount", "--propagation", "unchanged"), where="machine")
                self.engine_pid = self._hold(*entered, "sh", "-ec", script)
            # After both roots share /run, so that both see the namespace files made here.
            self.machine("sh", "-ec", _filled(NETWORK))
        except BaseException:
            self.close()
            raise

    def _hold(self, *argv: str) -> int:
        """Start what ends in ``sleep``; the id of that process, whose namespaces are ready by then."""

        def sleeper() -> int | None:
            ended = holder.poll() is not None
            return next((pid for pid in _family(holder.pid) if _command_name(pid) == "sleep"), -1 if ended else None)

        with tempfile.TemporaryFile() as log:
            holder = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            self._holders.append(holder)
            found = eventually(sleeper)
            if found is None or found < 0:
                raise RuntimeError(f"namespaces could not be made: {os.pread(log.fileno(), 4096, 0).decode()}")
            return found

    def __enter__(self) -> EngineHost:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill all processes of the host, and with them its namespaces; remove the cgroups they left."""
        for holder in self._holders:
            for pid in _family(holder.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            holder.wait()
        eventually(lambda: _remove_cgroups(_cgroup_parents() - self._cgroups))

    # Where things are

    def path(self, path: str) -> Path:
        """A file of the engine's root, as this process reaches it."""
        return Path(f"/proc/{self.engine_pid}/root") / path.lstrip("/")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file in the engine's root, with its directories."""
        target = self.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def publish_executables(self, *folders: str) -> None:
        """Make netctl, and what is in folders of the machine's root, callable from the engine's root."""
        if self.engine_pid == self.pid:
            return
        self.write("/usr/local/bin/netctl", CROSSING.replace("PROGRAM", "netctl"), 0o755)
        for folder in folders:
            there = Path(f"/proc/{self.pid}/root{folder}")
            for name in sorted(os.listdir(there)) if there.exists() else ():
                self.write(f"{folder}/{name}", CROSSING.replace("PROGRAM", f"{folder}/{name}"), 0o755)

    # Running things

    def command(self, argv: Sequence[str], *, where: str = "engine") -> list[str]:
        """The argument vector that runs ``argv`` in "engine", "machine" or "outside"."""
        pid = self.engine_pid if where == "engine" else self.pid
        prefix = ["nsenter", "--target", str(pid), "--all", f"--wd=/proc/{pid}/root"]
        return [*prefix, *(("ip", "netns", "exec", "outside") if where == "outside" else ()), *argv]

    def run(
        self,
        *argv: str,
        where: str = "engine",
        check: bool = True,
        input: str = "",
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; AssertionError with both outputs when it fails and ``check`` is set."""
        # Files and not pipes: a daemon that the command leaves behind may hold its outputs open.
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            code = subprocess.run(
                self.command(argv, where=where),
                input=input,
                stdout=out,
                stderr=err,
                text=True,
                timeout=timeout,
                env={**environment(), **(env or {})},
            ).returncode
            out.seek(0)
            err.seek(0)
            done = subprocess.CompletedProcess(argv, code, out.read(), err.read())
        if check and done.returncode:
            raise AssertionError(f"{shlex.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def engine(self, *argv: str, **options: object) -> str:
        """Standard output of a command in the engine's root."""
        return self.run(*argv, **options).stdout  # type: ignore[arg-type]

    def machine(self, *argv: str, **options: object) -> str:
        """Standard output of a command in the machine's root: ip, nft, netctl."""
        return self.run(*argv, where="machine", **options).stdout  # type: ignore[arg-type]

    def spawn(self, *argv: str, log: str = "/run/log") -> subprocess.Popen[bytes]:
        """Start a daemon in the engine's root; its output goes to ``log`` there."""
        with open(self.path(log), "ab") as out:
            return subprocess.Popen(
                self.command(argv), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=environment()
            )

    def fetch(self, host: str, port: int, path: str = "/", *, where: str = "outside", seconds: float = 10) -> str:
        """What HTTP answers at an address, asked from "outside" or "machine" until it does; "" when it never does."""

        def get() -> str:
            return self.run(
                sys.executable, "-I", "-S", "-c", GET, host, str(port), path, where=where, check=False
            ).stdout

        return eventually(get, seconds=seconds).strip()

    @contextlib.contextmanager
    def listen(self, address: str, port: int) -> Iterator[Callable[[], list[str]]]:
        """Accept TCP connections "outside"; yields a function that lists the addresses they came from so far."""
        argv = (sys.executable, "-I", "-S", "-u", "-c", LISTEN, address, str(port))
        with tempfile.TemporaryFile() as heard:
            process = subprocess.Popen(self.command(argv, where="outside"), stdin=subprocess.DEVNULL, stdout=heard)

            def lines() -> list[str]:
                # Not read(): the process writes at the very file offset that would move.
                return os.pread(heard.fileno(), 65536, 0).decode().split()

            try:
                assert eventually(lines) == ["ready"]
                yield lambda: lines()[1:]
            finally:
                process.kill()
                process.wait()


def environment() -> dict[str, str]:
    """What commands on a host see: nothing of the caller's but the way to our own console scripts.

    /run/bin comes first, for a test's stand-ins.
    """
    here = os.path.dirname(shutil.which("netctl") or sys.executable)
    return {
        "PATH": f"/run/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{here}",
        "HOME": "/run/home",
        "LANG": "C.UTF-8",
    }


def _filled(script: str) -> str:
    values = {"HOST4": HOST4, "HOST6": HOST6, "OUTSIDE4": OUTSIDE4, "OUTSIDE6": OUTSIDE6, "BIN_DIR": BIN_DIR}
    for name, value in values.items():
        script = script.replace(name, value)
    return script


def _family(pid: int) -> list[int]:
    """A process and all its descendants that are alive."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(member for child in children for member in _family(int(child)))]


def _command_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _cgroup_parents() -> set[Path]:
    """The first level of each cgroup hierarchy: engines make their parents there."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    tops = [Path(mount.split()[4]) for mount in mounts if " - cgroup" in mount]
    return {path for top in tops for path in top.iterdir() if path.is_dir()}


def _remove_cgroups(parents: set[Path]) -> bool:
    """Remove what engines left, where no process is in it; true when all is gone."""
    for parent in parents:
        known = ("libpod_parent", "default", "k8s.io", "docker", "machine", "netdrivers-tests")
        if parent.name in known or parent.name.startswith("lxc."):
            for folder, _, _ in os.walk(parent, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
    return not any(parent.exists() for parent in parents)
