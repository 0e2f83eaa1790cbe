"""Which namespace a person means, and by which id its container is known."""

from __future__ import annotations

import os
import re

from msgspec import Struct

from netdrivers.errors import NotFound, RequestError
from netdrivers.model import digest
from netdrivers.near import near

NETNS_DIR = "/run/netns"
"""Where ip-netns(8) keeps the namespaces that have a name."""

_ID = re.compile(r"^[a-zA-Z0-9][a-zA-Z0-9_.\-]{0,254}\Z")
_PID = re.compile(r"^[0-9]{1,10}\Z")
_PID_PATH = re.compile(r"^/proc/([0-9]{1,10})/ns/net\Z")


class Target(Struct, frozen=True):
    """A namespace as a person named it. path: where it is or was; container: the id that follows from the name."""

    path: str
    container: str

    @property
    def exists(self) -> bool:
        """Whether something is at the path."""
        return os.path.exists(self.path)


def target(text: str) -> Target:
    """What NETNS on the command line means: a path, pid:N, a pid, or a name of ip-netns(8).

    The id follows from the spelling alone, so that a vanished namespace can still be detached.
    """
    if "/" in text:
        return Target(text, _id_of_path(text))
    number = text.removeprefix("pid:")
    if _PID.match(number) and not (number == text and os.path.exists(f"{NETNS_DIR}/{text}")):
        return Target(f"/proc/{int(number)}/ns/net", f"pid-{int(number)}")
    if number != text:
        raise RequestError("netns", text, "pid: and the number of a process")
    return Target(f"{NETNS_DIR}/{text}", text if _ID.match(text) else _hashed(text))


def existing(text: str) -> Target:
    """The same, and it must be there. NotFound names the near one."""
    found = target(text)
    if found.exists:
        return found
    if found.path.startswith("/proc/"):
        raise NotFound(f"netns: no process {found.path.split('/')[2]}")
    if "/" in text:
        raise NotFound(f"netns: nothing is at {text}")
    raise NotFound(f"netns: no network namespace {text!r} in {NETNS_DIR}", near(text, names()))


def names() -> list[str]:
    """The namespaces that have a name."""
    try:
        return sorted(os.listdir(NETNS_DIR))
    except FileNotFoundError:
        return []


def _id_of_path(path: str) -> str:
    parent, _, name = path.rpartition("/")
    if parent in (NETNS_DIR, f"/var{NETNS_DIR}") and _ID.match(name):
        return name
    pid = _PID_PATH.match(path)
    return f"pid-{pid[1]}" if pid else _hashed(path)


def _hashed(text: str) -> str:
    return f"ns-{digest('netns', text).hex()[:12]}"
