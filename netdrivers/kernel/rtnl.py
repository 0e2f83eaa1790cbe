"""Messages of rtnetlink (links, addresses, routes) as (type, flags, body), and readers of answers.

Sources: linux/rtnetlink.h, linux/if_link.h, linux/veth.h, linux/if_addr.h.
"""

from __future__ import annotations

import _socket
import struct

from netdrivers.kernel.codec import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    attribute,
    attributes,
    nested,
    number,
    string,
    text,
    u8,
    u16,
    u32,
)
from netdrivers.model import AddressFact, LinkFact, RouteFact

Body = tuple[int, int, bytes]

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26

AF_INET, AF_INET6, AF_BRIDGE = 2, 10, 7
IFF_UP, IFF_LOOPBACK, IFF_PROMISC, IFF_ALLMULTI = 0x1, 0x8, 0x100, 0x200

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER = 1, 3, 4, 5, 10
IFLA_PROTINFO, IFLA_TXQLEN, IFLA_LINKINFO, IFLA_AF_SPEC, IFLA_GROUP, IFLA_NET_NS_FD = 12, 13, 18, 26, 27, 28
IFLA_EXT_MASK, IFLA_PROMISCUITY = 29, 30
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
VETH_INFO_PEER = 1
IFLA_INET6_ADDR_GEN_MODE = 8
IFLA_BR_VLAN_FILTERING, IFLA_BR_MCAST_SNOOPING, IFLA_BR_VLAN_DEFAULT_PVID = 7, 23, 39
IFLA_BRIDGE_FLAGS, IFLA_BRIDGE_VLAN_INFO, BRIDGE_FLAGS_SELF = 0, 2, 2
IFLA_VLAN_ID = 1
IFLA_BRPORT_STATE, IFLA_BRPORT_MODE, IFLA_BRPORT_LEARNING = 1, 4, 8
IFLA_BRPORT_ISOLATED, IFLA_BRPORT_NEIGH_SUPPRESS = 33, 32
IFLA_MACVLAN_MODE, IFLA_MACVLAN_BC_QUEUE_LEN = 1, 7
MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IFLA_IPVLAN_MODE = 1
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}

IFLA_VXLAN_ID, IFLA_VXLAN_LINK, IFLA_VXLAN_LOCAL, IFLA_VXLAN_LEARNING = 1, 3, 4, 7
IFLA_VXLAN_PORT, IFLA_VXLAN_LOCAL6 = 15, 17

RTM_NEWNEIGH, RTM_DELNEIGH = 28, 29
NDA_DST, NDA_LLADDR = 1, 2
NUD_NOARP, NUD_PERMANENT, NTF_SELF = 0x40, 0x80, 0x02

IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 4, 8
IFA_F_NODAD, IFA_F_PERMANENT = 0x2, 0x80

RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_METRICS, RTA_TABLE = 1, 4, 5, 6, 8, 15
RTAX_MTU, RTAX_ADVMSS = 2, 8
RT_TABLE_MAIN, RTPROT_BOOT, RTN_UNICAST = 254, 3, 1
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
RTNH_F_ONLINK = 4

_LINK = struct.Struct("=BxHiII")
LINK_HEADER = _LINK.size
_ADDRESS = struct.Struct("=BBBBi")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_ROUTE = struct.Struct("=BBBBBBBBI")


def packed(address: str) -> bytes:
    """The 4 or 16 bytes of an address."""
    return _socket.inet_pton(AF_INET6 if ":" in address else AF_INET, address)


def unpacked(address: bytes) -> str:
    """The text of 4 or 16 bytes."""
    return _socket.inet_ntop(AF_INET6 if len(address) == 16 else AF_INET, address)


def mac_bytes(mac: str) -> bytes:
    """The six bytes of a MAC."""
    return bytes.fromhex(mac.replace(":", ""))


def _link(index: int = 0, flags: int = 0, change: int = 0, family: int = 0) -> bytes:
    return _LINK.pack(family, 0, index, flags, change)


def create_veth(host_name: str, host_mac: str, name: str, mac: str, mtu: int, netns_fd: int | None) -> Body:
    """A veth pair, both ends down (a peer made up already fails with ENOTCONN); the peer there, or here too."""
    peer = _link() + string(IFLA_IFNAME, name) + attribute(IFLA_ADDRESS, mac_bytes(mac))
    if netns_fd is not None:
        peer += u32(IFLA_NET_NS_FD, netns_fd)
    own = _link() + string(IFLA_IFNAME, host_name) + attribute(IFLA_ADDRESS, mac_bytes(host_mac))
    if mtu:
        peer += u32(IFLA_MTU, mtu)
        own += u32(IFLA_MTU, mtu)
    info = string(IFLA_INFO_KIND, "veth") + nested(IFLA_INFO_DATA, nested(VETH_INFO_PEER, peer))
    return RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, own + nested(IFLA_LINKINFO, info)


def create_bridge(
    name: str, mac: str, mtu: int, vlan_filtering: bool, default_pvid: int, multicast_snooping: bool = True
) -> Body:
    """A bridge, down, its MAC and MTU pinned."""
    body = _link() + string(IFLA_IFNAME, name)
    if mac:
        body += attribute(IFLA_ADDRESS, mac_bytes(mac))
    if mtu:
        body += u32(IFLA_MTU, mtu)
    data = b""
    if vlan_filtering:
        data += u8(IFLA_BR_VLAN_FILTERING, 1)
        if default_pvid >= 0:
            data += u16(IFLA_BR_VLAN_DEFAULT_PVID, default_pvid)
    if not multicast_snooping:
        data += u8(IFLA_BR_MCAST_SNOOPING, 0)
    info = string(IFLA_INFO_KIND, "bridge") + (nested(IFLA_INFO_DATA, data) if data else b"")
    return RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body + nested(IFLA_LINKINFO, info)


def filter_vlans(index: int) -> Body:
    """A bridge that is there begins to filter VLANs; its ports stay in the default one."""
    info = string(IFLA_INFO_KIND, "bridge") + nested(IFLA_INFO_DATA, u8(IFLA_BR_VLAN_FILTERING, 1))
    return RTM_NEWLINK, 0, _link(index=index) + nested(IFLA_LINKINFO, info)


def create_vlan_link(name: str, bridge_index: int, vlan: int, mac: str, mtu: int) -> Body:
    """A VLAN device (802.1Q) on a bridge, up."""
    body = _link(flags=IFF_UP, change=IFF_UP) + string(IFLA_IFNAME, name) + u32(IFLA_LINK, bridge_index)
    body += attribute(IFLA_ADDRESS, mac_bytes(mac))
    if mtu:
        body += u32(IFLA_MTU, mtu)
    info = string(IFLA_INFO_KIND, "vlan") + nested(IFLA_INFO_DATA, u16(IFLA_VLAN_ID, vlan))
    return RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body + nested(IFLA_LINKINFO, info)


def create_macvlan(
    name: str, parent_index: int, mode: str, mac: str, mtu: int, bcqueuelen: int, netns_fd: int | None
) -> Body:
    """A macvlan, down; in the namespace of netns_fd, or here."""
    body = _link() + string(IFLA_IFNAME, name) + u32(IFLA_LINK, parent_index)
    if mac:
        body += attribute(IFLA_ADDRESS, mac_bytes(mac))
    if mtu:
        body += u32(IFLA_MTU, mtu)
    if netns_fd is not None:
        body += u32(IFLA_NET_NS_FD, netns_fd)
    data = u32(IFLA_MACVLAN_MODE, MACVLAN_MODES[mode])
    if bcqueuelen:
        data += u32(IFLA_MACVLAN_BC_QUEUE_LEN, bcqueuelen)
    info = string(IFLA_INFO_KIND, "macvlan") + nested(IFLA_INFO_DATA, data)
    return RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body + nested(IFLA_LINKINFO, info)


def create_ipvlan(name: str, parent_index: int, mode: str, mtu: int, netns_fd: int | None) -> Body:
    """An ipvlan, down; in the namespace of netns_fd, or here. The mode becomes that of all on the parent."""
    body = _link() + string(IFLA_IFNAME, name) + u32(IFLA_LINK, parent_index)
    if mtu:
        body += u32(IFLA_MTU, mtu)
    if netns_fd is not None:
        body += u32(IFLA_NET_NS_FD, netns_fd)
    info = string(IFLA_INFO_KIND, "ipvlan") + nested(IFLA_INFO_DATA, u16(IFLA_IPVLAN_MODE, IPVLAN_MODES[mode]))
    return RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body + nested(IFLA_LINKINFO, info)


def create_vxlan(name: str, vni: int, port: int, local: str, device_index: int, mac: str, mtu: int) -> Body:
    """A VXLAN device, down, that learns nothing (linux/if_link.h)."""
    body = _link() + string(IFLA_IFNAME, name) + attribute(IFLA_ADDRESS, mac_bytes(mac))
    if mtu:
        body += u32(IFLA_MTU, mtu)
    raw = packed(local)
    data = u32(IFLA_VXLAN_ID, vni) + u32(IFLA_VXLAN_LINK, device_index) + u8(IFLA_VXLAN_LEARNING, 0)
    data += attribute(IFLA_VXLAN_LOCAL6 if len(raw) == 16 else IFLA_VXLAN_LOCAL, raw)
    data += attribute(IFLA_VXLAN_PORT, struct.pack(">H", port))
    info = string(IFLA_INFO_KIND, "vxlan") + nested(IFLA_INFO_DATA, data)
    return RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body + nested(IFLA_LINKINFO, info)


def forwarding_entry(index: int, mac: str, vtep: str, add: bool) -> Body:
    """Frames for a MAC go to a VTEP."""
    header = _NEIGHBOUR.pack(AF_BRIDGE, index, NUD_PERMANENT | NUD_NOARP, NTF_SELF, 0)
    body = header + attribute(NDA_DST, packed(vtep)) + attribute(NDA_LLADDR, mac_bytes(mac))
    return (RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body) if add else (RTM_DELNEIGH, 0, body)


def neighbour(index: int, address: str, mac: str, add: bool) -> Body:
    """A permanent neighbour."""
    raw = packed(address)
    header = _NEIGHBOUR.pack(AF_INET6 if len(raw) == 16 else AF_INET, index, NUD_PERMANENT, 0, 0)
    body = header + attribute(NDA_DST, raw) + attribute(NDA_LLADDR, mac_bytes(mac))
    return (RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body) if add else (RTM_DELNEIGH, 0, body)


_NO_LINK_LOCAL = nested(IFLA_AF_SPEC, nested(AF_INET6, u8(IFLA_INET6_ADDR_GEN_MODE, 1)))


def enslave(link: str, master_index: int, ipv6: bool) -> Body:
    """A named link becomes an up port of a bridge, without an IPv6 address of its own. ipv6: the kernel has it."""
    body = _link(flags=IFF_UP, change=IFF_UP) + string(IFLA_IFNAME, link) + u32(IFLA_MASTER, master_index)
    return RTM_SETLINK, 0, body + (_NO_LINK_LOCAL if ipv6 else b"")


def no_link_local(index: int) -> Body:
    """A link that is down makes itself no IPv6 address when it comes up."""
    return RTM_SETLINK, 0, _link(index=index) + _NO_LINK_LOCAL


def release(link: str) -> Body:
    """A named link leaves its bridge."""
    return RTM_SETLINK, 0, _link() + string(IFLA_IFNAME, link) + u32(IFLA_MASTER, 0)


def port_flags(link: str, hairpin: bool, isolated: bool, learning: bool, neigh_suppress: bool) -> Body:
    """Flags of a named bridge port."""
    data = u8(IFLA_BRPORT_MODE, hairpin) + u8(IFLA_BRPORT_ISOLATED, isolated) + u8(IFLA_BRPORT_LEARNING, learning)
    if neigh_suppress:
        data += u8(IFLA_BRPORT_NEIGH_SUPPRESS, 1)
    info = string(IFLA_INFO_SLAVE_KIND, "bridge") + nested(IFLA_INFO_SLAVE_DATA, data)
    return RTM_NEWLINK, 0, _link() + string(IFLA_IFNAME, link) + nested(IFLA_LINKINFO, info)


def disable_port(index: int) -> Body:
    """A bridge port neither forwards nor learns: the attachment is cut off at once.

    As IFLA_PROTINFO of AF_BRIDGE: what IFLA_INFO_SLAVE_DATA says of the state is accepted and forgotten.
    """
    body = _link(index=index, family=AF_BRIDGE) + nested(IFLA_PROTINFO, u8(IFLA_BRPORT_STATE, 0))
    return RTM_SETLINK, 0, body


def bridge_vlan(index: int, first: int, last: int, flags: int, add: bool) -> Body:
    """VLAN ids of a bridge port (linux/if_bridge.h); flags: 2 pvid, 4 untagged."""
    parts: bytes
    if first == last:
        parts = attribute(2, struct.pack("=HH", flags, first))
    else:
        parts = attribute(2, struct.pack("=HH", flags | 8, first)) + attribute(2, struct.pack("=HH", flags | 16, last))
    body = _link(index=index, family=AF_BRIDGE) + nested(IFLA_AF_SPEC, parts)
    return (RTM_SETLINK if add else RTM_DELLINK), 0, body


def own_vlan(bridge_index: int, vlan: int, add: bool) -> Body:
    """The bridge itself is, or is not, in a VLAN: whether the host gets its frames."""
    entry = attribute(IFLA_BRIDGE_VLAN_INFO, struct.pack("=HH", 0, vlan))
    body = _link(index=bridge_index, family=AF_BRIDGE)
    body += nested(IFLA_AF_SPEC, u16(IFLA_BRIDGE_FLAGS, BRIDGE_FLAGS_SELF) + entry)
    return (RTM_SETLINK if add else RTM_DELLINK), 0, body


def set_link(
    index: int,
    *,
    up: bool | None = None,
    mac: str = "",
    mtu: int = 0,
    tx_queue_length: int = 0,
    promiscuous: bool | None = None,
    allmulticast: bool | None = None,
) -> Body:
    """Settings of a link, by index; what is not given stays."""
    flags = change = 0
    for bit, wanted in ((IFF_UP, up), (IFF_PROMISC, promiscuous), (IFF_ALLMULTI, allmulticast)):
        if wanted is not None:
            change |= bit
            flags |= bit if wanted else 0
    body = _link(index=index, flags=flags, change=change)
    if mac:
        body += attribute(IFLA_ADDRESS, mac_bytes(mac))
    if mtu:
        body += u32(IFLA_MTU, mtu)
    if tx_queue_length:
        body += u32(IFLA_TXQLEN, tx_queue_length)
    return RTM_SETLINK, 0, body


def delete_link(name: str) -> Body:
    """Delete a link by name; the kernel takes 15 to 20 ms of grace for it."""
    return RTM_DELLINK, 0, _link() + string(IFLA_IFNAME, name)


def set_group(index: int, group: int) -> Body:
    """Put a link into a group."""
    return RTM_SETLINK, 0, _link(index=index) + u32(IFLA_GROUP, group)


def delete_group(group: int) -> Body:
    """Delete every link of a group, in one grace period."""
    return RTM_DELLINK, 0, _link() + u32(IFLA_GROUP, group)


def address(index: int, cidr: str, add: bool, detect_duplicates: bool = False) -> Body:
    """Add or delete an interface address; IPv6 duplicate address detection costs 1 to 2 s."""
    ip, _, prefix = cidr.partition("/")
    raw = packed(ip)
    flags = IFA_F_PERMANENT | (IFA_F_NODAD if len(raw) == 16 and not detect_duplicates else 0)
    header = _ADDRESS.pack(AF_INET6 if len(raw) == 16 else AF_INET, int(prefix), flags & 0xFF, 0, index)
    body = header + attribute(IFA_LOCAL, raw) + attribute(IFA_ADDRESS, raw)
    if not add:
        return RTM_DELADDR, 0, body
    if len(raw) == 4 and int(prefix) < 31:
        mask = (1 << (32 - int(prefix))) - 1
        body += attribute(IFA_BROADCAST, (int.from_bytes(raw, "big") | mask).to_bytes(4, "big"))
    return RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body + u32(IFA_FLAGS, flags)


def route(
    index: int,
    dst: str,
    via: str,
    add: bool,
    *,
    metric: int = 0,
    mtu: int = 0,
    advmss: int = 0,
    table: int = 0,
    scope: int = -1,
    onlink: bool = False,
) -> Body:
    """Add or delete a route by a device; the defaults are those of ip-route(8)."""
    ip, _, prefix_text = dst.partition("/")
    raw = packed(ip)
    family = AF_INET6 if len(raw) == 16 else AF_INET
    prefix = int(prefix_text) if prefix_text else len(raw) * 8
    if scope < 0:
        scope = RT_SCOPE_UNIVERSE if via or family == AF_INET6 else RT_SCOPE_LINK
    table = table or RT_TABLE_MAIN
    header = _ROUTE.pack(
        family, prefix, 0, 0, min(table, 255) if table < 256 else 252, RTPROT_BOOT, scope, RTN_UNICAST,
        RTNH_F_ONLINK if onlink else 0,
    )  # fmt: skip
    body = header + (attribute(RTA_DST, raw) if prefix else b"") + u32(RTA_OIF, index)
    if table > 255:
        body += u32(RTA_TABLE, table)
    if via:
        body += attribute(RTA_GATEWAY, packed(via))
    if metric:
        body += u32(RTA_PRIORITY, metric)
    metrics = (u32(RTAX_MTU, mtu) if mtu else b"") + (u32(RTAX_ADVMSS, advmss) if advmss else b"")
    if metrics:
        body += nested(RTA_METRICS, metrics)
    return (RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body) if add else (RTM_DELROUTE, 0, body)


def replace_route(body: Body) -> Body:
    """The same route, replacing one that is there."""
    return body[0], NLM_F_CREATE | NLM_F_REPLACE, body[2]


def get_link(name: str) -> tuple[int, bytes]:
    """Look one link up by name."""
    return RTM_GETLINK, _link() + string(IFLA_IFNAME, name)


def dump_links() -> tuple[int, bytes]:
    """All links."""
    return RTM_GETLINK, _link()


def dump_addresses() -> tuple[int, bytes]:
    """All addresses."""
    return RTM_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0)


def dump_routes(family: int) -> tuple[int, bytes]:
    """All routes of a family."""
    return RTM_GETROUTE, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)


def read_link(body: bytes) -> LinkFact:
    """A link from an RTM_NEWLINK body."""
    _, _, index, flags, _ = _LINK.unpack_from(body)
    found = attributes(body, _LINK.size)
    info = attributes(found.get(IFLA_LINKINFO, b""))
    kind = text(info.get(IFLA_INFO_KIND, b""))
    data = attributes(info.get(IFLA_INFO_DATA, b"")) if kind in ("vxlan", "bridge") else {}
    vxlan = data if kind == "vxlan" else {}
    return LinkFact(
        name=text(found.get(IFLA_IFNAME, b"")),
        index=index,
        kind=kind,
        mtu=number(found.get(IFLA_MTU, b"")),
        mac=found.get(IFLA_ADDRESS, b"").hex(":"),
        up=bool(flags & IFF_UP),
        loopback=bool(flags & IFF_LOOPBACK),
        master=number(found.get(IFLA_MASTER, b"")),
        vni=number(vxlan.get(IFLA_VXLAN_ID, b"")),
        port=int.from_bytes(vxlan.get(IFLA_VXLAN_PORT, b""), "big"),
        vlan_filtering=kind == "bridge" and bool(number(data.get(IFLA_BR_VLAN_FILTERING, b""))),
    )


def read_address(body: bytes, names: dict[int, str]) -> AddressFact | None:
    """An address from an RTM_NEWADDR body; names maps link indexes."""
    _, prefix, _, _, index = _ADDRESS.unpack_from(body)
    found = attributes(body, _ADDRESS.size)
    raw = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS)
    if raw is None or index not in names:
        return None
    return AddressFact(names[index], f"{unpacked(raw)}/{prefix}")


def read_route(body: bytes, names: dict[int, str]) -> RouteFact | None:
    """A unicast route of the main table from an RTM_NEWROUTE body, or None."""
    family, prefix, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(body)
    found = attributes(body, _ROUTE.size)
    table = number(found[RTA_TABLE]) if RTA_TABLE in found else table
    if kind != RTN_UNICAST or table != RT_TABLE_MAIN or family not in (AF_INET, AF_INET6):
        return None
    link = names.get(number(found.get(RTA_OIF, b"")), "")
    dst = f"{unpacked(found[RTA_DST])}/{prefix}" if RTA_DST in found else ""
    unspecified = "::" if family == AF_INET6 else "0.0.0.0"
    gateway = unpacked(found[RTA_GATEWAY]) if RTA_GATEWAY in found else unspecified
    return RouteFact(dst, link, number(found.get(RTA_PRIORITY, b"")), gateway)
