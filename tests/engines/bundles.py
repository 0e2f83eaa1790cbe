"""Containers of a bare runtime on an EngineHost: the web server's files, and a config.json around them."""

from __future__ import annotations

import json

from .harness import BIN_DIR, EngineHost

HOOK = f"{BIN_DIR}/netdrivers-oci-hook"
ROOT = "/run/root"
"""The web server's files, from its image."""

LOG = "/run/hooks.log"
SERVER = ("httpd", "-f", "-p", "80", "-h", "/www")


def unpack(host: EngineHost) -> None:
    """Write the web server's files to ROOT."""
    host.engine("sh", "-ec", f"mkdir -p {ROOT}; tar xOf /run/web.tar layer.tar | tar x -C {ROOT}")


def bundle(host: EngineHost, name: str, phase: str = "createRuntime", **annotations: str) -> str:
    """Write a bundle that serves, with our hook for a phase and poststop; its path. Annotations lack their prefix."""
    path = f"/run/bundles/{name}"
    host.engine("sh", "-ec", f"rm -rf {path}; mkdir -p {path}")
    host.engine("runc", "spec", "--bundle", path)
    spec = json.loads(host.path(f"{path}/config.json").read_text())
    spec["root"]["path"] = ROOT
    spec["process"].update(terminal=False, args=SERVER, env=["PATH=/bin"])
    del spec["process"]["rlimits"]  # raising one takes a capability that a virtual machine's root may lack
    spec["annotations"] = {f"netdrivers/{key}": value for key, value in annotations.items()}
    spec["annotations"]["run.oci.hooks.stderr"] = LOG  # crun shows nothing of what a hook says, and runc all of it
    spec["hooks"] = {phase: [{"path": HOOK}], "poststop": [{"path": HOOK}]}
    host.write(f"{path}/config.json", json.dumps(spec))
    return path
