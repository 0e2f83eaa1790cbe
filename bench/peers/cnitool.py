"""A chain of CNI executables run by cnitool, so by libcni itself, from a conflist: what an engine waits for."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any

from bench import process, world
from bench.peers.base import Attachment, Done, Peer
from bench.peers.cni import VERSION, Chain


@dataclass
class Cnitool(Peer):
    """The inner chain's executables under one cnitool process, whose start and exit are in the time."""

    inner: Chain = field(kw_only=True)
    features: frozenset[str] = frozenset({"latency"})

    def _executable(self) -> str:
        return os.path.join(self.tools.cache, "cnitool/cnitool")

    def absent(self) -> str:
        """Needs cnitool, which scripts/bench --latest builds, and whatever the chain needs."""
        if not os.access(self._executable(), os.X_OK):
            return "no cnitool (scripts/bench --latest builds it)"
        return self.inner.absent()

    def start(self) -> None:
        """Whatever the chain needs."""
        self.inner.start()

    def stop(self) -> None:
        """End what the chain began."""
        self.inner.stop()

    def prepare(self, attachment: Attachment) -> None:
        """The sandbox, and a directory with the conflist."""
        super().prepare(attachment)
        os.makedirs(_directory(attachment), exist_ok=True)
        with open(os.path.join(_directory(attachment), "bench.conflist"), "w", encoding="utf-8") as file:
            json.dump(conflist(self.inner, attachment), file)

    def add(self, attachment: Attachment) -> Done:
        """cnitool add."""
        finished = self._call("add", attachment)
        return Done(finished.seconds, json.loads(finished.stdout)["ips"][0]["address"].partition("/")[0])

    def delete(self, attachment: Attachment, done: Done) -> float:
        """cnitool del, from libcni's own cache of the result."""
        return self._call("del", attachment).seconds

    def _call(self, command: str, attachment: Attachment) -> process.Finished:
        environment = {
            "PATH": process.PATH,
            "CNI_PATH": self.inner.bin_dir,
            "NETCONFPATH": _directory(attachment),
            "CNI_IFNAME": "eth0",
            **self.inner.environment,
        }
        if attachment.ports:
            runtime = self.inner.plugins(attachment)[-1]["runtimeConfig"]
            environment["CAP_ARGS"] = json.dumps(runtime)
        return self.call([self._executable(), command, attachment.net.name, attachment.netns], b"", environment)


def conflist(chain: Chain, attachment: Attachment) -> dict[str, Any]:
    """The network's conflist: the chain's plugins with capabilities where they had runtimeConfig."""
    plugins = []
    for plugin in chain.plugins(attachment):
        runtime = plugin.pop("runtimeConfig", {})
        plugins.append({**plugin, "capabilities": dict.fromkeys(runtime, True)} if runtime else plugin)
    return {"cniVersion": VERSION, "name": attachment.net.name, "plugins": plugins}


def _directory(attachment: Attachment) -> str:
    return f"{world.STATE}/conflists/{attachment.name}"
