"""A legacy iptables rule as the kernel's struct ipt_entry or ip6t_entry.

Written here and not by iptc's Rule, Match and Target: those find extensions for one address family in
a process only, match IPv6 interface names by their lowest bits, and take over the process's standard
output (python-iptables 1.2.0). Sources: linux/netfilter_ipv4/ip_tables.h,
linux/netfilter_ipv6/ip6_tables.h, linux/netfilter/x_tables.h, xt_*.h and nf_nat.h.
"""

from __future__ import annotations

import struct

from netdrivers.kernel.iptables_rules import Rule
from netdrivers.kernel.rtnl import packed

COMMENT = "netdrivers"

_ENTRY4 = struct.Struct("@4s4s4s4s16s16s16s16sHBBIHHIQQ")
_ENTRY6 = struct.Struct("@16s16s16s16s16s16s16s16sHBBB3xIHHIQQ")
_ALIGN = struct.calcsize("@BQ") - struct.calcsize("@Q")  # XT_ALIGN
_IP6T_F_PROTO = 1
_INVERT = {"link_in": 0x01, "link_out": 0x02, "source": 0x08, "destination": 0x10}

_PROTOCOLS = {"": 0, "tcp": 6, "udp": 17, "sctp": 132}
_STATES = {"ESTABLISHED": 1 << 1, "RELATED": 1 << 2, "DNAT": 1 << 7}  # linux/netfilter/xt_conntrack.h

_MULTIPORT_DESTINATION = 1
_ADDRTYPE_LOCAL = 1 << 2
_CONNTRACK_STATE = 1
_NAT_RANGE_MAP_IPS, _NAT_RANGE_PROTO_SPECIFIED = 1, 2


def encode(rule: Rule) -> bytes:
    """The entry of a rule, with the target's name where libiptc expects a chain's or verdict's."""
    matches = b"".join(_matches(rule))
    target = _target(rule)
    layout = _ENTRY4 if rule.family == 4 else _ENTRY6
    target_offset = _aligned(layout.size) + len(matches)
    invert = sum(_INVERT[field] for field in rule.inverted)
    source, source_mask = _subnet(rule.source, rule.family)
    destination, destination_mask = _subnet(rule.destination, rule.family)
    protocol = _PROTOCOLS[rule.protocol]
    flags = (0, invert) if rule.family == 4 else (0, _IP6T_F_PROTO if protocol else 0, invert)
    head = layout.pack(
        source,
        destination,
        source_mask,
        destination_mask,
        rule.link_in.encode(),
        rule.link_out.encode(),
        _name_mask(rule.link_in),
        _name_mask(rule.link_out),
        protocol,
        *flags,
        0,
        target_offset,
        target_offset + len(target),
        0,
        0,
        0,
    )
    return head.ljust(_aligned(layout.size), b"\0") + matches + target


def _aligned(size: int) -> int:
    return (size + _ALIGN - 1) // _ALIGN * _ALIGN


def _subnet(subnet: str, family: int) -> tuple[bytes, bytes]:
    """Masked address and mask; zeros for ""."""
    width = 4 if family == 4 else 16
    if not subnet:
        return bytes(width), bytes(width)
    ip, _, prefix = subnet.partition("/")
    mask = (1 << width * 8) - (1 << width * 8 - int(prefix))
    address = int.from_bytes(packed(ip), "big") & mask
    return address.to_bytes(width, "big"), mask.to_bytes(width, "big")


def _name_mask(link: str) -> bytes:
    """Names are compared to their end, the zero byte included."""
    return b"\xff" * (len(link.encode()) + 1) if link else b""


def _extension(name: str, revision: int, data: bytes) -> bytes:
    """struct xt_entry_match or xt_entry_target with its data."""
    body = data.ljust(_aligned(len(data)), b"\0")
    return struct.pack("@H29sB", 32 + len(body), name.encode(), revision) + body


def _matches(rule: Rule) -> list[bytes]:
    found = []
    if rule.port:
        found.append(_extension("multiport", 1, _multiport(rule.port)))
    if rule.local:
        found.append(_extension("addrtype", 1, struct.pack("@HHI", 0, _ADDRTYPE_LOCAL, 0)))
    if rule.states:
        found.append(_extension("conntrack", 3, _conntrack(sum(_STATES[state] for state in rule.states))))
    found.append(_extension("comment", 0, COMMENT.encode().ljust(256, b"\0")))
    return found


def _multiport(port: int) -> bytes:
    """struct xt_multiport_v1: one destination port; the same for tcp, udp and sctp."""
    return struct.pack("@BBH28x15sB", _MULTIPORT_DESTINATION, 1, port, b"", 0)


def _conntrack(states: int) -> bytes:
    """struct xt_conntrack_mtinfo3: only the states are looked at."""
    return struct.pack("@146xHHHH10x", _CONNTRACK_STATE, 0, states, 0)


def _target(rule: Rule) -> bytes:
    if rule.target == "DNAT":
        return _extension("DNAT", 2, _nat_range2(*rule.to))
    if rule.target == "MASQUERADE":
        # struct nf_nat_ipv4_multi_range_compat with one empty range, and struct nf_nat_range
        data = struct.pack("@I16x", 1) if rule.family == 4 else bytes(40)
        return _extension("MASQUERADE", 0, data)
    return _extension(rule.target, 0, struct.pack("@i", 0))  # struct xt_standard_target


def _nat_range2(address: str, port: int) -> bytes:
    """struct nf_nat_range2: one address, one port."""
    raw = packed(address).ljust(16, b"\0")
    wire_port = port.to_bytes(2, "big")
    flags = _NAT_RANGE_MAP_IPS | _NAT_RANGE_PROTO_SPECIFIED
    return struct.pack("@I16s16s2s2s4x", flags, raw, raw, wire_port, wire_port)
