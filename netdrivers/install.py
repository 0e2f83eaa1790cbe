"""Put the executables that engines call in a directory, and the service's units in systemd's."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from netdrivers.errors import ConfigError, Conflict
from netdrivers.launcher import build
from netdrivers.service import units

DEFAULT_BIN_DIR = "/opt/netdrivers/bin"
DEFAULT_UNIT_DIR = "/etc/systemd/system"
_UNIT_MARK = "# Written by netctl install"


class Written(Struct, frozen=True):
    """One file that was written. kind: c or python (which launcher), or unit."""

    path: str
    program: str
    kind: str


def executables(bin_dir: Path, programs: Sequence[str]) -> list[Written]:
    """Write one executable for each program. Conflict, with nothing written, if a file is not ours to replace."""
    targets = [bin_dir / program for program in programs]
    _refuse([path for path in targets if os.path.lexists(path) and not build.is_ours(path)])
    _make(bin_dir, "--bin-dir")
    sys_path = build.runtime_path()
    return [
        Written(str(path), path.name, build.write_executable(path, path.name, sys.executable, sys_path))
        for path in targets
    ]


def systemd(unit_dir: Path, state_dir: Path) -> list[Written]:
    """Write the units of the service. Conflict, with nothing written, if a file is not ours to replace."""
    texts = units.units(_serve_command(), state_dir)
    _refuse([unit_dir / name for name in texts if _foreign_unit(unit_dir / name)])
    _make(unit_dir, "--unit-dir")
    for name, text in texts.items():
        (unit_dir / name).write_text(text, encoding="utf-8")
    return [Written(str(unit_dir / name), name, "unit") for name in texts]


def _serve_command() -> list[str]:
    """How the service is started: the console script beside the interpreter, else the interpreter itself."""
    script = Path(sys.executable).with_name("netctl")
    if os.access(script, os.X_OK):
        return [str(script), "serve"]
    text = f"import sys; sys.path += {build.runtime_path()!r}; from netdrivers.netctl.main import main; main()"
    return [sys.executable, "-c", text, "serve"]


def _foreign_unit(path: Path) -> bool:
    try:
        return not path.read_text(encoding="utf-8", errors="replace").startswith(_UNIT_MARK)
    except FileNotFoundError:
        return os.path.lexists(path)


def _refuse(paths: list[Path]) -> None:
    if paths:
        files = ", ".join(str(path) for path in paths)
        raise Conflict(f"not written by netctl install, so not replaced: {files}", "choose another directory")


def _make(directory: Path, option: str) -> None:
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(option, str(directory), "a directory") from None
