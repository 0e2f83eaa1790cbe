"""The classic two-container example across engines: a Flask application of Podman's that counts hits in a Redis of
containerd's, which it finds by the name ``redis``; published on port 5000 and opened from another host.

Flask and Redis are Debian's own packages in a root file system built by debootstrap, which both containers run on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from netdrivers.names import server

from . import containerd, podman
from .conftest import MakeHost
from .harness import BIN_DIR, HOST4, OUTSIDE4, EngineHost, eventually
from .needs import Missing, needs
from .rootfs import rootfs
from .snapshot import unchanged

APP = """
import redis
from flask import Flask, request

app = Flask(__name__)
store = redis.Redis(host="redis", socket_timeout=5)

@app.get("/")
def page():
    return f"hit {store.incr('hits')} from {request.remote_addr}"

app.run(host="0.0.0.0", port=5000)
"""
ROOT = "/run/lecture"
CONFLIST = {
    "cniVersion": "1.0.0",
    "name": "front",
    "plugins": [{"type": "bridge", "network": "shop", "capabilities": {"portMappings": True}}],
}


@pytest.fixture(scope="module")
def host(engine_host: MakeHost) -> Iterator[EngineHost]:
    """Podman and containerd on one host, and the containers' root file system at ROOT."""
    if server.executable() is None:
        needs("aardvark-dns", "containers' names resolve through it")
    try:
        root = rootfs("lecture")
    except Missing as missing:
        needs(missing.thing, missing.reason)
    made = engine_host("podman", r"version 4\.3\.", "debian12", ("containerd", r" v?1\.[67]\."))
    podman.configure(made, podman.CNI)
    made.engine("sh", "-c", f"mkdir -p /opt/cni && ln -s {BIN_DIR} /opt/cni/bin")
    containerd.start(made)
    made.write("/etc/cni/net.d/10-front.conflist", json.dumps(CONFLIST))
    cover(made, root)
    yield made
    made.close()


def cover(host: EngineHost, root: Path) -> None:
    """Mount a writable view of the cached root at ROOT, and put the application there."""
    layers = f"lowerdir={root},upperdir=/run/app/upper,workdir=/run/app/work"
    host.machine("sh", "-ec", f"mkdir -p /run/app/upper /run/app/work {ROOT}; mount -t overlay -o {layers} app {ROOT}")
    host.write(f"{ROOT}/app.py", APP)


def test_hits_are_counted_through_the_name_redis(host: EngineHost) -> None:
    with unchanged(host):
        host.machine("netctl", "network", "create", "shop", "--subnet", "10.91.0.0/24")
        redis = ("/usr/bin/redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "")
        with containerd.ctr_run(host, "redis", "--rootfs", image=ROOT, command=redis):
            app = ("--rootfs", ROOT, "python3", "/app.py")
            host.engine(
                "podman", "run", "--detach", "--name", "web", "--network", "front", "--publish", "5000:5000", *app
            )
            assert host.fetch(HOST4, 5000, seconds=30) == f"hit 1 from {OUTSIDE4}"
            assert host.fetch(HOST4, 5000) == f"hit 2 from {OUTSIDE4}"
            assert host.fetch("127.0.0.1", 5000, where="machine").startswith("hit 3 from ")
            rows = json.loads(host.machine("netctl", "ls", "--json"))
            assert sorted((row["engine"], row["label"], row["network"]) for row in rows) == [
                ("containerd", "redis", "shop"),
                ("podman", "web", "shop"),
            ]
            podman.remove(host, "web")
            assert host.fetch(HOST4, 5000, seconds=0) == ""
        assert eventually(lambda: json.loads(host.machine("netctl", "ls", "--json")) == [])
        host.machine("netctl", "gc")
        host.machine("netctl", "network", "rm", "shop")
