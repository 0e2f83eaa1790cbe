"""How firewall operations are applied and undone, by nft or by legacy iptables as each says."""

from __future__ import annotations

import errno
from typing import Any

from netdrivers import errors
from netdrivers.kernel import nftables, rtnl
from netdrivers.kernel.conntrack import forget_udp
from netdrivers.kernel.session import GONE, Session
from netdrivers.kernel.socket import NetlinkError
from netdrivers.operations import AllowSource, AnyOperation, FirewallTable, ForwardAccept, Publish


def _iptables() -> Any:
    from netdrivers.kernel.iptables import IptablesFirewall

    return IptablesFirewall()


def apply_table(operation: FirewallTable, session: Session) -> None:
    """Load the static rules unless they are there."""
    session.flush()
    if operation.backend == "iptables":
        _iptables().apply(operation)
    elif nftables.rule_count(session.socket("nft")) != nftables.expected_rules():
        nftables.load(nftables.ruleset())
    session.done(operation)


def undo_table(operation: FirewallTable, session: Session) -> None:
    """The rules go when no element needs them any more."""
    if operation.backend == "iptables":
        _iptables().undo(operation)
        return
    sock = session.socket("nft")
    if nftables.rule_count(sock) >= 0 and nftables.is_empty(sock):
        session.remove("nft", [nftables.delete_table()])


def apply_elements(operation: Any, session: Session) -> None:
    """Elements join one transaction with their neighbours'."""
    if operation.backend == "iptables":
        session.flush()
        _iptables().apply(operation)
        session.done(operation)
        return
    session.send("nft", operation, *nftables.element_messages(operation, add=True))


def undo_elements(operation: Any, session: Session) -> None:
    """Remove the elements; only those that are there, if some are missing."""
    if getattr(operation, "backend", "nft") == "iptables":
        _iptables().undo(operation)
        return
    sock = session.socket("nft")
    try:
        sock.transaction(nftables.element_messages(operation, add=False), nftables.BEGIN, nftables.END)
    except NetlinkError as error:
        if error.errno not in GONE:
            raise
        present = nftables.present_messages(sock, operation)
        if present:
            session.remove("nft", present)


def _forget_udp(operation: Publish, session: Session) -> None:
    if operation.protocol != "udp":
        return
    names: dict[int, str] = {}
    host = session.socket("host")
    for body in host.dump(*rtnl.dump_links()):
        link = rtnl.read_link(body)
        names[link.index] = link.name
    found = (rtnl.read_address(body, names) for body in host.dump(*rtnl.dump_addresses()))
    local = frozenset(fact.address.partition("/")[0] for fact in found if fact)
    forget_udp(
        session.socket("nft"), operation.host_port, operation.count, operation.host_ip, operation.target_ip, local
    )


def apply_publish(operation: Publish, session: Session) -> None:
    """Elements, and for UDP no remembered flow that passes them by."""
    apply_elements(operation, session)
    if operation.protocol == "udp":
        session.flush()
        _forget_udp(operation, session)


def undo_publish(operation: Publish, session: Session) -> None:
    """No element, and for UDP no remembered flow that still leads to the container."""
    undo_elements(operation, session)
    _forget_udp(operation, session)


def apply_allow_source(operation: AllowSource, session: Session) -> None:
    """Elements of the bridge family's table, which is loaded when first needed."""
    session.flush()
    sock = session.socket("nft")
    messages = nftables.element_messages(operation, add=True)
    try:
        sock.transaction(messages, nftables.BEGIN, nftables.END)
    except NetlinkError as error:
        if error.errno != errno.ENOENT:
            raise
        nftables.load(nftables.SOURCE_GUARD)
        sock.transaction(messages, nftables.BEGIN, nftables.END)
    session.done(operation)


def undo_allow_source(operation: AllowSource, session: Session) -> None:
    """Remove the elements; the table of the bridge family goes with the last one."""
    undo_elements(operation, session)
    sock = session.socket("nft")
    if nftables.is_empty(sock, nftables.NFPROTO_BRIDGE, ("guarded",)):
        session.remove("nft", [nftables.delete_table(nftables.NFPROTO_BRIDGE)])


def _docker_user(operation: ForwardAccept, verb: str) -> list[list[str]]:
    comment = ["-m", "comment", "--comment", "netdrivers", "-j", "ACCEPT"]
    return [
        [tool, "-w", "5", verb, "DOCKER-USER", direction, operation.link, *comment]
        for tool in ("iptables", "ip6tables")
        for direction in ("-i", "-o")
    ]


def _succeeds(command: list[str]) -> bool:
    import subprocess

    try:
        return subprocess.run(command, capture_output=True, timeout=30).returncode == 0
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False


def apply_forward_accept(operation: ForwardAccept, session: Session) -> None:
    """By the iptables executable: the chain is Docker's, kept for rules of others. IPv6 where Docker has it."""
    session.flush()
    present = [_succeeds(command) for command in _docker_user(operation, "-C")]
    inserted = [
        there or _succeeds(command) for there, command in zip(present, _docker_user(operation, "-I"), strict=True)
    ]
    if not all(inserted[:2]):
        raise errors.KernelError(f"cannot {operation.line()}: iptables refused the rule", 0, operation.line())
    session.done(operation)


def undo_forward_accept(operation: ForwardAccept, _: Session) -> None:
    """A chain that is gone has no rule of ours."""
    for command in _docker_user(operation, "-D"):
        _succeeds(command)


def forward_accept_drift(operation: ForwardAccept) -> str | None:
    """A rule missing from a chain that is there; where Docker is gone there is nothing to accept."""
    present = [_succeeds(command) for command in _docker_user(operation, "-C")[:2]]
    if all(present) or not _succeeds(["iptables", "-w", "5", "-S", "DOCKER-USER"]):
        return None
    return "rule missing"


def iptables_drift(operation: AnyOperation) -> str | None:
    """What legacy iptables does not hold of an operation."""
    found: str | None = _iptables().drift(operation)
    return found
