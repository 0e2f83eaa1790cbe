"""What netctl remembers of a chain that it ran, for check and del: the call and the result, as libcni's cache does.

Files below the state directory, one for each network, container and interface; those of another boot do not count.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from netdrivers.model import digest
from netdrivers.state import locks

FOLDER = "netctl"


class Kept(Struct, frozen=True):
    """One chain that was run. inode: its namespace's; result: of the whole chain, in CNI's form."""

    network: str
    container: str
    ifname: str
    netns: str
    inode: int
    version: str
    plugins: tuple[dict[str, Any], ...]
    args: dict[str, str]
    path: str
    result: dict[str, Any]
    boot: str
    disable_check: bool = False


def _file(state_dir: str, network: str, container: str, ifname: str) -> str:
    return os.path.join(state_dir, FOLDER, digest("kept", network, container, ifname).hex()[:32] + ".json")


def boot_id() -> str:
    """The kernel's id of this boot."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def find(state_dir: str, network: str, container: str, ifname: str) -> Kept | None:
    """What was kept of a chain, None if nothing was in this boot."""
    return _read(_file(state_dir, network, container, ifname))


def everything(state_dir: str) -> list[Kept]:
    """All that was kept in this boot."""
    folder = os.path.join(state_dir, FOLDER)
    try:
        files = sorted(name for name in os.listdir(folder) if name.endswith(".json"))
    except FileNotFoundError:
        return []
    found = (_read(os.path.join(folder, name)) for name in files)
    return [kept for kept in found if kept is not None]


def _read(path: str) -> Kept | None:
    try:
        with open(path, "rb") as file:
            kept = msgspec.json.decode(file.read(), type=Kept)
    except FileNotFoundError:
        return None
    return kept if kept.boot == boot_id() else None


def keep(state_dir: str, kept: Kept) -> None:
    """Write it down, in one step."""
    path = _file(state_dir, kept.network, kept.container, kept.ifname)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=os.path.dirname(path))
    with open(handle, "wb") as file:
        file.write(msgspec.json.encode(kept))
    os.replace(scratch, path)


def forget(state_dir: str, network: str, container: str, ifname: str) -> None:
    """Drop it; nothing to drop is success."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_file(state_dir, network, container, ifname))


@contextlib.contextmanager
def locked(state_dir: str, network: str, container: str, ifname: str) -> Iterator[None]:
    """One netctl at a time for a chain."""
    os.makedirs(state_dir, mode=0o700, exist_ok=True)
    with locks.held(os.path.join(state_dir, "locks"), f"netctl {network} {container} {ifname}"):
        yield


def same_namespace(kept: Kept) -> bool:
    """Whether the chain's namespace is still there, and not another in its place (a pid is used again)."""
    try:
        return os.stat(kept.netns).st_ino == kept.inode
    except OSError:
        return False
