"""One call's view of the kernel: its sockets, and batches of messages with who asked for each."""

from __future__ import annotations

import errno
import os
import threading

from netdrivers import errors
from netdrivers.kernel import nftables, rtnl
from netdrivers.kernel.namespaces import Sandbox, inside
from netdrivers.kernel.socket import NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_XFRM, NetlinkError, NetlinkSocket
from netdrivers.model import LinkFact, Where
from netdrivers.operations import AnyOperation, Operations

GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENXIO})
"""What the kernel says of a thing that is not there."""

Body = tuple[int, int, bytes]

_FAMILIES = {"nft": NETLINK_NETFILTER, "xfrm": NETLINK_XFRM}

_kept = threading.local()
"""Host sockets that a long-lived thread keeps: closing one of nf_tables waits for the kernel's grace period."""


class ApplyFailed(Exception):
    """An operation failed; applied holds those that took effect, error what to tell."""

    def __init__(self, error: errors.NetdriversError, applied: Operations) -> None:
        super().__init__(str(error))
        self.error = error
        self.applied = applied


class Session:
    """Sockets are opened when first needed; messages wait until the channel changes or an answer is needed.

    A channel is "host" or "sandbox" (rtnetlink of that namespace), "nft" (one transaction) or "xfrm" (IPsec).
    deferred: where undo writes the indexes of host links that are cut off already and may be deleted
    later, many at a time; None deletes each at once. keep: the thread's host sockets outlive the
    session, in a thread that stays in one namespace.
    """

    def __init__(self, sandbox: Sandbox | None = None, deferred: list[int] | None = None, keep: bool = False) -> None:
        self.sandbox = sandbox
        self._keep = keep
        self.deferred = deferred
        self.applied: list[AnyOperation] = []
        self.replacing = False
        """Whether what is there in an operation's place is replaced (mending), and not an error."""
        self._sockets: dict[str, NetlinkSocket] = {}
        self._indexes: dict[tuple[Where, str], int] = {}
        self._channel = ""
        self._queue: list[tuple[AnyOperation, Body]] = []

    def close(self) -> None:
        """Close the sockets, but for those that the thread keeps."""
        for channel, sock in self._sockets.items():
            if self._keep and channel != "sandbox" and not sock.broken:
                setattr(_kept, channel, sock)
            else:
                sock.close()
        self._sockets.clear()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def sandbox_fd(self) -> int:
        """The sandbox's descriptor; NamespaceGone when there is none."""
        if self.sandbox is None:
            raise errors.NamespaceGone("netns", "", "the path of an existing network namespace")
        return self.sandbox.fd

    def socket(self, channel: str) -> NetlinkSocket:
        """The channel's socket."""
        sock = self._sockets.get(channel)
        if sock is None:
            if channel == "sandbox":
                with inside(self.sandbox_fd()):
                    sock = NetlinkSocket(NETLINK_ROUTE)
            elif self._keep and getattr(_kept, channel, None):
                sock = _kept.__dict__.pop(channel)
            else:
                sock = NetlinkSocket(_FAMILIES.get(channel, NETLINK_ROUTE))
            self._sockets[channel] = sock
        return sock

    def link(self, where: Where, name: str) -> LinkFact:
        """A link looked up by name; KernelError with ENODEV when it is not there."""
        self.flush()
        try:
            return rtnl.read_link(self.socket(where).ask(*rtnl.get_link(name)))
        except NetlinkError as error:
            if error.errno == errno.ENODEV:
                raise errors.KernelError(f"no link {name} in {where}", errno.ENODEV) from None
            raise

    def index(self, where: Where, name: str) -> int:
        """A link's index, remembered for this call."""
        found = self._indexes.get((where, name))
        if found is None:
            found = self._indexes[where, name] = self.link(where, name).index
        return found

    def send(self, channel: str, operation: AnyOperation, *bodies: Body) -> None:
        """Queue an operation's messages; what waits on another channel goes out first."""
        if channel != self._channel:
            self.flush()
            self._channel = channel
        self._queue += [(operation, body) for body in bodies]

    def done(self, operation: AnyOperation) -> None:
        """Note an operation that took effect at once, without a message."""
        self.applied.append(operation)

    def flush(self) -> None:
        """Send what waits. KernelError for the first refused message; what took effect is noted."""
        if not self._queue:
            return
        queue, self._queue = self._queue, []
        bodies = [body for _, body in queue]
        sock = self.socket(self._channel)
        if self._channel == "nft":
            try:
                sock.transaction(bodies, nftables.BEGIN, nftables.END)
            except NetlinkError as error:
                operation = queue[min(error.position, len(queue) - 1)][0]
                raise refused(operation, error.errno or 0, error.strerror) from None
            self._note(operation for operation, _ in queue)
            return
        answers = sock.batch(bodies)
        self._note(operation for (operation, _), number in zip(queue, answers, strict=True) if not number)
        for position, number in enumerate(answers):
            if number:
                raise refused(queue[position][0], number, sock.explanations.get(position, ""))

    def _note(self, operations: object) -> None:
        for operation in operations:  # type: ignore[attr-defined]
            if not self.applied or self.applied[-1] is not operation:
                self.applied.append(operation)

    def remove(self, channel: str, bodies: list[Body]) -> None:
        """Undo by messages, at once; what is gone already is success. NetlinkError for other refusals."""
        sock = self.socket(channel)
        if channel != "nft":
            for number in sock.batch(bodies):
                if number and number not in GONE:
                    raise NetlinkError(number, 0)
            return
        while bodies:
            try:
                sock.transaction(bodies, nftables.BEGIN, nftables.END)
                return
            except NetlinkError as error:
                if error.errno not in GONE:
                    raise
                bodies = bodies[: error.position] + bodies[error.position + 1 :]


def refused(operation: AnyOperation, number: int, explanation: str | None) -> errors.NetdriversError:
    """The error for an operation that the kernel refused."""
    reason = os.strerror(number)
    if explanation and explanation != reason:
        reason = f"{reason}: {explanation}"
    hint = "this kernel lacks the feature; netctl doctor lists what it has" if number == errno.EOPNOTSUPP else ""
    return errors.KernelError(f"cannot {operation.line()}: {reason}", number, operation.line(), hint)
