"""What a peer is, and the networks and attachments that every peer is asked for alike."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench import process, world

EVERYTHING = frozenset({"latency", "parallel", "scale", "ports", "memory", "growth", "traffic"})


@dataclass(frozen=True)
class Net:
    """A bridge network with a /16 of its own. nat: traffic to other places is masqueraded."""

    name: str
    number: int
    nat: bool = True

    @property
    def bridge(self) -> str:
        """The bridge's interface name."""
        return f"bn-{self.name}"

    @property
    def prefix(self) -> str:
        """The first two bytes of every address."""
        return f"10.{100 + self.number}"

    @property
    def subnet(self) -> str:
        """The subnet, as CIDR."""
        return f"{self.prefix}.0.0/16"

    @property
    def gateway(self) -> str:
        """The bridge's address."""
        return f"{self.prefix}.0.1"


@dataclass(frozen=True)
class Attachment:
    """One container's eth0 on a network. ports: (host port, container port), all TCP."""

    net: Net
    number: int
    ports: tuple[tuple[int, int], ...] = ()

    @property
    def name(self) -> str:
        """The sandbox's name."""
        return f"{self.net.name}-{self.number}"

    @property
    def netns(self) -> str:
        """The sandbox's path."""
        return f"/run/netns/{self.name}"

    @property
    def container(self) -> str:
        """The container id, 64 hex digits as engines make them."""
        return hashlib.sha256(self.name.encode()).hexdigest()

    @property
    def mac(self) -> str:
        """A MAC, for peers whose caller chooses it."""
        return f"02:42:{self.net.number:02x}:00:{self.number >> 8 & 255:02x}:{self.number & 255:02x}"

    @property
    def address(self) -> str:
        """An address, for peers whose caller does IPAM."""
        offset = self.number + 2
        return f"{self.net.prefix}.{offset >> 8}.{offset & 255}"


@dataclass(frozen=True)
class Done:
    """What an add gave: seconds of the peer's processes, the address, what delete needs, extra timings (µs)."""

    seconds: float
    address: str = ""
    record: Any = None
    inner_us: float = 0.0


@dataclass
class Tools:
    """Programs compiled for this run: paths of floor, traffic and peak; and the cache of latest releases."""

    floor: str
    traffic: str
    peak: str
    cache: str


@dataclass
class Peer:
    """Base of all peers. `absent` runs on the machine, all the rest in the peer's world.

    label: name, version and firewall backend, as the tables show it. features: the measurements
    that the peer can take part in. wrapper: words before every command line.
    """

    tools: Tools
    key: str = ""
    label: str = ""
    features: frozenset[str] = field(default=EVERYTHING)
    wrapper: tuple[str, ...] = ()

    def call(
        self, argv: Sequence[str], stdin: bytes = b"", environment: Mapping[str, str] | None = None
    ) -> process.Finished:
        """Run one of the peer's processes to success, under the wrapper when one is set. PeerError otherwise."""
        return process.check(process.run([*self.wrapper, *argv], stdin, environment), " ".join(argv)[:100])

    def absent(self) -> str:
        """Why the peer cannot run here; "" when it can."""
        raise NotImplementedError

    def start(self) -> None:
        """Make ready for the first add. PeerError when that fails."""

    def stop(self) -> None:
        """End whatever start began."""

    def prepare(self, attachment: Attachment) -> None:
        """Make the sandbox, untimed."""
        world.make_netns(attachment.netns)

    def release(self, attachment: Attachment) -> None:
        """Remove the sandbox, untimed."""
        world.remove_netns(attachment.netns)

    def add(self, attachment: Attachment) -> Done:
        """Attach; timed. PeerError when it fails."""
        raise NotImplementedError

    def delete(self, attachment: Attachment, done: Done) -> float:
        """Detach what add did; seconds. PeerError when it fails."""
        raise NotImplementedError

    def resident_kib(self) -> tuple[int, int] | None:
        """RSS and PSS of the peer's daemon; None where there is none."""
        return None


def memory_of(pid: int) -> tuple[int, int]:
    """RSS and PSS of a process, in KiB."""
    found = {"Rss": 0, "Pss": 0}
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        for line in file:
            name, _, rest = line.partition(":")
            if name in found:
                found[name] = int(rest.split()[0])
    return found["Rss"], found["Pss"]
