"""The one tree of errors: each has a code and a hint, and knows no engine's format.

Front ends translate ``code`` into their protocol's code; ``netctl`` into an exit status.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class NetdriversError(Exception):
    """Base of every error that a person or an engine may see.

    message: one line saying what is wrong; hint: one line saying what to do (may be empty).
    """

    code = "internal"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigError(NetdriversError):
    """A network's configuration is wrong: names the field, its value and what is allowed."""

    code = "config"

    def __init__(self, field: str, value: Any, allowed: str, hint: str = "") -> None:
        super().__init__(f"{field}: {shown(value)} is not valid: {allowed}", hint)
        self.field = field
        self.value = value
        self.allowed = allowed


class MissingField(ConfigError):
    """A key that must be there is not."""

    def __init__(self, field: str, allowed: str, hint: str = "") -> None:
        NetdriversError.__init__(self, f"{field}: missing: {allowed}", hint)
        self.field, self.value, self.allowed = field, None, allowed


class DecodeError(NetdriversError):
    """The request is not well-formed (JSON, truncated input)."""

    code = "decode"


class VersionError(NetdriversError):
    """The request speaks a protocol version that we do not."""

    code = "version"


class RequestError(ConfigError):
    """A parameter of the call (container id, interface name, namespace) is wrong."""

    code = "request"


class NamespaceGone(RequestError):
    """The path of a network namespace names none."""


class NotFound(NetdriversError):
    """A named network, attachment or link does not exist."""

    code = "not-found"


class UnknownContainer(NotFound):
    """CHECK or GC names an attachment that we hold no record of."""

    code = "unknown-container"


class Conflict(NetdriversError):
    """Somebody else holds what is asked for (port, address, subnet, interface, attachment)."""

    code = "conflict"


class PortTaken(Conflict):
    """A host port is published by another attachment or held by a listening process."""


class AddressTaken(Conflict):
    """An address is leased to another attachment."""


class SubnetOverlap(Conflict):
    """A subnet overlaps another network of ours or a route of the host."""


class AlreadyAttached(Conflict):
    """A second ADD for the same network, container and interface."""


class Exhausted(NetdriversError):
    """No free address is left in a pool, or no free port in a bridge."""

    code = "exhausted"


class HostLacks(NetdriversError):
    """The host misses what the request needs: a device, a kernel feature, an executable."""

    code = "host-lacks"


class NotAvailable(NetdriversError):
    """An add could not be served now; every reason is named (CNI STATUS)."""

    code = "not-available"


class Busy(NetdriversError):
    """Try again later: a lock or the store was not to be had in time."""

    code = "busy"


class KernelError(NetdriversError):
    """The kernel refused an operation.

    errno: the kernel's number (positive); operation: the one line of the operation refused.
    """

    code = "kernel"

    def __init__(self, message: str, errno: int = 0, operation: str = "", hint: str = "") -> None:
        super().__init__(message, hint)
        self.errno = errno
        self.operation = operation


class DelegateError(NetdriversError):
    """A foreign executable that we delegate to (IPAM) failed; details hold its own words."""

    code = "delegate"


class CheckFailed(NetdriversError):
    """CHECK found differences between the record and the kernel; all of them are named."""

    code = "check"

    def __init__(self, differences: Sequence[str]) -> None:
        super().__init__("; ".join(differences))
        self.differences = tuple(differences)


class UndoFailed(NetdriversError):
    """Some operations could not be undone; the others were, and each failure is named."""

    code = "undo"

    def __init__(self, failures: Sequence[str]) -> None:
        super().__init__("; ".join(failures))
        self.failures = tuple(failures)


def shown(value: Any, limit: int = 80) -> str:
    """A value as it appears in a message: quoted, and cut at ``limit`` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
