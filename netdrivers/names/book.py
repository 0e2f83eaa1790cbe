"""Names of containers kept as the store has them: written down for aardvark-dns, which runs while there are any."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from msgspec.structs import replace

from netdrivers import errors
from netdrivers.model import Lease, Network
from netdrivers.names import server, text
from netdrivers.operations import Plan
from netdrivers.state import locks
from netdrivers.state.store import Store

LOCK = "names"
PATIENCE_SECONDS, AWAKE_SECONDS = 2.0, 0.7
"""How long an answer is waited for, of a server that runs and of one that was started just now."""


class Names:
    """The names of the containers of a state directory.

    Each file is derived from the store alone, after the store has it: a call that dies in between leaves what the
    next one on that network, or mend(), puts right. Nothing here may fail an attachment; trouble() tells.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._place = f"{store.directory}/names"
        self.folder = f"{self._place}/networks"
        self.log = f"{self._place}/log"

    def announced(self, network: Network, lease: Lease, plan: Plan) -> Plan:
        """The plan with our servers in its result, if names are switched on and somebody can serve them."""
        if not text.wanted(network) or not self._able():
            return plan
        return replace(plan, result=replace(plan.result, dns=text.told(network, lease, plan.result.dns)))

    def changed(self, name: str, network: Network | None = None) -> None:
        """Somebody came to a network, left it, or is called something else.

        network: its settings where they are known; else, for a network without names, one look at a directory.
        """
        if (network and text.wanted(network)) or self._files(name):
            with suppress(OSError, errors.Busy), locks.held(self._store.lock_path, LOCK):
                self._serve(self._write(name))

    def mend(self) -> None:
        """Put everything right: files, and the process, also one that runs and does not answer."""
        known = {record.network.name for record in self._store.networks() if text.wanted(record.network)}
        left = {name.removesuffix(text.INTERNAL) for name in self._listed()}
        if known or left:
            pid = server.running(self.folder)
            silent = pid is not None and bool(self._silent(self._paths()))
            with suppress(OSError, errors.Busy), locks.held(self._store.lock_path, LOCK):
                written = [self._write(name) for name in sorted(known | left)]
                if pid is not None and silent and server.running(self.folder) == pid:
                    server.stop(pid, self.folder)
                self._serve(any(written))

    def trouble(self, network: Network) -> str:
        """Why names do not resolve in a network that has them switched on, "" when they do."""
        if not self._able():
            return f"{server.PROGRAM} is not installed: names do not resolve"
        attached = self._store.attached(network.name)
        if not text.content(network, attached):
            return ""
        files = self._files(network.name)
        if not files:
            return "not written down yet: netctl reload does it"
        silent = self._silent(files)
        if not silent:
            return ""
        said = server.said(self.log)
        return f"nobody answers for it at {silent} port {server.PORT}" + (f": {said}" if said else "")

    def _able(self) -> bool:
        """Whether there is a server: one to start, or one that runs, which is elsewhere for a plugin in a container."""
        return server.executable() is not None or server.running(self.folder) is not None

    def _content(self, network: Network) -> str:
        """A network's file: of this host's containers, and of others' where they are known."""
        return text.content(network, self._store.attached(network.name), self._elsewhere(network))

    def _elsewhere(self, network: Network) -> Sequence[text.Attached]:
        if network.options.get("etcd") is None:
            return ()
        from netdrivers.cluster import elsewhere

        return elsewhere.read(self._store.directory, network.name)

    def _listed(self) -> list[str]:
        try:
            return [name for name in os.listdir(self.folder) if name != server.PID_FILE]
        except FileNotFoundError:
            return []

    def _paths(self) -> list[str]:
        return [f"{self.folder}/{name}" for name in self._listed()]

    def _files(self, network: str) -> list[str]:
        found = (f"{self.folder}/{network}{suffix}" for suffix in ("", text.INTERNAL))
        return [path for path in found if os.path.exists(path)]

    def _write(self, name: str) -> bool:
        """Make a network's file what it should be; whether it was not."""
        record = self._store.network(name)
        on = record is not None and text.wanted(record.network) and self._able()
        wanted = self._content(record.network) if record and on else ""
        path = f"{self.folder}/{text.file_name(record.network)}" if record and wanted else ""
        old = self._files(name)
        for other in old:
            if other != path:
                os.unlink(other)
        if not path:
            return bool(old)
        if old == [path] and _read(path) == wanted:
            return False
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        scratch = f"{self._place}/new"  # beside the directory, where every file counts
        with open(scratch, "w", encoding="ascii") as file:
            file.write(wanted)
        os.replace(scratch, path)
        return True

    def _serve(self, changed: bool) -> None:
        """One process while there are names, none without."""
        pid, path = server.running(self.folder), server.executable()
        if not self._listed():
            if pid is not None:
                server.stop(pid, self.folder)
        elif pid is None and path is not None:
            server.start(path, self.folder, self.log)
            self._silent(self._paths(), AWAKE_SECONDS)  # a version that is told of a change so early is lost (1.4)
        elif pid is not None and changed:
            server.reread(pid)

    def _silent(self, paths: Sequence[str], seconds: float = PATIENCE_SECONDS) -> str:
        """The first address where nobody answers for the networks of some files, "" when somebody does for all."""
        from netdrivers.names.asking import answers

        for path in paths:
            with suppress(FileNotFoundError):  # its last container has just left
                question = text.question(_read(path))
                for address in question.servers:
                    if not answers(address, server.PORT, question.name, question.family, seconds):
                        return address
        return ""


def _read(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read()
