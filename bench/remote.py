"""Agents as seen from the measurements: each runs in a forked process, in a world of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, ClassVar

from bench.agent import Agent
from bench.peers.base import Peer
from bench.process import PeerError

CALL_SECONDS = 300.0


class Remote:
    """A peer's agent. A method that fails raises PeerError; an agent that hangs is killed."""

    _open: ClassVar[set[Connection]] = set()

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self._connection, theirs = multiprocessing.Pipe()
        self._open.add(self._connection)
        self._pid = os.fork()
        if not self._pid:
            for connection in self._open:  # or no agent would see the end of the measurements' process
                connection.close()
            _serve(Agent(peer), theirs)
        theirs.close()

    def __call__(self, method: str, *arguments: Any, seconds: float = CALL_SECONDS) -> Any:
        """Call an agent's method by name."""
        self._connection.send((method, arguments))
        if not self._connection.poll(seconds):
            self.kill()
            raise PeerError(f"no answer within {seconds:.0f} s")
        try:
            failed, answer = self._connection.recv()
        except EOFError:
            raise PeerError("the agent ended") from None
        if failed:
            raise PeerError(answer)
        return answer

    def close(self) -> None:
        """Stop the peer and end its world."""
        with contextlib.suppress(PeerError, OSError):
            self("stop", seconds=60)
        self._open.discard(self._connection)
        self._connection.close()
        self.kill()

    def kill(self) -> None:
        """End the agent and all that it started (one process group)."""
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0


def _serve(agent: Agent, connection: Connection) -> None:
    """Answer calls until the measurements end, however they end; then leave no daemon behind."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(EOFError, OSError):
        while True:
            method, arguments = connection.recv()
            connection.send(_answer(agent, method, arguments))
    os.killpg(0, signal.SIGKILL)


def _answer(agent: Agent, method: str, arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    """(failed, the method's value or the failure's text)."""
    try:
        return False, getattr(agent, method)(*arguments)
    except PeerError as error:
        return True, str(error)
    except Exception as error:
        return True, f"{type(error).__name__}: {error}"


Key = tuple[str, str]
"""(peer key, variant of its world)."""


@contextlib.contextmanager
def worlds(
    peers: Sequence[Peer], variants: Sequence[str] = ("",)
) -> Iterator[tuple[dict[Key, Remote], dict[Key, str]]]:
    """A started agent for each peer and variant, and the reasons of those that did not start."""
    remotes: dict[Key, Remote] = {}
    failed: dict[Key, str] = {}
    try:
        for peer in peers:
            for variant in variants:
                remote = Remote(peer)
                try:
                    remote("start")
                    remotes[peer.key, variant] = remote
                except PeerError as error:
                    failed[peer.key, variant] = f"failed to start: {error}"
                    remote.close()
        yield remotes, failed
    finally:
        for remote in remotes.values():
            remote.close()
