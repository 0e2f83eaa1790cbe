"""CNI's own command line client, built by Go where Go is."""

from __future__ import annotations

import os
import shutil
import subprocess

from .needs import needs
from .rootfs import cache

MODULE = "github.com/containernetworking/cni/cnitool@latest"


def cnitool() -> str:
    """The path of cnitool, built into the cache the first time; a skip where that cannot be."""
    folder = cache() / "go"
    built = folder / "cnitool"
    if not built.exists():
        go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
        if not go:
            needs("go", "cnitool: no go to build it with")
        done = subprocess.run(
            [go, "install", MODULE],
            env={**os.environ, "GOBIN": str(folder)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        if done.returncode:
            needs("go", f"cnitool: go install failed: {done.stderr.strip().splitlines()[-1:]}")
    return str(built)
