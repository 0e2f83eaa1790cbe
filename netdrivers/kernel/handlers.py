"""How each operation is applied and undone: the one table from kinds of operation to kernel work.

apply queues messages (neighbours go out as one batch) or acts at once; undo acts at once, and what is
already gone is success.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from netdrivers import errors
from netdrivers.kernel import firewall, rtnl, sysctls
from netdrivers.kernel.session import GONE, Session
from netdrivers.kernel.socket import NetlinkError
from netdrivers.model import LinkFact, Where
from netdrivers.operations import (
    AllowSource,
    AnyOperation,
    Bridge,
    BridgePolicy,
    BridgePort,
    FirewallTable,
    ForwardAccept,
    Forwarding,
    ForwardingEntry,
    Hairpin,
    InterfaceAddress,
    InterfaceRoute,
    IpsecGuard,
    IpsecPolicy,
    IpsecState,
    Ipvlan,
    KeepSource,
    LinkSettings,
    LinkUp,
    Macvlan,
    Masquerade,
    Neighbour,
    Publish,
    Sysctl,
    Tunnel,
    Veth,
    VlanLink,
    Vxlan,
)

Handler = Callable[[Any, Session], None]

_IPV6 = os.path.exists("/proc/sys/net/ipv6")
"""Whether the kernel has IPv6 at all (not with ipv6.disable=1)."""


def _fd(where: Where, session: Session) -> int | None:
    return session.sandbox_fd() if where == "sandbox" else None


def forward_key(family: int) -> str:
    """The sysctl that turns forwarding on for a family."""
    return "net/ipv4/ip_forward" if family == 4 else "net/ipv6/conf/all/forwarding"


def _write(operation: AnyOperation, session: Session, key: str, value: str, fd: int | None) -> None:
    session.flush()
    try:
        sysctls.write(key, value, fd)
    except OSError as error:
        raise errors.KernelError(
            f"cannot {operation.line()}: {error.strerror}", error.errno or 0, operation.line()
        ) from None
    session.done(operation)


def apply_forwarding(operation: Forwarding, session: Session) -> None:
    """Written only when off: the write takes the kernel's big lock."""
    key = forward_key(operation.family)
    if sysctls.read(key) != "1":
        _write(operation, session, key, "1", None)


def stop_forwarding(operation: Forwarding) -> None:
    """For the very call that turned it on, when that fails."""
    sysctls.write(forward_key(operation.family), "0")


def apply_sysctl(operation: Sysctl, session: Session) -> None:
    """In the namespace that the operation names; a link made by a queued message exists by then."""
    _write(operation, session, operation.key, operation.value, _fd(operation.where, session))


def keep(_: AnyOperation, __: Session) -> None:
    """Nothing to undo: it goes with its link or namespace, or others may rely on it by now."""


def apply_bridge(operation: Bridge, session: Session) -> None:
    """Create the bridge and bring it up; one that is there keeps its ports, and its settings if it is another's."""
    if operation.adopt:
        index = session.index("host", operation.name)
        promiscuous = True if operation.promiscuous else None
        session.send("host", operation, rtnl.set_link(index, up=True, promiscuous=promiscuous))
        return
    there = _link_of_kind(operation.name, "bridge", session)
    if there and operation.vlan_filtering and not there.vlan_filtering:
        session.send("host", operation, rtnl.filter_vlans(there.index))
    if not there:
        create = rtnl.create_bridge(
            operation.name,
            operation.mac,
            operation.mtu,
            operation.vlan_filtering,
            operation.default_pvid,
            operation.multicast_snooping,
        )
        session.send("host", operation, create)
    body = rtnl.set_link(
        session.index("host", operation.name),
        up=True,
        promiscuous=operation.promiscuous,
        mac=operation.mac,
        mtu=operation.mtu,
    )
    session.send("host", operation, body)


