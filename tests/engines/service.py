"""The warm service on an EngineHost, and its death."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator

from .harness import EngineHost, environment, eventually


class Service:
    """A running ``netctl serve`` in the machine's root of a host."""

    def __init__(self, host: EngineHost) -> None:
        self._host = host
        argv = host.command(("netctl", "serve"), where="machine")
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=quiet, env=environment())
        # The process that we started only waits for the one that entered the namespaces.
        self._pid = str(eventually(self.status, bool)["pid"])

    def status(self) -> dict[str, int]:
        """What the service says of itself; empty when it does not answer."""
        said = self._host.run("netctl", "service", "status", "--json", where="machine", check=False)
        found: dict[str, int] = {} if said.returncode else json.loads(said.stdout)
        return found

    def served(self) -> int:
        """How many calls it has answered."""
        return self.status()["served"]

    def kill(self) -> None:
        """End it without a chance to tidy up; once is enough."""
        if self._process.poll() is None:
            self._host.run("kill", "-9", self._pid, where="machine")
            self._process.wait()


@contextlib.contextmanager
def serving(host: EngineHost) -> Iterator[Service]:
    """The service for a block; killed at its end if it still runs."""
    service = Service(host)
    try:
        yield service
    finally:
        service.kill()
