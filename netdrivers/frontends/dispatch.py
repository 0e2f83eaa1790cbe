"""From the name of an executable to its front end, with the store and kernel of this host."""

from __future__ import annotations

import os
import threading

from netdrivers.frontends.cni import plugin as cni_plugin
from netdrivers.frontends.cni.loopback import run as run_loopback
from netdrivers.frontends.request import Request, Response
from netdrivers.kernel.host import Kernel
from netdrivers.lifecycle import Lifecycle
from netdrivers.state.store import Store

DEFAULT_STATE_DIR = "/run/netdrivers"
CNI_DRIVERS = ("bridge", "host", "macvlan", "ipvlan", "none", "overlay", "portmap", "firewall", "tuning")
CNI_TYPES = (*CNI_DRIVERS, "loopback")
NETAVARK = {f"netdrivers-{driver}": driver for driver in ("bridge", "macvlan", "ipvlan", "overlay")}
"""Podman's plugins, and the driver that each is."""

OCI_HOOK = "netdrivers-oci-hook"
PROGRAMS = (*CNI_TYPES, *NETAVARK, OCI_HOOK)
"""What netctl install writes."""

_local = threading.local()
_serving = False


def serve() -> None:
    """This process is the service: what may be done after the answer is left to its background tasks."""
    global _serving
    _serving = True


def state_dir(env: dict[str, str] | os._Environ[str]) -> str:
    """The state directory that an environment names."""
    return env.get("NETDRIVERS_STATE_DIR") or DEFAULT_STATE_DIR


def lifecycle(directory: str) -> Lifecycle:
    """The lifecycle on a state directory; each thread keeps its connection while the file is the same."""
    kept: tuple[str, int, Lifecycle] | None = getattr(_local, "kept", None)
    path = f"{directory}/state.db"
    if kept and kept[0] == directory:
        try:
            if os.stat(path).st_ino == kept[1]:
                return kept[2]
        except FileNotFoundError:
            pass
        kept[2].store.close()
    made = Lifecycle(Store(directory), Kernel(keep_sockets=_serving), defer_unlink=_serving)
    _local.kept = (directory, os.stat(path).st_ino, made)
    return made


def handle(request: Request) -> Response:
    """Answer a call. Blocking; any thread."""
    if request.program == "loopback":
        return run_loopback(request)
    if request.program in NETAVARK:
        return _netavark(request)
    if request.program == OCI_HOOK:
        return _oci_hook(request)
    try:
        return cni_plugin.run(request, lifecycle(state_dir(request.env)), engine_of(request.env))
    except Exception as error:
        return cni_plugin.internal_failure(error)


def _netavark(request: Request) -> Response:
    from netdrivers.frontends.netavark import plugin

    try:
        return plugin.run(request, NETAVARK[request.program], lambda: lifecycle(state_dir(request.env)))
    except Exception as error:
        return plugin.internal_failure(error)


def _oci_hook(request: Request) -> Response:
    from netdrivers.frontends.oci import hook

    try:
        return hook.run(request, lifecycle(state_dir(request.env)))
    except Exception as error:
        return hook.internal_failure(error)


def engine_of(env: dict[str, str]) -> str:
    """Which engine calls, as far as its environment tells; for people to read."""
    if env.get("NETDRIVERS_ENGINE"):
        return env["NETDRIVERS_ENGINE"]
    args = env.get("CNI_ARGS", "")
    if "K8S_POD_NAMESPACE=" in args:
        return "kubernetes"
    if "K8S_POD_NAME=" in args:
        return "podman"
    return "containerd" if env.get("CNI_NETNS", "").startswith("/proc/") else "cni"
