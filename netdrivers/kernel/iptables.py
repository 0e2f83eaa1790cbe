"""Firewall operations as legacy iptables rules: apply, undo and drift, in the current network namespace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import groupby

from netdrivers.errors import KernelError, NetdriversError
from netdrivers.kernel.iptables_rules import CHAINS, FIXED_CHAINS, Rule, fixed_rules, rules, tables
from netdrivers.kernel.iptables_tables import NoTable, Table, edit, locked, opened
from netdrivers.operations import AnyOperation, BridgePolicy, FirewallTable


class IptablesFirewall:
    """FirewallTable, BridgePolicy, Masquerade, Hairpin and Publish with backend "iptables".

    Every method works on the calling thread's network namespace, takes the xtables lock and may raise
    HostLacks (no python-iptables, no legacy table), Busy (the lock) and KernelError.
    """

    def apply(self, operation: AnyOperation) -> None:
        """Make the operation's rules be there, once each; on failure none of them stays."""
        with _speaking_of(operation), locked():
            try:
                if isinstance(operation, FirewallTable):
                    _build()
                else:
                    _put_there(operation)
            except NetdriversError:
                with suppress(NetdriversError):
                    _take_away(operation)
                raise

    def undo(self, operation: AnyOperation) -> None:
        """Make the operation's rules be gone. FirewallTable stays while other operations' rules are in its chains."""
        with _speaking_of(operation), locked():
            _take_away(operation)

    def drift(self, operation: AnyOperation) -> str | None:
        """What the kernel does not show of the operation, in a few words; None when all is there."""
        missing: list[Rule] = []
        count = 0
        with _speaking_of(operation), locked():
            for family, name, found in _by_table(operation):
                count += len(found)
                with opened(family, name) as table:
                    missing += _missing(table, found)
        if not missing:
            return None
        first = missing[0]
        amount = "rule" if count == 1 else f"{len(missing)} of {count} rules"
        return f"{amount} missing, IPv{first.family} {first.table} {first.chain}"


@contextmanager
def _speaking_of(operation: AnyOperation) -> Iterator[None]:
    """Name the operation in the kernel's errors."""
    try:
        yield
    except KernelError as error:
        error.operation = operation.line()
        raise
    except OSError as error:
        raise KernelError(f"cannot {operation.line()}: {error}", error.errno or 0, operation.line()) from None


def _by_table(operation: AnyOperation) -> Iterator[tuple[int, str, list[Rule]]]:
    """An operation's rules for each table. What both families get leaves out a family the kernel has not."""
    both = isinstance(operation, FirewallTable | BridgePolicy)
    for (family, name), found in groupby(rules(operation), key=lambda rule: (rule.family, rule.table)):
        if both and not _available(family, name):
            continue
        yield family, name, list(found)


def _available(family: int, name: str) -> bool:
    """Whether the kernel has a table; IPv4's are needed, so asking for them may raise."""
    if family == 4:
        return True
    try:
        with opened(family, name):
            return True
    except NoTable:
        return False


def _missing(table: Table, found: list[Rule]) -> list[Rule]:
    """The rules that are not there; the table is of no more use after, and must not be committed."""
    return [rule for rule in found if not table.remove(rule)]


def _put(found: list[Rule], table: Table) -> None:
    if not all(table.has_chain(chain) for chain in CHAINS[table.name]):
        _fix(table)
    for rule in found:
        table.remove(rule)
        table.add(rule)


def _fix(table: Table) -> None:
    """Create the chains that are missing and write the fixed rules anew."""
    for chain in CHAINS[table.name]:
        if not table.has_chain(chain):
            table.create_chain(chain)
        elif chain in FIXED_CHAINS:
            table.flush(chain)
    for rule in fixed_rules(table.family, table.name):
        if rule.chain not in FIXED_CHAINS:
            table.remove(rule)
        table.add(rule)


def _build() -> None:
    """Only where something is missing, so that a second network does not move the jumps."""
    for family, name, found in _by_table(FirewallTable("iptables")):
        with opened(family, name) as table:
            whole = all(table.has_chain(chain) for chain in CHAINS[name]) and not _missing(table, found)
        if not whole:
            edit(family, name, _fix)


def _put_there(operation: AnyOperation) -> None:
    for family, name, found in _by_table(operation):
        edit(family, name, partial(_put, found))


def _take_away(operation: AnyOperation) -> None:
    if isinstance(operation, FirewallTable):
        _tear_down()
        return
    for family, name, found in _by_table(operation):
        with suppress(NoTable):
            edit(family, name, partial(_remove, found))


def _remove(found: list[Rule], table: Table) -> None:
    for rule in found:
        table.remove(rule)


def _tear_down() -> None:
    present = [(family, name) for family, name in tables() if _has_ours(family, name)]
    for family, name in present:
        with opened(family, name) as table:
            if not all(table.is_empty(chain) for chain in CHAINS[name] if chain not in FIXED_CHAINS):
                return
    for family, name in present:
        edit(family, name, _clear)


def _has_ours(family: int, name: str) -> bool:
    try:
        with opened(family, name) as table:
            return any(table.has_chain(chain) for chain in CHAINS[name])
    except NoTable:
        return False


def _clear(table: Table) -> None:
    """Jumps first, then the rules that lead from chain to chain, then the chains."""
    ours = [chain for chain in CHAINS[table.name] if table.has_chain(chain)]
    for rule in fixed_rules(table.family, table.name):
        table.remove(rule)
    for chain in ours:
        table.flush(chain)
    for chain in ours:
        table.delete_chain(chain)
