"""A busybox image made on the spot, as the archive that podman, docker and ctr all load: no registry.

The archive is docker's save format (manifest.json, a config, one layer). Its httpd serves /www; /cgi-bin/peer
answers with the address that the connection came from, which shows whether publishing kept the source.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

from .needs import program

WEB = "localhost/busybox:latest"
"""A web server; "busybox" for short."""
PAUSE = "localhost/pause:latest"
"""Only sleeps: what CRI starts first in each pod."""

PEER = "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n%s\\n' \"$REMOTE_ADDR\"\n"
HELLO = "hello from busybox"
"""What the server says at /."""
APPLETS = (
    "sh",
    "httpd",
    "nc",
    "wget",
    "sleep",
    "cat",
    "ip",
    "hostname",
    "nslookup",
    "ping",
    "true",
    "kill",
    "touch",
    "mkdir",
)
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def _layer(busybox: Path) -> bytes:
    """A root file system as a tar, the same bytes for the same busybox."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:

        def add(name: str, data: bytes | None = None, mode: int = 0o755, link: str = "") -> None:
            entry = tarfile.TarInfo(name)
            entry.mode = mode
            if link:
                entry.type, entry.linkname = tarfile.SYMTYPE, link
            elif data is None:
                entry.type = tarfile.DIRTYPE
            else:
                entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data) if data is not None else None)

        for folder in ("bin", "etc", "proc", "sys", "dev", "run", "root", "www", "www/cgi-bin"):
            add(folder)
        add("tmp", mode=0o1777)
        add("bin/busybox", busybox.read_bytes())
        for applet in APPLETS:
            add(f"bin/{applet}", link="busybox")
        add("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", 0o644)
        add("etc/group", b"root:x:0:\n", 0o644)
        add("www/index.html", f"{HELLO}\n".encode(), 0o644)
        add("www/cgi-bin/peer", PEER.encode())
    return out.getvalue()


def archive(path: Path, name: str, command: list[str]) -> Path:
    """Write an image with a default command to ``path``; a skip when busybox-static is not installed."""
    layer = _layer(Path(program("busybox", "busybox-static")))
    config = json.dumps(
        {
            "architecture": MACHINES.get(os.uname().machine, os.uname().machine),
            "os": "linux",
            "config": {"Cmd": command, "Env": ["PATH=/bin"], "StopSignal": "SIGKILL"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(path, "w") as tar:
        for name, data in ((config_name, config), ("layer.tar", layer), ("manifest.json", manifest)):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path
