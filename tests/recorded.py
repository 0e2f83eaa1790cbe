"""Requests recorded from real engines (tests/data): ``VERB-N.req`` is arguments, environment, ``--stdin--``, input."""

from __future__ import annotations

import ast
from pathlib import Path

from msgspec import Struct

DATA = Path(__file__).parent / "data"


class Recorded(Struct, frozen=True):
    """One request. args: without the program's own name."""

    name: str
    args: tuple[str, ...]
    env: dict[str, str]
    stdin: bytes


def requests(folder: str, verb: str = "") -> list[Recorded]:
    """The requests of a folder whose names begin with a verb, in order."""
    return [_read(path) for path in sorted((DATA / folder).glob(f"{verb}*.req"))]


def _read(path: Path) -> Recorded:
    head, _, stdin = path.read_text().partition("--stdin--\n")
    lines = head.splitlines()
    argv = next((line.partition(" ")[2].strip() for line in lines if line.startswith("ARGV:")), "")
    args = ast.literal_eval(argv) if argv.startswith("[") else argv.split()
    env = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith(("ARGV", "hook netns")))
    return Recorded(path.stem, tuple(args[1:]), env, stdin.encode())
