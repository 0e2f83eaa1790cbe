"""The agent: what runs in a peer's world and does there what the measurements ask for."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench import process, world
from bench.peers.base import Attachment, Done, Net, Peer
from bench.peers.floor import Floor, inner_pairs
from bench.together import Job, together

SETTLE_SECONDS = 0.05
"""After each pair, so that what one peer deferred does not land in the next one's time."""


@dataclass(frozen=True)
class Pair:
    """Seconds of one ADD and of the DEL after it."""

    add: float
    delete: float
    address: str = ""


@dataclass(frozen=True)
class Burst:
    """Parallel ADDs and then DELs: wall seconds, addresses, failures as text."""

    add_seconds: float
    delete_seconds: float
    addresses: tuple[str, ...]
    failures: tuple[str, ...]


class Agent:
    """Holds one peer in this process's world. Every public method may raise PeerError or OSError."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self._held: list[tuple[Attachment, Done]] = []
        self._idle: dict[str, Attachment] = {}

    def start(self) -> None:
        """Make the world and start the peer in it."""
        world.enter_new()
        self.peer.start()

    def stop(self) -> None:
        """Stop the peer; the world goes with this process."""
        self.peer.stop()

    def pair(self, attachment: Attachment) -> Pair:
        """One ADD and one DEL; the sandbox is kept for the next pair of the same name."""
        if self._idle.get(attachment.name) != attachment:
            if attachment.name in self._idle:
                self.peer.release(self._idle.pop(attachment.name))
            self.peer.prepare(attachment)
            self._idle[attachment.name] = attachment
        done = self.peer.add(attachment)
        time.sleep(SETTLE_SECONDS)
        seconds = self.peer.delete(attachment, done)
        time.sleep(SETTLE_SECONDS)
        return Pair(done.seconds, seconds, done.address)

    def hold(self, attachment: Attachment) -> str:
        """ADD and keep; the address."""
        self.peer.prepare(attachment)
        done = self.peer.add(attachment)
        self._held.append((attachment, done))
        return done.address

    def fill(self, net: Net, count: int, ports_each: int, first_port: int, seconds: float) -> int:
        """Hold count attachments with ports_each consecutive ports each; how many were done in the time."""
        end = time.monotonic() + seconds
        for number in range(count):
            start = first_port + number * ports_each
            ports = tuple((start + step, 80 + step) for step in range(ports_each))
            if time.monotonic() > end:
                return number
            self.hold(Attachment(net, 100 + number, ports))
        return count

    def prove(self, attachment: Attachment) -> None:
        """A published port of a held attachment answers the outside host. PeerError when it does not."""
        self.hold(attachment)
        with self.server(attachment):
            self.traffic("rate", attachment.ports[0][0], 1.0, 1)

    @contextlib.contextmanager
    def server(self, attachment: Attachment) -> Iterator[None]:
        """A TCP server in the sandbox, on the first container port, while the block runs."""
        words = [self.peer.tools.traffic, "serve", attachment.netns, str(attachment.ports[0][1])]
        serving = subprocess.Popen(words, stdout=subprocess.PIPE)
        try:
            assert serving.stdout is not None
            if serving.stdout.readline() != b"ready\n":
                raise process.PeerError("the server in the sandbox did not start")
            yield
        finally:
            serving.kill()
            serving.communicate()

    def traffic(self, kind: str, host_port: int, seconds: float, most: int = 20000) -> float:
        """From the outside host: connections each second ("rate") or Gbit/s ("bulk") through a port."""
        words = [self.peer.tools.traffic, kind, world.OUTSIDE, world.HOST_ADDRESS, str(host_port), str(seconds)]
        if kind == "rate":
            words.append(str(most))
        return float(process.check(process.run(words, timeout=seconds + 30), f"traffic {kind}").stdout)

    def load(self, attachment: Attachment, seconds: float) -> tuple[float, float]:
        """(connections each second, Gbit/s) through the first port of a held attachment."""
        if all(held != attachment for held, _ in self._held):
            self.hold(attachment)
        port = attachment.ports[0][0]
        with self.server(attachment):
            return self.traffic("rate", port, seconds), self.traffic("bulk", port, seconds)

    def inner(self, attachment: Attachment, count: int) -> list[tuple[float, float]]:
        """The floor only: (ADD, DEL) microseconds inside one process, of count pairs."""
        if not isinstance(self.peer, Floor):
            raise process.PeerError("only the floor has inner times")
        self.peer.prepare(attachment)
        return inner_pairs(self.peer.tools.floor, attachment, count)

    def resident(self) -> tuple[int, int] | None:
        """RSS and PSS of the peer's daemon in KiB."""
        return self.peer.resident_kib()

    def peak(self, attachment: Attachment) -> int:
        """The largest resident KiB of a process of one ADD (the larger of a chain's)."""
        report = f"{world.STATE}/peak"
        self.peer.prepare(attachment)
        peaks = []
        call = self.peer.call

        def recording(
            argv: Sequence[str], stdin: bytes = b"", environment: Mapping[str, str] | None = None
        ) -> process.Finished:
            finished = call([self.peer.tools.peak, report, *argv], stdin, environment)
            with open(report, encoding="ascii") as file:
                peaks.append(int(file.read()))
            return finished

        self.peer.call = recording  # type: ignore[method-assign]
        try:
            done = self.peer.add(attachment)
        finally:
            self.peer.call = call  # type: ignore[method-assign]
        self.peer.delete(attachment, done)
        return max(peaks) if peaks else 0

    def churn(self, attachment: Attachment, count: int) -> float:
        """Wall seconds of count ADD/DEL pairs without a pause, deferred work of the peer included."""
        if attachment.name not in self._idle:
            self.peer.prepare(attachment)
            self._idle[attachment.name] = attachment
        start = time.perf_counter()
        for _ in range(count):
            self.peer.delete(attachment, self.peer.add(attachment))
        return time.perf_counter() - start

    def burst(self, attachments: Sequence[Attachment], seconds: float) -> Burst:
        """All ADDs at the same moment, then all DELs; both bounded by seconds."""
        for attachment in attachments:
            self.peer.prepare(attachment)
        adding, added = together([_adding(self.peer, attachment) for attachment in attachments], seconds)
        pairs = [
            (attachment, Done(**answer))
            for attachment, answer in zip(attachments, added, strict=True)
            if isinstance(answer, dict)
        ]
        deleting, deleted = together([_deleting(self.peer, *pair) for pair in pairs], seconds)
        for attachment in attachments:
            self.peer.release(attachment)
        failures = tuple(answer for answer in (*added, *deleted) if isinstance(answer, str))
        return Burst(adding, deleting, tuple(done.address for _, done in pairs), failures)


def _adding(peer: Peer, attachment: Attachment) -> Job:
    def work() -> dict[str, Any]:
        done = peer.add(attachment)
        return {"seconds": done.seconds, "address": done.address, "record": done.record}

    return work


def _deleting(peer: Peer, attachment: Attachment, done: Done) -> Job:
    return lambda: {"seconds": peer.delete(attachment, done)}
