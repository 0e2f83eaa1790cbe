"""Forget UDP connection tracking entries of a published port, so that traffic follows the new rules at once.

Source: linux/netfilter/nfnetlink_conntrack.h. Deleting by filter needs a newer kernel than dumping by
filter, so entries are dumped (filtered where the kernel can) and deleted one by one.
"""

from __future__ import annotations

import struct

from netdrivers.kernel.codec import attribute, attributes, nested, u32
from netdrivers.kernel.rtnl import AF_INET, AF_INET6, unpacked
from netdrivers.kernel.session import GONE
from netdrivers.kernel.socket import NetlinkError, NetlinkSocket

_SUBSYSTEM = 1 << 8
_GET, _DELETE = _SUBSYSTEM | 1, _SUBSYSTEM | 2
_TUPLE_ORIG, _TUPLE_REPLY, _FILTER, _ZONE = 1, 2, 25, 18
_IP, _PROTO = 1, 2
_UDP = 17
_FILTER_PROTO_NUM, _FILTER_DST_PORT = 1 << 3, 1 << 5


def _header(family: int) -> bytes:
    return struct.pack(">BBH", family, 0, 0)


def _dump(sock: NetlinkSocket, family: int, port: int | None) -> list[bytes]:
    """Entries of a family; of one UDP destination port where the kernel filters."""
    if port is not None:
        proto = nested(_PROTO, attribute(1, bytes((_UDP,))), attribute(3, struct.pack(">H", port)))
        wanted = nested(_TUPLE_ORIG, proto) + nested(_FILTER, u32(1, _FILTER_PROTO_NUM | _FILTER_DST_PORT), u32(2, 0))
        try:
            return sock.dump(_GET, _header(family) + wanted)
        except NetlinkError:
            pass  # before 5.8 the kernel has no such filter
    return sock.dump(_GET, _header(family))


def _addresses(tuple_: bytes) -> tuple[str, str]:
    """Source and destination of a tuple."""
    ip = attributes(attributes(tuple_).get(_IP, b""))
    source, destination = ip.get(1) or ip.get(3), ip.get(2) or ip.get(4)
    return (unpacked(source) if source else "", unpacked(destination) if destination else "")


def forget_udp(sock: NetlinkSocket, port: int, count: int, host_ip: str, target_ip: str, local: frozenset[str]) -> int:
    """Delete UDP entries towards published ports that go elsewhere or to the target; how many were deleted.

    local: the host's addresses, so that forwarded traffic to the same port number is left alone.
    """
    family = AF_INET6 if ":" in target_ip else AF_INET
    deleted = 0
    for body in _dump(sock, family, port if count == 1 else None):
        found = attributes(body, 4)
        original = found.get(_TUPLE_ORIG, b"")
        proto = attributes(attributes(original).get(_PROTO, b""))
        if proto.get(1) != bytes((_UDP,)) or not port <= int.from_bytes(proto.get(3, b""), "big") < port + count:
            continue
        destination = _addresses(original)[1]
        if destination not in ({host_ip} if host_ip else local):
            continue
        exact = attribute(_TUPLE_ORIG | 0x8000, original)
        if _ZONE in found:
            exact += attribute(_ZONE, found[_ZONE])
        number = sock.batch([(_DELETE, 0, _header(family) + exact)])[0]
        if number and number not in GONE:
            raise NetlinkError(number, 0)
        deleted += not number
    return deleted