def _link_of_kind(name: str, kind: str, session: Session) -> LinkFact | None:
    try:
        found = session.link("host", name)
        return found if found.kind == kind else None
    except errors.KernelError as error:
        if error.errno == errno.ENODEV:
            return None
        raise


def undo_bridge(operation: Bridge, session: Session) -> None:
    """Bridges of others stay."""
    if not operation.adopt:
        session.remove("host", [rtnl.delete_link(operation.name)])


def apply_vlan_link(operation: VlanLink, session: Session) -> None:
    """Where it is there already, only the bridge's own membership is renewed."""
    bridge = session.index("host", operation.bridge)
    messages = [rtnl.own_vlan(bridge, operation.vlan, add=True)]
    if _link_of_kind(operation.name, "vlan", session) is None:
        messages.append(rtnl.create_vlan_link(operation.name, bridge, operation.vlan, operation.mac, operation.mtu))
    session.send("host", operation, *messages)


def undo_vlan_link(operation: VlanLink, session: Session) -> None:
    """The link goes, and the bridge leaves the VLAN."""
    session.remove("host", [rtnl.delete_link(operation.name)])
    _undo_on_link("host", operation.bridge, session, lambda index: rtnl.own_vlan(index, operation.vlan, add=False))


def apply_veth(operation: Veth, session: Session) -> None:
    """Both ends in one message."""
    fd = None if operation.handover else session.sandbox_fd()
    create = rtnl.create_veth(operation.host_name, operation.host_mac, operation.name, operation.mac, operation.mtu, fd)
    session.send("host", operation, create)


def undo_veth(operation: Veth, session: Session) -> None:
    """The peer goes with the host's end; deleting costs the kernel's grace period, so it may be left to the reaper."""
    if session.deferred is None:
        session.remove("host", [rtnl.delete_link(operation.host_name)])
        return
    with suppress(errors.KernelError):  # gone already
        session.deferred.append(session.index("host", operation.host_name))


def apply_bridge_port(operation: BridgePort, session: Session) -> None:
    """Enslave, bring up, set the flags; VLAN ids where asked for."""
    master = session.index("host", operation.bridge)
    messages = [rtnl.enslave(operation.link, master, _IPV6)]
    if operation.hairpin or operation.isolated or not operation.learning or operation.neigh_suppress:
        messages.append(
            rtnl.port_flags(
                operation.link, operation.hairpin, operation.isolated, operation.learning, operation.neigh_suppress
            )
        )
    session.send("host", operation, *messages)
    if operation.vlan or operation.trunk or not operation.keep_default_vlan:
        index = session.index("host", operation.link)
        session.send("host", operation, *_vlans(operation, index))


def _vlans(operation: BridgePort, index: int) -> list[tuple[int, int, bytes]]:
    messages = []
    if not operation.keep_default_vlan and operation.vlan != 1:
        messages.append(rtnl.bridge_vlan(index, 1, 1, 0, add=False))
    if operation.vlan:
        messages.append(rtnl.bridge_vlan(index, operation.vlan, operation.vlan, 2 | 4, add=True))
    messages += [rtnl.bridge_vlan(index, first, last, 0, add=True) for first, last in operation.trunk]
    return messages


def undo_bridge_port(operation: BridgePort, session: Session) -> None:
    """Cut the port off; without the kernel's grace period, which leaving the bridge would cost."""
    try:
        _undo_on_link("host", operation.link, session, rtnl.disable_port)
    except NetlinkError as error:
        if error.errno != errno.EOPNOTSUPP:  # the link is no port (any more)
            raise


def apply_macvlan(operation: Macvlan, session: Session) -> None:
    """Made in its parent's namespace and born in its own."""
    parent = session.index(operation.parent_where, operation.parent)
    across = operation.where == "sandbox" and operation.parent_where == "host"
    create = rtnl.create_macvlan(
        operation.name,
        parent,
        operation.mode,
        operation.mac,
        operation.mtu,
        operation.bcqueuelen,
        session.sandbox_fd() if across else None,
    )
    session.send(operation.parent_where, operation, create)


