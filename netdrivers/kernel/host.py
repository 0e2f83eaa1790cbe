"""The kernel as the engine sees it: gather facts, apply, undo, tell drift, look at ports."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from netdrivers import errors
from netdrivers.kernel import carrier, handlers, listeners, nftables, rtnl
from netdrivers.kernel import facts as fact_room
from netdrivers.kernel.namespaces import Sandbox, adopt_sandbox, open_sandbox
from netdrivers.kernel.session import ApplyFailed, Session
from netdrivers.kernel.socket import NetlinkError
from netdrivers.model import Facts, FactsQuery, PortMapping
from netdrivers.operations import (
    AnyOperation,
    Bridge,
    BridgePort,
    Drift,
    Forwarding,
    ForwardingEntry,
    InterfaceAddress,
    InterfaceRoute,
    LinkUp,
    Macvlan,
    Neighbour,
    Operations,
    Veth,
    Vxlan,
)

Fault = Callable[[AnyOperation], None]
"""Called before each operation of an apply; what it raises fails that operation (tests)."""


class Kernel:
    """The Linux kernel of the calling thread's network namespace.

    fault: see Fault. keep_sockets: for threads that call often and stay in one namespace.
    """

    def __init__(self, fault: Fault | None = None, keep_sockets: bool = False) -> None:
        self._fault = fault
        self._keep = keep_sockets

    def _session(self, sandbox: Sandbox | None = None, deferred: list[int] | None = None) -> Session:
        return Session(sandbox, deferred, self._keep)

    @contextmanager
    def sandbox(self, path: str, required: bool = True, fd: int = -1) -> Iterator[Sandbox | None]:
        """Open a container's namespace for a block; None when it is gone and not required.

        fd: a descriptor of it that the caller keeps, used instead of the path.
        """
        opened: Sandbox | None = None
        try:
            opened = open_sandbox(path) if fd < 0 else adopt_sandbox(path, os.dup(fd))
        except errors.RequestError:
            if required:
                raise
        try:
            yield opened
        finally:
            if opened is not None:
                opened.close()

    def facts(self, query: FactsQuery, sandbox: Sandbox | None = None) -> Facts:
        """The facts that a query asks for."""
        with self._session() as session:
            return fact_room.gather(query, session, sandbox)

    def apply(self, operations: Operations, sandbox: Sandbox | None = None, replacing: bool = False) -> Operations:
        """Apply in order; those that changed something. ApplyFailed names the error and those that did before it."""
        with self._session(sandbox) as session:
            session.replacing = replacing
            try:
                for operation in operations:
                    if self._fault is not None:
                        session.flush()
                        self._fault(operation)
                    handlers.APPLY[type(operation)](operation, session)
                session.flush()
                carrier.settle(operations, session)
                return tuple(session.applied)
            except errors.NetdriversError as error:
                raise ApplyFailed(error, self._took_effect(session)) from error
            except OSError as error:
                failure = errors.KernelError(f"the kernel refused: {os.strerror(error.errno or 0)}", error.errno or 0)
                raise ApplyFailed(failure, self._took_effect(session)) from error

    def _took_effect(self, session: Session) -> Operations:
        with suppress(errors.NetdriversError):  # the first error is the one to tell
            session.flush()
        return tuple(session.applied)

    def undo(
        self, operations: Operations, sandbox: Sandbox | None = None, deferred: list[int] | None = None
    ) -> list[str]:
        """Undo in reverse, going on past failures; each failure in one line.

        deferred: takes the indexes of host links that are cut off and left for reap(), if given.
        """
        failures = []
        covered = _covered(operations)
        with self._session(sandbox, deferred) as session:
            for operation in reversed(operations):
                if covered(operation):
                    continue
                try:
                    handlers.undo_one(operation, session)
                except errors.NetdriversError as error:
                    failures.append(f"undo {operation.line()}: {error}")
                except OSError as error:
                    failures.append(f"undo {operation.line()}: {os.strerror(error.errno or 0)}")
        return failures

    def revert(self, operations: Operations) -> list[str]:
        """Undo what an apply of this very call changed: forwarding too, on which nobody can rely yet."""
        failures = self.undo(operations)
        for operation in operations:
            if isinstance(operation, Forwarding):
                handlers.stop_forwarding(operation)
        return failures

    def reap(self, links: Sequence[int]) -> None:
        """Delete host links by index in one grace period; those that are gone already are success.

        By index, as a link's name may belong to its successor by now.
        """
        group = 1 << 30 | int.from_bytes(os.urandom(3), "big")  # nobody else's, with the odds of 2 to the 24
        with self._session() as session:
            session.remove("host", [rtnl.set_group(link, group) for link in links])
            session.remove("host", [rtnl.delete_group(group)])

    def drift(self, operations: Operations, sandbox: Sandbox | None = None) -> list[Drift]:
        """Every difference between operations and the kernel."""
        from netdrivers.kernel import drift

        with self._session(sandbox) as session:
            reader = drift.Reader(session)
            try:
                found = ((operation, _difference(operation, reader)) for operation in operations)
                return [Drift(operation, words) for operation, words in found if words]
            finally:
                reader.close()

    def strays(self, operations: Operations) -> Operations:
        """What is on VXLAN devices of these operations and in none of them."""
        from netdrivers.kernel import drift, strays

        with self._session() as session:
            reader = drift.Reader(session)
            try:
                return strays.strays(operations, reader)
            finally:
                reader.close()

    def mend(self, operations: Operations, sandbox: Sandbox | None = None) -> list[Drift]:
        """Apply again, in order, what drifted; the differences that were mended. The error that stops it.

        Mending one thing may take another along (a device with its routes), so it is looked at again.
        """
        mended: list[Drift] = []
        known: set[AnyOperation] = set()
        while True:
            found = [item for item in self.drift(operations, sandbox) if item.operation not in known]
            if not found:
                return mended
            drifted = tuple(item.operation for item in found)
            # A bridge and its ports are mended in place, for the sake of what hangs on them.
            self.undo(tuple(item for item in drifted if not isinstance(item, Bridge | BridgePort)), sandbox)
            try:
                self.apply(drifted, sandbox, replacing=True)
            except ApplyFailed as failed:
                raise failed.error from failed
            known.update(drifted)
            mended += found

    def link_exists(self, name: str) -> bool:
        """Whether the host has a link of that name."""
        with self._session() as session:
            return bool(fact_room.gather(FactsQuery(names=(name,)), session, None).links)

    def table_loaded(self) -> bool:
        """Whether our nft table is there; another's reload of the firewall may have flushed it."""
        with self._session() as session:
            return nftables.table_exists(session.socket("nft"))

    def forward_trouble(self) -> list[str]:
        """Why forwarded traffic of ours would be dropped by another's firewall; empty when it would not."""
        with self._session() as session:
            return fact_room.forward_trouble(session)

    def port_taken(
        self,
        mapping: PortMapping,
        families: frozenset[int],
        ours: int | None = None,
        container: str = "",
        keepers: tuple[str, ...] = (),
    ) -> tuple[int, str] | None:
        """The first port of a mapping that a local process holds, and the holder (see listeners.taken)."""
        return listeners.taken(mapping, families, ours, container, keepers)


def _difference(operation: AnyOperation, reader: object) -> str | None:
    from netdrivers.kernel import drift

    try:
        return drift.difference(operation, reader)  # type: ignore[arg-type]
    except errors.NamespaceGone:
        return "the namespace is gone"
    except NetlinkError as error:
        return f"cannot be read: {error.strerror}"


def _covered(operations: Operations) -> Callable[[AnyOperation], bool]:
    """Whether an operation's effect goes away with a link that the same list undoes."""
    gone: set[tuple[str, str]] = set()
    for operation in operations:
        if isinstance(operation, Veth):
            gone |= {("sandbox", operation.name), ("host", operation.host_name)}
        elif isinstance(operation, Vxlan):
            gone.add(("host", operation.name))
        elif isinstance(operation, Macvlan):
            gone.add((operation.where, operation.name))
        elif isinstance(operation, Bridge) and not operation.adopt:
            gone.add(("host", operation.name))

    def covered(operation: AnyOperation) -> bool:
        if isinstance(operation, ForwardingEntry):
            return ("host", operation.link) in gone
        if not isinstance(operation, InterfaceAddress | InterfaceRoute | LinkUp | Neighbour):
            return False
        return (operation.where, operation.link) in gone

    return covered
