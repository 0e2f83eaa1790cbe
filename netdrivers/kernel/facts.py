"""Gather what planning may know of the host; only what a query asks for."""

from __future__ import annotations

import errno
import os

from netdrivers.kernel import nftables, rtnl
from netdrivers.kernel.namespaces import Sandbox, own_inode
from netdrivers.kernel.session import Session
from netdrivers.kernel.socket import NetlinkError
from netdrivers.model import Facts, FactsQuery, LinkFact


def executable(name: str) -> str | None:
    """The path of an executable on PATH (shutil.which costs more to import than this does)."""
    for directory in os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").split(":"):
        path = f"{directory}/{name}"
        if os.access(path, os.X_OK):
            return path
    return None


def firewall_backend(session: Session) -> str:
    """ "nft" where the kernel and nft(8) are there, else "iptables" where legacy tables are, else ""."""
    try:
        if nftables.rule_count(session.socket("nft")) >= 0 or executable("nft"):
            return "nft"
    except NetlinkError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT):
            raise
    return "iptables" if executable("iptables-legacy") or executable("iptables") else ""


def docker_user(session: Session) -> bool:
    """Whether Docker's chain for rules of others is there, in nft's tables or in the legacy ones."""
    if nftables.chain_exists(session.socket("nft"), nftables.NFPROTO_IPV4, "filter", "DOCKER-USER"):
        return True
    try:
        with open("/proc/net/ip_tables_names", encoding="ascii") as file:
            legacy = "filter" in file.read().split()
    except OSError:
        return False
    if not legacy or not executable("iptables"):
        return False
    import subprocess

    listed = ["iptables", "-w", "5", "-S", "DOCKER-USER"]
    return subprocess.run(listed, capture_output=True, timeout=30).returncode == 0


def forward_trouble(session: Session) -> list[str]:
    """Chains of others that drop forwarded packets by default and offer no place for our accept rule."""
    found = []
    for table, chain in nftables.dropping_forward_chains(session.socket("nft")):
        if table == "filter" and docker_user(session):
            continue
        found.append(f"chain {chain} of table {table} drops forwarded packets; accept those of our bridges there")
    return found


def _no_encryption(session: Session) -> tuple[str, str]:
    from netdrivers.kernel import xfrm

    return xfrm.lacks(session.socket("xfrm"), 4), xfrm.lacks(session.socket("xfrm"), 6)


def gather(query: FactsQuery, session: Session, sandbox: Sandbox | None) -> Facts:
    """The facts that a query asks for."""
    host = session.socket("host")
    links: list[LinkFact] = []
    if query.links or query.routes or query.addresses:
        links = [rtnl.read_link(body) for body in host.dump(*rtnl.dump_links())]
    else:
        for name in query.names:
            try:
                links.append(rtnl.read_link(host.ask(*rtnl.get_link(name))))
            except NetlinkError as error:
                if error.errno != errno.ENODEV:
                    raise
    names = {link.index: link.name for link in links}
    routes, addresses = [], []
    if query.routes:
        for family in (rtnl.AF_INET, rtnl.AF_INET6):
            found = (rtnl.read_route(body, names) for body in host.dump(*rtnl.dump_routes(family)))
            routes += [route for route in found if route]
    if query.addresses:
        known = (rtnl.read_address(body, names) for body in host.dump(*rtnl.dump_addresses()))
        addresses = [address for address in known if address]
    return Facts(
        links=tuple(links),
        routes=tuple(routes),
        addresses=tuple(addresses),
        firewall=firewall_backend(session) if query.firewall else "nft",
        docker_user=docker_user(session) if query.firewall else False,
        same_namespace=sandbox is not None and sandbox.inode == own_inode(),
        no_encryption=_no_encryption(session) if query.encryption else ("", ""),
        ipv6=os.path.exists("/proc/sys/net/ipv6"),
    )
