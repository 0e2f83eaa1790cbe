"""A node's serial console, followed as it grows: the job's lines to show, all for a failure."""

from __future__ import annotations

import re
from pathlib import Path

STARTED, DONE = "vm-job: node", "vm-job: done"
_NOISE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r|\x1b[()][A-Z0-9]|\x1bc")
_SYSTEM = re.compile(r"^(\[ *\d+\.\d+\]|\[ *(OK|FAILED|DEPEND|WARN) *\]| {9}(Start|Stopp|Mount|Unmount)ing)")


class Console:
    """Reads a console's file from where the last call left off."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._rest = ""
        self.lines: list[str] = []
        self.started = False
        self.done = False

    def follow(self) -> list[str]:
        """New whole lines of the job: none before it started, none of kernel and systemd."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:
            return []
        self._read += len(data)
        *lines, self._rest = (self._rest + _NOISE.sub("", data.decode("utf-8", "replace"))).split("\n")
        self.lines += lines
        shown = []
        for line in lines:
            self.started = self.started or STARTED in line
            self.done = self.done or DONE in line
            if self.started and line.strip() and not _SYSTEM.match(line):
                shown.append(line)
        return shown

    @property
    def panicked(self) -> bool:
        """The kernel gave up."""
        return any("Kernel panic" in line for line in self.lines[-60:])

    def tail(self, count: int = 40) -> str:
        """The last lines of everything, for a report."""
        return "\n".join(f"    {line}" for line in [*self.lines, self._rest][-count:] if line.strip())
