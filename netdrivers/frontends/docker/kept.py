"""What must outlive a reboot: Docker remembers its networks and pools, and does not tell us of them again.

One JSON file for each below NETDRIVERS_DATA_DIR/docker, replaced in one step.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

from netdrivers.model import Network, digest

DEFAULT_DIR = "/var/lib/netdrivers"
SUFFIX = ".json"


class DockerNetwork(Struct, frozen=True, omit_defaults=True):
    """A network that Docker made. id: Docker's.

    network: ours, as it is asked for; of a named one only the name counts. named: it stands for a
    network of networks.d. prefix: of interface names in containers. host_ip: where ports are
    published that name no address. publish: False where containers are reached by their own addresses.
    """

    id: str
    network: Network
    named: bool = False
    prefix: str = "eth"
    host_ip: str = ""
    publish: bool = True


class DockerPool(Struct, frozen=True, omit_defaults=True):
    """A pool that Docker requested. id: ours, told to Docker.

    part: the subnet's part that addresses are chosen from, as CIDR ("" for all). named: a network of
    networks.d whose addresses these are. references: requests less releases. gateways, and asked (auxiliary
    and static addresses, asked for by name): what is not chosen for others, whatever was leased before the boot.
    """

    id: str
    subnet: str
    part: str = ""
    named: str = ""
    references: int = 1
    gateways: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()


Kept = TypeVar("Kept", DockerNetwork, DockerPool)


class Folder(Generic[Kept]):
    """The files of one kind, by id."""

    def __init__(self, path: str, kind: type[Kept]) -> None:
        self._path = path
        self._decoder: msgspec.json.Decoder[Kept] = msgspec.json.Decoder(kind)

    def _file(self, key: str) -> str:
        return os.path.join(self._path, digest(key).hex()[:32] + SUFFIX)

    def get(self, key: str) -> Kept | None:
        """What is kept under an id."""
        return self._read(self._file(key))

    def all(self) -> list[Kept]:
        """Everything that is kept."""
        try:
            names = sorted(name for name in os.listdir(self._path) if name.endswith(SUFFIX))
        except FileNotFoundError:
            return []
        found = (self._read(os.path.join(self._path, name)) for name in names)
        return [kept for kept in found if kept is not None]

    def _read(self, path: str) -> Kept | None:
        try:
            with open(path, "rb") as file:
                return self._decoder.decode(file.read())
        except FileNotFoundError:
            return None

    def put(self, kept: Kept) -> None:
        """Write it down, so that it is there after a crash, whole or as it was before."""
        os.makedirs(self._path, mode=0o700, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=self._path)
        with open(handle, "wb") as file:
            file.write(msgspec.json.encode(kept))
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, self._file(kept.id))

    def drop(self, key: str) -> None:
        """Forget it; nothing to forget is success."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._file(key))


def directory(env: Mapping[str, str]) -> str:
    """Where the files are, by an environment."""
    return os.path.join(env.get("NETDRIVERS_DATA_DIR") or DEFAULT_DIR, "docker")


def networks(env: Mapping[str, str]) -> Folder[DockerNetwork]:
    """Docker's networks."""
    return Folder(os.path.join(directory(env), "networks"), DockerNetwork)


def pools(env: Mapping[str, str]) -> Folder[DockerPool]:
    """Docker's pools."""
    return Folder(os.path.join(directory(env), "pools"), DockerPool)
