"""Which peers there are on this machine, in the order of the tables."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from bench.peers.base import Peer, Tools
from bench.peers.cni import Chain, Ours, Reference
from bench.peers.cnitool import Cnitool
from bench.peers.docker import Docker
from bench.peers.floor import Floor
from bench.peers.netavark import Netavark, version_of

DEBIAN_PLUGINS = "/usr/lib/cni"
DEBIAN_NETAVARK = "/usr/lib/podman/netavark"


def all_peers(tools: Tools, latest: bool) -> list[Peer]:
    """Every peer, those that are absent too: the output names them."""
    netctl = os.environ.get("NETDRIVERS_NETCTL") or os.path.join(os.path.dirname(sys.executable), "netctl")
    debian = version_of(DEBIAN_NETAVARK)
    peers: list[Peer] = [
        Floor(tools),
        Ours(tools, "service", "netdrivers, warm service", netctl=netctl, service="require"),
        Ours(tools, "in-process", "netdrivers, in-process", netctl=netctl),
        Reference(
            tools,
            "reference",
            f"plugins {_debian_version('containernetworking-plugins')} ({_iptables()})",
            bin_dir=DEBIAN_PLUGINS,
        ),
        Netavark(
            tools,
            "netavark",
            f"netavark {debian or '(Debian)'} ({_netavark_backend(debian)})",
            executable=DEBIAN_NETAVARK,
            backend="nftables" if _netavark_backend(debian) == "nft" else "iptables",
        ),
    ]
    if latest:
        peers += _latest(tools)
        chains = [peer for peer in peers if peer.key in ("service", "reference-nft")]
        peers += [_through_cnitool(tools, peer) for peer in chains if isinstance(peer, Chain)]
    root = os.path.join(tools.cache, "docker")
    root = root if os.path.isdir(root) else ""
    peers.append(Docker(tools, "docker", f"dockerd {_docker_version(root)} connect", root=root))
    return peers


def _latest(tools: Tools) -> list[Peer]:
    plugins = os.path.join(tools.cache, "plugins-latest")
    netavark = os.path.join(tools.cache, "netavark-latest/bin/netavark")
    release = _text(os.path.join(plugins, "VERSION")) or "latest"
    return [
        Reference(tools, "reference-nft", f"plugins {release} (nft)", bin_dir=plugins, backend="nftables"),
        Reference(tools, "reference-latest", f"plugins {release} ({_iptables()})", bin_dir=plugins),
        Netavark(
            tools,
            "netavark-nft",
            f"netavark {version_of(netavark) or 'latest'} (nft)",
            executable=netavark,
            backend="nftables",
        ),
    ]


def _through_cnitool(tools: Tools, chain: Chain) -> Cnitool:
    return Cnitool(tools, f"{chain.key}-cnitool", f"{chain.label} by cnitool", inner=chain)


def _netavark_backend(version: str) -> str:
    """netavark speaks nftables from 1.10 on."""
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    return "nft" if numbers >= (1, 10) else "iptables"


def _iptables() -> str:
    """Which iptables the peers will run: "iptables-nft 1.8.9", say."""
    done = _output(["iptables", "--version"]).split()
    if len(done) < 2:
        return "no iptables"
    flavour = "legacy" if "(legacy)" in done else "nft"
    return f"iptables-{flavour} {done[1].lstrip('v')}"


def _debian_version(package: str) -> str:
    return _output(["dpkg-query", "-W", "-f", "${Version}", package]).partition("+")[0] or "(Debian)"


def _docker_version(root: str) -> str:
    dockerd = os.path.join(root, "usr/sbin/dockerd") if root else shutil.which("dockerd") or ""
    words = _output([dockerd, "--version"]).replace(",", "").split() if dockerd else []
    return words[2].partition("+")[0] if len(words) > 2 else "(Debian)"


def _output(words: list[str]) -> str:
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=20, check=False).stdout.strip()
    except OSError:
        return ""


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""
