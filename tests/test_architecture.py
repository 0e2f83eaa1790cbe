"""Who may know whom: the arrows between the rooms, which libraries live where, and the purity of the drivers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "netdrivers"
FILES = sorted(PACKAGE.rglob("*.py"))

_BASE = {"errors", "model", "near"}
_PLANNING = {*_BASE, "operations", "publish", "ipam", "drivers"}
_DOING = {*_PLANNING, "kernel", "state", "cluster", "names", "networks", "publishing", "lifecycle"}
_ENTERING = {*_DOING, "portspec", "networks_file", "frontends"}

# Each room, with the rooms that it may import; netdrivers.__version__ is everybody's.
ROOMS: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "model": set(),
    "near": set(),
    "operations": {"model"},
    "publish": {*_BASE, "operations"},
    "portspec": {*_BASE, "publish"},
    "ipam": {*_BASE, "operations"},
    "drivers": {*_BASE, "operations", "publish", "ipam"},
    "kernel": {*_BASE, "operations"},
    "state": {*_BASE, "operations"},
    "cluster": _PLANNING,
    "names": {*_PLANNING, "state", "cluster"},
    "networks": _DOING - {"publishing", "lifecycle"},
    "publishing": _DOING - {"lifecycle"},
    "lifecycle": _DOING,
    "networks_file": {*_BASE, "frontends"},
    "frontends": _ENTERING,
    "launcher": {*_BASE, "frontends"},
    "service": {*_ENTERING, "launcher"},
    "install": {*_BASE, "launcher", "service"},
    "netctl": {*_ENTERING, "launcher", "service", "install"},
}

# The overlay's options hold those of its cluster, which are checked where they are read.
EXCEPTIONS = {("drivers/overlay.py", "netdrivers.cluster.options")}

LIBRARIES = {"pyroute2": {"kernel"}, "iptc": {"kernel"}, "click": {"netctl"}, "rich": {"netctl"}}
"""Libraries that are known in one room only."""

PURE = ("drivers", "ipam", "publish", "operations", "model", "errors")
IMPURE = {
    "asyncio", "ctypes", "datetime", "fcntl", "glob", "io", "mmap", "multiprocessing", "os", "pathlib", "random",
    "secrets", "select", "shutil", "signal", "socket", "sqlite3", "subprocess", "sys", "tempfile", "threading", "time",
    "urllib", "uuid",
}  # fmt: skip
"""What opens sockets and files, or answers differently each time."""


def room_of(file: Path) -> str:
    """The room that a file is in."""
    part = file.relative_to(PACKAGE).parts[0]
    return part.removesuffix(".py")


def imports(file: Path) -> Iterator[str]:
    """The modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            assert node.module is not None
            if node.module == "netdrivers":
                yield from (f"netdrivers.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("room", sorted({room_of(file) for file in FILES}))
def test_a_room_knows_only_those_below_it(room: str) -> None:
    assert room in ROOMS, f"a new room: say in {__file__} whom it may know"
    for file in (file for file in FILES if room_of(file) == room):
        name = file.relative_to(PACKAGE).as_posix()
        for module in imports(file):
            parts = module.split(".")
            if parts[0] != "netdrivers" or parts[1:2] in ([room], ["__version__"]) or (name, module) in EXCEPTIONS:
                continue
            assert parts[1] in ROOMS[room], f"{name} imports {module}"


def test_the_table_itself_has_no_circle() -> None:
    """But for a front end's own file format, whose reader the front ends share."""
    done: set[str] = set()
    left = {room: allowed - {"networks_file"} if room == "frontends" else allowed for room, allowed in ROOMS.items()}
    while left:
        ready = {room for room, allowed in left.items() if allowed - {room} <= done}
        assert ready, f"in a circle: {sorted(left)}"
        done |= ready
        left = {room: allowed for room, allowed in left.items() if room not in ready}


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_is_known_in_one_room(library: str) -> None:
    users = {room_of(file) for file in FILES if any(module.split(".")[0] == library for module in imports(file))}
    assert users == LIBRARIES[library]


@pytest.mark.parametrize("room", PURE)
def test_planning_does_no_input_or_output(room: str) -> None:
    for file in (file for file in FILES if room_of(file) == room):
        name = file.relative_to(PACKAGE).as_posix()
        assert not {module.split(".")[0] for module in imports(file)} & IMPURE, name
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Name):
                assert node.id not in ("open", "print", "input", "exec", "eval"), f"{name}:{node.lineno}"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "_socket":
                assert node.attr.startswith(("inet_", "AF_INET")), f"{name}:{node.lineno}: only text of addresses"


def test_every_file_says_what_it_is() -> None:
    silent = [str(file) for file in FILES if not ast.get_docstring(ast.parse(file.read_text()))]
    assert not silent
