"""Which legacy iptables rules each firewall operation is: pure, the same policy as ruleset.nft.

Every rule is worth the same wherever it stands in its chain, or stands before or after all others
(``first``), so that networks and ports come and go without anybody renumbering.
"""

from __future__ import annotations

from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from netdrivers.kernel.rtnl import packed
from netdrivers.operations import (
    AnyOperation,
    BridgePolicy,
    FirewallTable,
    Hairpin,
    Masquerade,
    Publish,
)

PUBLISH, POST, FORWARD = "NETDRIVERS-PUBLISH", "NETDRIVERS-POST", "NETDRIVERS-FWD"
HAIRPIN, MASQUERADE, GUARD = "NETDRIVERS-HAIRPIN", "NETDRIVERS-MASQ", "NETDRIVERS-GUARD"
INTERNAL, POLICY = "NETDRIVERS-INTERNAL", "NETDRIVERS-POLICY"
BRIDGES, ISOLATED, STRICT = "NETDRIVERS-BRIDGES", "NETDRIVERS-ISOLATED", "NETDRIVERS-STRICT"

CHAINS = {
    "nat": (PUBLISH, POST, HAIRPIN, MASQUERADE),
    "filter": (FORWARD, INTERNAL, POLICY, BRIDGES, ISOLATED, STRICT),
    "raw": (GUARD,),
}
"""Our chains in each table."""

FIXED_CHAINS = (POST, FORWARD)
"""The chains that hold only rules of FirewallTable, in order; the others hold only other operations' rules."""

_LOOPBACK4, _LOOPBACK6 = "127.0.0.0/8", "::1/128"
_UNROUTED = {4: ("224.0.0.0/4", "255.255.255.255/32"), 6: ("ff00::/8",)}


class Rule(Struct, frozen=True, omit_defaults=True):
    """One rule. Empty fields match everything; ``inverted`` names the fields whose sense is turned.

    family: 4 or 6. source, destination: CIDR. port: destination port of ``protocol``. local: the
    destination is an address of the host. states: of conntrack (iptables-extensions(8), --ctstate).
    target: DROP, RETURN, MASQUERADE, DNAT (to ``to``, address and port), or a chain of ours.
    first: the rule goes to the top of its chain.
    """

    family: int
    table: str
    chain: str
    target: str
    protocol: str = ""
    source: str = ""
    destination: str = ""
    link_in: str = ""
    link_out: str = ""
    inverted: tuple[str, ...] = ()
    port: int = 0
    local: bool = False
    states: tuple[str, ...] = ()
    to: tuple[str, int] = ("", 0)
    first: bool = False


def rules(operation: AnyOperation) -> tuple[Rule, ...]:
    """The rules of an operation with backend "iptables". TypeError for operations of other rooms."""
    match operation:
        case FirewallTable():
            return tuple(rule for family, table in tables() for rule in fixed_rules(family, table))
        case BridgePolicy():
            return tuple(rule for family in (4, 6) for rule in _bridge_policy(family, operation))
        case Masquerade(subnet=subnet):
            return (Rule(_family(subnet), "nat", MASQUERADE, "MASQUERADE", source=subnet),)
        case Hairpin(subnet=subnet):
            return _hairpin(subnet)
        case Publish():
            return _publish(operation)
    raise TypeError(operation)


def tables() -> tuple[tuple[int, str], ...]:
    """The tables with chains of ours: (family, name). No packet to ::1 comes from outside, so no raw table for 6."""
    return ((4, "filter"), (4, "nat"), (4, "raw"), (6, "filter"), (6, "nat"))


def fixed_rules(family: int, table: str) -> tuple[Rule, ...]:
    """FirewallTable's rules in one table: those of FIXED_CHAINS in order, and the jumps from built-in chains."""
    rule = partial(Rule, family, table)
    if table == "raw":
        return (
            rule("PREROUTING", GUARD, source=_LOOPBACK4, first=True),
            rule("PREROUTING", GUARD, destination=_LOOPBACK4, first=True),
        )
    if table == "filter":
        return (
            rule(FORWARD, "RETURN", states=("ESTABLISHED", "RELATED")),
            rule(FORWARD, INTERNAL),
            rule(FORWARD, "RETURN", states=("DNAT",)),
            rule(FORWARD, POLICY),
            rule("FORWARD", FORWARD, first=True),
        )
    # [::1] cannot be DNATed to elsewhere, so a process listening there must still be reached.
    output = rule("OUTPUT", PUBLISH, local=True, first=True)
    if family == 6:
        output = replace(output, destination=_LOOPBACK6, inverted=("destination",))
    return (
        *(rule(POST, "RETURN", destination=subnet) for subnet in _UNROUTED[family]),
        rule(POST, HAIRPIN, states=("DNAT",)),
        rule(POST, MASQUERADE),
        rule("PREROUTING", PUBLISH, local=True, first=True),
        output,
        rule("POSTROUTING", POST, first=True),
    )


def _bridge_policy(family: int, operation: BridgePolicy) -> tuple[Rule, ...]:
    """A bridge's rules: what leaves it for another link goes through the chain of those it must not reach."""
    link = operation.link
    rule = partial(Rule, family, "filter")

    def leaving(chain: str, target: str) -> Rule:
        return rule(chain, target, link_in=link, link_out=link, inverted=("link_out",))

    match operation.policy:
        case "bridges":
            membership = (leaving(POLICY, STRICT), rule(BRIDGES, "DROP", link_out=link))
            kept = Rule(family, "nat", MASQUERADE, "RETURN", link_out=link, first=True)
            if family == 6:
                return (*membership, kept)
            loopback = Rule(4, "nat", HAIRPIN, "MASQUERADE", source=_LOOPBACK4, link_out=link)
            return (*membership, kept, loopback, Rule(4, "raw", GUARD, "DROP", link_in=link))
        case "strict":
            return leaving(POLICY, BRIDGES), rule(STRICT, "DROP", link_out=link)
        case "isolated":
            return leaving(POLICY, ISOLATED), rule(ISOLATED, "DROP", link_out=link)
        case "internal":
            entering = rule(INTERNAL, "DROP", link_in=link, link_out=link, inverted=("link_in",))
            return leaving(INTERNAL, "DROP"), entering
        case "noicc":
            return (rule(POLICY, "DROP", link_in=link, link_out=link),)


def _hairpin(subnet: str) -> tuple[Rule, ...]:
    family = _family(subnet)
    return (
        Rule(family, "nat", HAIRPIN, "MASQUERADE", source=subnet, destination=subnet),
        Rule(family, "nat", MASQUERADE, "RETURN", source=subnet, destination=subnet, first=True),
    )


def _publish(operation: Publish) -> tuple[Rule, ...]:
    """One rule for each port: a rule for a range picks a neighbour's port when two connections clash
    (NF_NAT_RANGE_PROTO_OFFSET in nf_nat_core.c). One host address goes before all addresses."""
    family = _family(operation.target_ip)
    host = f"{operation.host_ip}/{len(packed(operation.host_ip)) * 8}" if operation.host_ip else ""
    return tuple(
        Rule(
            family,
            "nat",
            PUBLISH,
            "DNAT",
            protocol=operation.protocol,
            destination=host,
            port=operation.host_port + step,
            to=(operation.target_ip, operation.target_port + step),
            first=bool(host),
        )
        for step in range(operation.count)
    )


def _family(address: str) -> int:
    return 6 if ":" in address else 4
