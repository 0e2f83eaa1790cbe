"""Root file systems of another Debian release, built once with debootstrap and kept in a cache.

An engine that this machine's release does not have runs in one of these. Cache directory:
NETDRIVERS_CACHE, default /var/cache/netdrivers-tests. The mirror is the one in the machine's own apt
sources. ``cd tests && python -m engines.rootfs debian12`` fills the cache beforehand.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from .needs import Missing

ENGINES = ("podman", "containerd", "docker.io", "runc", "crun")
TOOLS = ("iptables", "nftables", "iproute2", "procps", "curl")
ROOTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "debian12": ("bookworm", (*ENGINES, *TOOLS)),
    "debian13": ("trixie", (*ENGINES, "docker-cli", "netavark", *TOOLS)),
    "lecture": ("bookworm", ("python3-flask", "python3-redis", "redis-server")),
}
"""Our names for the roots: suite, and what is installed there beyond minbase. lecture is what containers run on."""

BUILD = """
debootstrap --variant=minbase --include=ca-certificates SUITE ROOT MIRROR
cp -L /etc/resolv.conf ROOT/etc/resolv.conf
printf '#!/bin/sh\\nexit 101\\n' > ROOT/usr/sbin/policy-rc.d
chmod 755 ROOT/usr/sbin/policy-rc.d
apt-config dump --format '%f "%v";%n' Acquire::http::Proxy > ROOT/etc/apt/apt.conf.d/90proxy
mount -t proc proc ROOT/proc
export DEBIAN_FRONTEND=noninteractive
chroot ROOT apt-get install --yes --quiet --no-install-recommends "$@"
chroot ROOT apt-get clean
rm ROOT/etc/resolv.conf
"""
"""apt and not debootstrap installs the engines: debootstrap configures packages in an order some do not bear."""

FORMAT = "2"
"""Part of the cache key: change it when the way a root is built changes."""


def release() -> str:
    """This machine's Debian suite ("bookworm"), "" when it does not say."""
    found = re.search(r"^VERSION_CODENAME=(\S+)", Path("/etc/os-release").read_text(), re.MULTILINE)
    return found.group(1) if found else ""


def mirror(sources: Path = Path("/etc/apt")) -> str:
    """The first archive in apt's sources that carries this release's own suite; Missing when none does."""
    for uri, suite in _sources(sources):
        if suite == release():
            return uri
    raise Missing("debootstrap", f"no mirror for {release() or 'this release'} in {sources}")


def _sources(apt: Path) -> Iterator[tuple[str, str]]:
    """(URI, suite) of every entry, in both of apt's formats (sources.list(5))."""
    for path in [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]:
        if path.suffix == ".list" and path.is_file():
            for line in path.read_text().splitlines():
                entry = re.match(r"deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)", line)
                if entry:
                    yield entry.group(1), entry.group(2)
        elif path.suffix == ".sources" and path.is_file():
            for stanza in re.split(r"\n\s*\n", path.read_text()):
                fields = dict(re.findall(r"^(\w[\w-]*):[ \t]*(.*)$", stanza, re.MULTILINE))
                for uri in fields.get("URIs", "").split():
                    for suite in fields.get("Suites", "").split():
                        yield uri, suite


def cache() -> Path:
    """The cache directory, made when absent."""
    path = Path(os.environ.get("NETDRIVERS_CACHE") or "/var/cache/netdrivers-tests")
    path.mkdir(parents=True, exist_ok=True)
    return path


def rootfs(name: str) -> Path:
    """The path of the root called ``name`` in ROOTS, built when it is not in the cache (about 40 s).

    Read-only by convention: users put an overlay above it. Missing when it cannot be built here.
    """
    suite, packages = ROOTS[name]
    key = hashlib.sha256("\0".join((FORMAT, suite, *packages)).encode()).hexdigest()[:8]
    path = cache() / f"{suite}-{key}"
    with open(cache() / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _build(suite, packages, path)
    return path


def _build(suite: str, packages: Sequence[str], path: Path) -> None:
    """debootstrap under another name, then rename: a path that exists is whole."""
    if not shutil.which("debootstrap"):
        raise Missing("debootstrap", f"a {suite} root is not in {path.parent}")
    partial = path.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    log = path.with_suffix(".log")
    script = BUILD.replace("SUITE", suite).replace("ROOT", shlex.quote(str(partial))).replace("MIRROR", mirror())
    with open(log, "w") as out:
        # A private mount namespace, so that the /proc and /sys mounted in the root go when the script ends.
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh", *packages],
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=900,
        )
    if done.returncode:
        tail = log.read_text().splitlines()[-1:]
        raise Missing("debootstrap", f"building a {suite} root failed: {' '.join(tail)} (see {log})")
    partial.rename(path)


if __name__ == "__main__":
    for wanted in sys.argv[1:] or ROOTS:
        print(f"{wanted}: {rootfs(wanted)}")