def apply_ipvlan(operation: Ipvlan, session: Session) -> None:
    """As a macvlan."""
    parent = session.index(operation.parent_where, operation.parent)
    across = operation.where == "sandbox" and operation.parent_where == "host"
    fd = session.sandbox_fd() if across else None
    create = rtnl.create_ipvlan(operation.name, parent, operation.mode, operation.mtu, fd)
    session.send(operation.parent_where, operation, create)


def undo_macvlan(operation: Macvlan | Ipvlan, session: Session) -> None:
    """Deleted where it lives; a vanished sandbox took it along."""
    if operation.where == "host" or session.sandbox is not None:
        session.remove(operation.where, [rtnl.delete_link(operation.name)])


def apply_vxlan(operation: Vxlan, session: Session) -> None:
    """On the device that carries the tunnel."""
    device = session.index("host", operation.device)
    create = rtnl.create_vxlan(
        operation.name, operation.vni, operation.port, operation.local, device, operation.mac, operation.mtu
    )
    session.send("host", operation, create)


def undo_vxlan(operation: Vxlan, session: Session) -> None:
    """Its neighbours and forwarding entries go with it."""
    session.remove("host", [rtnl.delete_link(operation.name)])


def apply_forwarding_entry(operation: ForwardingEntry, session: Session) -> None:
    """Add or replace the entry."""
    index = session.index("host", operation.link)
    session.send("host", operation, rtnl.forwarding_entry(index, operation.mac, operation.vtep, True))


def undo_forwarding_entry(operation: ForwardingEntry, session: Session) -> None:
    """Remove the entry, if its device is still there."""
    _undo_on_link(
        "host",
        operation.link,
        session,
        lambda index: rtnl.forwarding_entry(index, operation.mac, operation.vtep, False),
    )


def apply_neighbour(operation: Neighbour, session: Session) -> None:
    """Add or replace the neighbour."""
    index = session.index(operation.where, operation.link)
    session.send(operation.where, operation, rtnl.neighbour(index, operation.address, operation.mac, True))


def undo_neighbour(operation: Neighbour, session: Session) -> None:
    """Remove the neighbour, if its link is still there."""
    _undo_on_link(
        operation.where,
        operation.link,
        session,
        lambda index: rtnl.neighbour(index, operation.address, operation.mac, False),
    )


def apply_link_up(operation: LinkUp, session: Session) -> None:
    """By index, looked up after what waits has gone out."""
    index = session.index(operation.where, operation.link)
    if not operation.link_local and _IPV6:
        session.send(operation.where, operation, rtnl.no_link_local(index))
    session.send(operation.where, operation, rtnl.set_link(index, up=True))


def apply_address(operation: InterfaceAddress, session: Session) -> None:
    """Add the address."""
    index = session.index(operation.where, operation.link)
    session.send(operation.where, operation, rtnl.address(index, operation.address, True, operation.detect_duplicates))


def _undo_on_link(where: Where, link: str, session: Session, body: Callable[[int], tuple[int, int, bytes]]) -> None:
    """Undo something that hangs on a link, which may be gone along with its namespace."""
    if where == "sandbox" and session.sandbox is None:
        return
    try:
        index = session.index(where, link)
    except errors.KernelError as error:
        if error.errno == errno.ENODEV:
            return
        raise
    session.remove(where, [body(index)])


def undo_address(operation: InterfaceAddress, session: Session) -> None:
    """Remove the address, if its link is still there."""
    _undo_on_link(operation.where, operation.link, session, lambda index: rtnl.address(index, operation.address, False))


def _route(operation: InterfaceRoute, index: int, add: bool) -> tuple[int, int, bytes]:
    return rtnl.route(
        index,
        operation.dst,
        operation.via,
        add,
        metric=operation.metric,
        mtu=operation.mtu,
        advmss=operation.advmss,
        table=operation.table,
        scope=operation.scope,
        onlink=operation.onlink,
    )


