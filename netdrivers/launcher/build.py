"""Writes the executables of the front ends: the C launcher where a compiler is, else the Python one.

A C launcher is compiled once and told what it is by a patch of its block (launcher.c); a Python
launcher is a few lines that start thin.py. Both carry MARKER, which is how we know our own.
"""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from msgspec import Struct

from netdrivers import __version__

MARKER = "netdrivers-executable"
SOURCE = Path(__file__).with_name("launcher.c")
BLOCK_SIZE = 16384
WARNINGS = ("-std=gnu11", "-Wall", "-Wextra", "-Werror")
SHEBANG_LIMIT = 127
RUNTIME = ("netdrivers", "msgspec", "pyroute2", "netaddr")
"""What the executables import from outside the standard library."""


class Executable(Struct, frozen=True):
    """One of our executables as found on disk. kind: which launcher; version: of the product."""

    kind: Literal["c", "python"]
    version: str
    program: str


def runtime_path() -> list[str]:
    """The directories that an interpreter without site-packages needs on sys.path to run us."""
    found: list[str] = []
    for name in RUNTIME:
        spec = find_spec(name)
        for location in (spec and spec.submodule_search_locations) or ():
            parent = str(Path(location).resolve().parent)
            if parent not in found:
                found.append(parent)
    return found


def write_executable(path: Path, program: str, python: str, sys_path: list[str]) -> Literal["c", "python"]:
    """Writes the executable of one front end at ``path`` (mode 0755, replaced in one step).

    python: absolute path of the interpreter; sys_path: what it needs beside its standard library
    (runtime_path()). Returns which launcher it became. OSError where the file cannot be written.
    """
    compiled = _compiled(find_compiler())
    patched = compiled and _patched(compiled, program, python, sys_path)
    if patched:
        _replace(path, patched)
        return "c"
    _replace(path, _script(program, python, sys_path))
    return "python"


def inspect(path: Path) -> Executable | None:
    """What the file at ``path`` is, if it is one of our executables; OSError if it cannot be read."""
    data = path.read_bytes()
    if data.startswith(b"\x7fELF"):
        _, found, block = data.partition(MARKER.encode() + b"\0")
        version, _, rest = block.partition(b"\0")
        return Executable("c", version.decode(), rest.partition(b"\0")[0].decode()) if found else None
    for line in data[:1024].split(b"\n")[:5]:
        words = line.decode("utf-8", "replace").split()
        if words[:2] == ["#", MARKER] and len(words) == 4:
            return Executable("python", words[2], words[3])
    return None


def is_ours(path: Path) -> bool:
    """Whether the file at ``path`` is one of our executables; False where there is none."""
    try:
        return inspect(path) is not None
    except OSError:
        return False


def find_compiler() -> str | None:
    """The C compiler: CC of the environment, else the first of cc, gcc, clang on the path; None without."""
    wanted = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    return next((found for name in wanted if name and (found := shutil.which(name))), None)


def compile_launcher(compiler: str, target: Path, flags: tuple[str, ...] = ("-Os", "-s")) -> str:
    """Compiles the launcher, unpatched, to ``target``; "" on success, else what the compiler said.

    Static, as the dynamic loader would cost as much time as all the rest; dynamic on hosts that
    have no static C library.
    """
    said = ""
    for linking in (("-static",), ()):
        command = [compiler, *WARNINGS, *flags, *linking, "-o", str(target), str(SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return ""
        said = said or done.stderr
    return said or f"{compiler} failed"


@functools.cache
def _compiled(compiler: str | None) -> bytes:
    """The bytes of a launcher that is not patched yet; empty without a working compiler."""
    if compiler is None:
        return b""
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch, "launcher")
        return b"" if compile_launcher(compiler, target) else target.read_bytes()


def _patched(launcher: bytes, program: str, python: str, sys_path: list[str]) -> bytes:
    """The launcher with its block filled in; empty if the block is too small for these paths."""
    start = launcher.index(MARKER.encode() + b"\0")
    words = (MARKER, __version__, program, python, "-I", "-S", "-c", _in_process(program, sys_path), "")
    block = b"".join(os.fsencode(word) + b"\0" for word in words)
    if len(block) > BLOCK_SIZE:
        return b""
    return launcher[:start] + block.ljust(BLOCK_SIZE, b"\0") + launcher[start + BLOCK_SIZE :]


def _in_process(program: str, sys_path: list[str]) -> str:
    """The program text of the in-process path: arguments are in sys.argv[1:], input is on fd 0."""
    return (
        f"import sys\nsys.path += {sys_path!a}\n"
        f"from netdrivers.frontends.executable import main\nsys.exit(main({program!a}))"
    )


def _script(program: str, python: str, sys_path: list[str]) -> bytes:
    """The Python launcher's file: a stub, so that thin.py comes compiled from its cache."""
    shebang = f"#!{python} -IS\n"
    if len(os.fsencode(shebang)) > SHEBANG_LIMIT or any(character.isspace() for character in python):
        # The kernel cannot start such an interpreter, sh can; to Python the second line is a string.
        shebang = f"#!/bin/sh\n'''exec' {shlex.quote(python)} -IS \"$0\" \"$@\"\n' '''\n"
    return os.fsencode(
        f"{shebang}# {MARKER} {__version__} {program}\n"
        f"import sys\nsys.path += {sys_path!a}\n"
        f"from netdrivers.launcher.thin import main\nsys.exit(main({program!a}))\n"
    )


def _replace(path: Path, data: bytes) -> None:
    """Puts a file in place in one step: engines may be running the old one."""
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o755)
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise
