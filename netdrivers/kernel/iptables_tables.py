"""Legacy iptables tables of the current network namespace, by python-iptables' binding of libiptc.

iptc keeps one handle for each table in the process, bound to the namespace it was opened in, and takes
no lock: so a handle here lives for one change only, under iptables(8)'s own lock.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from netdrivers.errors import Busy, HostLacks, KernelError
from netdrivers.kernel.iptables_entries import encode
from netdrivers.kernel.iptables_rules import Rule

LOCK_FILE = "/run/xtables.lock"
LOCK_SECONDS = 10.0
_LOCK_POLL_SECONDS = 0.02
_COMMIT_TRIES = 20
# A rival's change before the replacement gives EAGAIN, between it and the counters' return EINVAL (ip_tables.c).
_RIVAL = (errno.EAGAIN, errno.EINVAL)
_NO_TABLE = (errno.ENOENT, errno.ENOPROTOOPT, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT)

# iptc's tables and libiptc's errors are the process's.
_thread_lock = threading.Lock()


class NoTable(HostLacks):
    """The kernel has no legacy table of this name for this family."""


class Refused(KernelError):
    """libiptc or the kernel refused a change of a table."""


class Table:
    """One table, read when opened; changes reach the kernel together, at commit."""

    def __init__(self, family: int, name: str) -> None:
        self.family = family
        self.name = name
        self._iptc = _import_iptc()
        kind = self._iptc.Table if family == 4 else self._iptc.Table6
        try:
            self._table = kind(name, autocommit=False)
            self._table.refresh()
        except self._iptc.IPTCError as error:
            number = _errno()
            if number not in _NO_TABLE:
                raise Refused(f"cannot read the IPv{family} table {name}: {os.strerror(number)}", number) from error
            message = f"the kernel has no legacy iptables table {name} for IPv{family}"
            raise NoTable(message, 'set firewall: "nft", or load ip_tables and ip6_tables') from None

    def close(self) -> None:
        """Forget the handle and what was not committed."""
        self._table.close()

    def has_chain(self, chain: str) -> bool:
        """Whether a chain exists."""
        return bool(self._table.is_chain(chain))

    def create_chain(self, chain: str) -> None:
        """Create an empty chain."""
        self._do(f"create chain {chain}", self._table.create_chain, chain)

    def flush(self, chain: str) -> None:
        """Delete all rules of a chain."""
        self._do(f"flush chain {chain}", self._table.flush_entries, chain)

    def delete_chain(self, chain: str) -> None:
        """Delete an empty chain that nothing jumps to."""
        self._do(f"delete chain {chain}", self._table.delete_chain, chain)

    def is_empty(self, chain: str) -> bool:
        """Whether a chain holds no rule, or is not there."""
        return not self._table.first_rule(chain)

    def add(self, rule: Rule) -> None:
        """Put a rule at the top of its chain or at its end."""
        raw = encode(rule)
        entry = ctypes.create_string_buffer(raw, len(raw))
        if rule.first:
            self._do(f"insert into {rule.chain}", self._table.insert_entry, rule.chain, entry, 0)
        else:
            self._do(f"append to {rule.chain}", self._table.append_entry, rule.chain, entry)

    def remove(self, rule: Rule) -> bool:
        """Delete the first rule of its chain that is the same; False when there is none."""
        raw = encode(rule)
        entry = ctypes.create_string_buffer(raw, len(raw))
        whole = (ctypes.c_ubyte * len(raw)).from_buffer_copy(b"\xff" * len(raw))
        try:
            self._do(f"delete from {rule.chain}", self._table.delete_entry, rule.chain, entry, whole)
        except Refused as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return True

    def commit(self) -> None:
        """Give the changes to the kernel as one. Refused when the kernel refuses, or a rival came between."""
        self._do("commit", self._table.commit)

    def _do(self, what: str, call: Callable[..., Any], *arguments: Any) -> None:
        try:
            call(*arguments)
        except self._iptc.IPTCError:
            number = _errno()
            message = f"cannot {what} in the IPv{self.family} table {self.name}: {os.strerror(number)}"
            raise Refused(message, number) from None


@contextmanager
def opened(family: int, name: str) -> Iterator[Table]:
    """A table to read, or to change and commit. NoTable, HostLacks, Refused."""
    table = Table(family, name)
    try:
        yield table
    finally:
        table.close()


def edit(family: int, name: str, change: Callable[[Table], None]) -> None:
    """Change a table and commit, from the start again when a program that takes no lock came between."""
    for tries_left in reversed(range(_COMMIT_TRIES)):
        with opened(family, name) as table:
            change(table)
            try:
                table.commit()
            except Refused as error:
                if error.errno not in _RIVAL or not tries_left:
                    raise
            else:
                return


@contextmanager
def locked() -> Iterator[None]:
    """Hold the lock that iptables(8) takes, and the process's own. Busy after LOCK_SECONDS."""
    with _thread_lock:
        descriptor = os.open(LOCK_FILE, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _take(descriptor)
            yield
        finally:
            os.close(descriptor)


def _take(descriptor: int) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Busy(f"another program holds {LOCK_FILE}", "try again when it is done") from None
            time.sleep(_LOCK_POLL_SECONDS)


@cache
def _import_iptc() -> Any:
    """iptc, at its first use: it takes a tenth of a second and runs ldconfig."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # its patterns are no raw strings
            import iptc
    except ImportError:
        raise HostLacks("iptables rules need python-iptables", "pip install 'netdrivers[iptables]'") from None
    except Exception as error:
        # Without libip4tc or libxtables it fails with whatever its first use of None gives.
        raise HostLacks(f"python-iptables does not load: {error}", "install the package iptables") from error
    return iptc


@cache
def _errno_location() -> Callable[[], Any]:
    location = ctypes.CDLL(None).__errno_location
    location.restype = ctypes.POINTER(ctypes.c_int)
    return location


def _errno() -> int:
    """errno of the last call into libc: libiptc reports by it, and iptc keeps only the text."""
    return int(_errno_location()()[0])