def apply_route(operation: InterfaceRoute, session: Session) -> None:
    """Add the route."""
    body = _route(operation, session.index(operation.where, operation.link), True)
    session.send(operation.where, operation, rtnl.replace_route(body) if session.replacing else body)


def undo_route(operation: InterfaceRoute, session: Session) -> None:
    """Remove the route, if its link is still there."""
    _undo_on_link(operation.where, operation.link, session, lambda index: _route(operation, index, False))


def apply_link_settings(operation: LinkSettings, session: Session) -> None:
    """One message for all settings."""
    index = session.index("sandbox", operation.link)
    body = rtnl.set_link(
        index,
        mac=operation.mac,
        mtu=operation.mtu,
        tx_queue_length=operation.tx_queue_length,
        promiscuous=operation.promiscuous,
        allmulticast=operation.allmulticast,
    )
    session.send("sandbox", operation, body)


def _ipsec(name: str) -> Handler:
    """A function of kernel/xfrm.py, which few hosts need."""

    def handler(operation: AnyOperation, session: Session) -> None:
        from netdrivers.kernel import xfrm

        getattr(xfrm, name)(operation, session)

    return handler


APPLY: dict[type, Handler] = {
    Forwarding: apply_forwarding,
    Sysctl: apply_sysctl,
    FirewallTable: firewall.apply_table,
    BridgePolicy: firewall.apply_elements,
    Masquerade: firewall.apply_elements,
    Hairpin: firewall.apply_elements,
    Publish: firewall.apply_publish,
    ForwardAccept: firewall.apply_forward_accept,
    AllowSource: firewall.apply_allow_source,
    Bridge: apply_bridge,
    VlanLink: apply_vlan_link,
    Veth: apply_veth,
    BridgePort: apply_bridge_port,
    Macvlan: apply_macvlan,
    Ipvlan: apply_ipvlan,
    Vxlan: apply_vxlan,
    ForwardingEntry: apply_forwarding_entry,
    Neighbour: apply_neighbour,
    Tunnel: firewall.apply_elements,
    KeepSource: firewall.apply_elements,
    IpsecGuard: _ipsec("apply_guard"),
    IpsecState: _ipsec("apply_state"),
    IpsecPolicy: _ipsec("apply_policy"),
    LinkUp: apply_link_up,
    InterfaceAddress: apply_address,
    InterfaceRoute: apply_route,
    LinkSettings: apply_link_settings,
}

UNDO: dict[type, Handler] = {
    Forwarding: keep,
    Sysctl: keep,
    FirewallTable: firewall.undo_table,
    BridgePolicy: firewall.undo_elements,
    Masquerade: firewall.undo_elements,
    Hairpin: firewall.undo_elements,
    Publish: firewall.undo_publish,
    ForwardAccept: firewall.undo_forward_accept,
    AllowSource: firewall.undo_allow_source,
    Bridge: undo_bridge,
    VlanLink: undo_vlan_link,
    Veth: undo_veth,
    BridgePort: undo_bridge_port,
    Macvlan: undo_macvlan,
    Ipvlan: undo_macvlan,
    Vxlan: undo_vxlan,
    ForwardingEntry: undo_forwarding_entry,
    Neighbour: undo_neighbour,
    Tunnel: firewall.undo_elements,
    KeepSource: firewall.undo_elements,
    IpsecGuard: _ipsec("undo_guard"),
    IpsecState: _ipsec("undo_state"),
    IpsecPolicy: _ipsec("undo_policy"),
    LinkUp: keep,
    InterfaceAddress: undo_address,
    InterfaceRoute: undo_route,
    LinkSettings: keep,
}


def undo_one(operation: AnyOperation, session: Session) -> None:
    """Undo one operation. NetdriversError or OSError when the kernel refuses."""
    try:
        UNDO[type(operation)](operation, session)
    except NetlinkError as error:
        if error.errno not in GONE:
            raise
