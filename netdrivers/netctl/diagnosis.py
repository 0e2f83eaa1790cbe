"""What this host can do, lacks, and has set: the doctor's questions and answers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from msgspec import Struct

from netdrivers import errors
from netdrivers.netctl.calls import state_dir

FEATURES = {
    "veth": ("bridge, overlay", True),
    "bridge": ("bridge, overlay", True),
    "vlan_filtering": ("bridge: vlan, vlanTrunk", False),
    "macvlan": ("macvlan", False),
    "ipvlan": ("ipvlan", False),
    "vxlan": ("overlay", False),
    "tbf": ("bandwidth", False),
    "nft": ("masquerade and published ports", False),
    "nft bridge": ("bridge: macspoofchk", False),
}
"""Kernel feature to who needs it, and whether nothing works without."""

EXECUTABLES = {
    "nft": "loads our ruleset once",
    "iptables": "DOCKER-USER, and firewall: iptables",
    "ip": "people",
}


class Answer(Struct, frozen=True):
    """One finding. state: ok, note (worth knowing) or missing; required: nothing useful works without it."""

    subject: str
    state: str
    words: str
    needed_for: str = ""
    required: bool = False


def answers() -> list[Answer]:
    """Every finding. Nothing on the host is changed: the kernel is tried in a namespace of its own."""
    return [*_rights(), *_kernel(), *_firewall(), *_settings(), *_executables(), *_ourselves()]


def _rights() -> Iterator[Answer]:
    root = os.geteuid() == 0
    words = "root" if root else "not root: network namespaces cannot be entered"
    yield Answer("rights", "ok" if root else "missing", words, "everything", True)


def _kernel() -> Iterator[Answer]:
    from netdrivers.kernel.probe import probe

    try:
        found = probe()
    except OSError as error:
        yield Answer("kernel", "missing", f"no namespace to try it in: {error.strerror}", "everything", True)
        return
    for feature, (needed_for, required) in FEATURES.items():
        reason = found[feature]
        yield Answer(f"kernel {feature}", "missing" if reason else "ok", reason or "works", needed_for, required)


def _firewall() -> Iterator[Answer]:
    from netdrivers.kernel.host import Kernel
    from netdrivers.model import FactsQuery

    kernel = Kernel()
    try:
        backend = kernel.facts(FactsQuery(firewall=True)).firewall
        trouble = kernel.forward_trouble()
    except OSError as error:
        yield Answer("firewall", "missing", f"cannot be read: {error.strerror}", "masquerade and published ports")
        return
    words = {"nft": "nftables", "iptables": "legacy iptables"}.get(backend, "neither nft nor iptables")
    yield Answer("firewall", "ok" if backend else "missing", words, "masquerade and published ports")
    legacy = find_spec("iptc") is not None
    needed = "firewall: iptables"
    state = "ok" if legacy else "missing" if backend == "iptables" else "note"
    yield Answer("python-iptables", state, "installed" if legacy else "not installed (the extra iptables)", needed)
    yield Answer("forwarded packets", "note" if trouble else "ok", "; ".join(trouble) or "nobody drops them", "bridge")


def _settings() -> Iterator[Answer]:
    for family, key in ((4, "net/ipv4/ip_forward"), (6, "net/ipv6/conf/all/forwarding")):
        value = _sysctl(key)
        words = {"1": "on", "0": "off: the first bridge network turns it on", "": "the kernel has no such family"}
        yield Answer(f"forwarding IPv{family}", "ok" if value == "1" else "note", words.get(value, value), "bridge")
    bridged = _sysctl("net/bridge/bridge-nf-call-iptables")
    loaded = {"": "not loaded", "0": "loaded, off"}.get(bridged, "on: bridged packets pass the ip firewall too")
    yield Answer("br_netfilter", "ok", loaded)


def _sysctl(key: str) -> str:
    try:
        return Path("/proc/sys", key).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _executables() -> Iterator[Answer]:
    from shutil import which

    for name, purpose in EXECUTABLES.items():
        path = which(name)
        yield Answer(f"executable {name}", "ok" if path else "note", path or "not on PATH", purpose)
    yield from _names()


def _names() -> Iterator[Answer]:
    """Whether names of containers resolve, where they are switched on."""
    from netdrivers.names import server, text
    from netdrivers.netctl.calls import lifecycle

    path, purpose = server.executable(), "names of containers"
    words = path or f"not installed: names do not resolve (the package {server.PROGRAM})"
    yield Answer(f"executable {server.PROGRAM}", "ok" if path else "note", words, purpose)
    if path is None or not os.path.exists(f"{state_dir()}/state.db"):
        return
    life = lifecycle()
    for record in life.store.networks():
        if text.wanted(record.network):
            trouble = life.names.trouble(record.network)
            yield Answer(f"names on {record.network.name}", "note" if trouble else "ok", trouble or "resolve", purpose)


def _ourselves() -> Iterator[Answer]:
    from netdrivers.launcher.build import find_compiler

    compiler = find_compiler()
    words = f"c, compiled by {compiler}" if compiler else "python: without a C compiler, some milliseconds slower"
    yield Answer("launcher", "ok" if compiler else "note", words, "netctl install")
    from netdrivers.service import client

    try:
        status = client.status(Path(state_dir()))
    except (errors.NetdriversError, OSError) as error:
        yield Answer("service", "missing", str(error), "speed")
    else:
        running = f"running, pid {status.pid}" if status else "not running: executables work by themselves, slower"
        yield Answer("service", "ok" if status else "note", running, "speed")
    yield Answer("state", "ok", state_dir())
