"""Whether the kernel still shows an operation, and in words what differs; read by pyroute2."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted
from pyroute2.netlink.exceptions import NetlinkError as PyrouteError

from netdrivers.kernel import firewall, nftables, rtnl, sysctls, xfrm
from netdrivers.kernel.handlers import forward_key
from netdrivers.kernel.namespaces import inside
from netdrivers.kernel.session import Session
from netdrivers.model import Where
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

Found = TypeVar("Found")

_TRIES = 8
_FILTERING = ("IFLA_LINKINFO", "IFLA_INFO_DATA", "IFLA_BR_VLAN_FILTERING")


class Reader:
    """The kernel as pyroute2 reads it, on the host and in the sandbox; dumps are kept for one check."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._open: dict[Where, IPRoute] = {}
        self._kept: dict[tuple[str, Where, int], Any] = {}
        self._links: dict[tuple[Where, str], Any | None] = {}
        self._states: xfrm.States | None = None
        self._policies: xfrm.Policies | None = None

    def close(self) -> None:
        """Close the sockets."""
        for ipr in self._open.values():
            ipr.close()

    def _route(self, where: Where) -> IPRoute:
        if where not in self._open:
            if where == "sandbox":
                with inside(self.session.sandbox_fd()):
                    self._open[where] = IPRoute()
            else:
                self._open[where] = IPRoute()
        return self._open[where]

    def link(self, where: Where, name: str) -> Any | None:
        """One link's message, None when it is not there."""
        if (where, name) not in self._links:
            self._links[where, name] = self._look_up(where, name)
        return self._links[where, name]

    def _look_up(self, where: Where, name: str) -> Any | None:
        try:
            return next(iter(self._route(where).link("get", ifname=name)), None)
        except PyrouteError as error:
            if error.code == errno.ENODEV:
                return None
            raise

    def _once(self, what: str, where: Where, key: int, read: Callable[[IPRoute], Found]) -> Found:
        """What a dump says, read once for each check, and again while the kernel says that it was interrupted."""
        for attempt in range(_TRIES):
            if (what, where, key) in self._kept:
                break
            try:
                self._kept[what, where, key] = read(self._route(where))
            except NetlinkDumpInterrupted:
                if attempt == _TRIES - 1:
                    raise
        found: Found = self._kept[what, where, key]
        return found

    def addresses(self, where: Where, index: int) -> list[str]:
        """The addresses of a link, as CIDR."""

        def read(route: IPRoute) -> list[str]:
            found = route.get_addr(index=index)
            return [f"{a.get('IFA_LOCAL') or a.get('IFA_ADDRESS')}/{a['prefixlen']}" for a in found]

        return self._once("addresses", where, index, read)

    def neighbours(self, where: Where, index: int) -> dict[str, str]:
        """MACs by address of a link's permanent neighbours."""

        def read(route: IPRoute) -> dict[str, str]:
            found = route.get_neighbours(ifindex=index)
            return {n.get("NDA_DST"): n.get("NDA_LLADDR") for n in found if n["state"] & rtnl.NUD_PERMANENT}

        return self._once("neighbours", where, index, read)

    def forwarding_entries(self, index: int) -> dict[str, str]:
        """VTEPs by MAC of a VXLAN device of the host."""

        def read(route: IPRoute) -> dict[str, str]:
            found = route.fdb("dump", ifindex=index)
            return {n.get("NDA_LLADDR"): n.get("NDA_DST") for n in found if n.get("NDA_DST")}

        return self._once("fdb", "host", index, read)

    def ipsec_states(self) -> xfrm.States:
        """The host's IPsec states."""
        if self._states is None:
            self._states = xfrm.states(self.session.socket("xfrm"))
        return self._states

    def ipsec_policies(self) -> xfrm.Policies:
        """The host's IPsec policies."""
        if self._policies is None:
            self._policies = xfrm.policies(self.session.socket("xfrm"))
        return self._policies

    def vlans(self, index: int) -> set[int]:
        """The VLANs that a bridge's port, or a bridge itself, is in."""

        def read(route: IPRoute) -> set[int]:
            return {
                vlan["vid"] for link in route.get_vlans(index=index) if link["index"] == index
                for vlan in link.get("IFLA_AF_SPEC", {}).get_attrs("IFLA_BRIDGE_VLAN_INFO")
            }  # fmt: skip

        return self._once("vlans", "host", index, read)

    def routes(self, where: Where, family: int) -> dict[tuple[int, str], list[Any]]:
        """The routes of a family (AF_INET, AF_INET6), by the index of their link and their destination as CIDR."""
        zero = "::" if family == rtnl.AF_INET6 else "0.0.0.0"

        def read(route: IPRoute) -> dict[tuple[int, str], list[Any]]:
            found: dict[tuple[int, str], list[Any]] = {}
            for item in route.get_routes(family=family):
                dst = f"{item.get('RTA_DST') or zero}/{item['dst_len']}"
                found.setdefault((item.get("RTA_OIF"), dst), []).append(item)
            return found

        return self._once("routes", where, family, read)


def _forwarding(operation: Forwarding, _: Reader) -> str | None:
    return None if sysctls.read(forward_key(operation.family)) == "1" else "forwarding is off"


def _sysctl(operation: Sysctl, reader: Reader) -> str | None:
    fd = reader.session.sandbox_fd() if operation.where == "sandbox" else None
    value = sysctls.read(operation.key, fd)
    if value is not None and value.split() == operation.value.split():
        return None
    return "no such key" if value is None else f"is {value}"


def _table(operation: FirewallTable, reader: Reader) -> str | None:
    if operation.backend == "iptables":
        return firewall.iptables_drift(operation)
    count = nftables.rule_count(reader.session.socket("nft"))
    if count < 0:
        return "table missing"
    expected = nftables.expected_rules()
    return None if count == expected else f"holds {count} rules, not {expected}"


def _elements(operation: Any, reader: Reader) -> str | None:
    if getattr(operation, "backend", "nft") == "iptables":
        return firewall.iptables_drift(operation)
    return nftables.missing(reader.session.socket("nft"), operation)


def _bridge(operation: Bridge, reader: Reader) -> str | None:
    link = reader.link("host", operation.name)
    if link is None:
        return "link missing"
    if link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") != "bridge":
        return "is no bridge"
    if not link["flags"] & rtnl.IFF_UP:
        return "is down"
    if operation.vlan_filtering and not link.get_nested(*_FILTERING):
        return "does not filter VLANs"
    if operation.mac and not operation.adopt and link.get("IFLA_ADDRESS") != operation.mac:
        return f"has MAC {link.get('IFLA_ADDRESS')}, not {operation.mac}"
    if operation.mtu and not operation.adopt and link.get("IFLA_MTU") != operation.mtu:
        return f"has MTU {link.get('IFLA_MTU')}, not {operation.mtu}"
    return None


def _vlan_link(operation: VlanLink, reader: Reader) -> str | None:
    bridge = reader.link("host", operation.bridge)
    if bridge is None:
        return f"link {operation.bridge} missing on the host"
    found = _in_sandbox(operation.name, operation.mac, "vlan", reader, "host")
    if found:
        return found
    return None if operation.vlan in reader.vlans(bridge["index"]) else f"{operation.bridge} is not in the VLAN"


def _in_sandbox(name: str, mac: str, kind: str, reader: Reader, where: Where = "sandbox") -> str | None:
    link = reader.link(where, name)
    if link is None:
        return f"link {name} missing in {where}"
    if link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") != kind:
        return f"{name} is no {kind}"
    if mac and link.get("IFLA_ADDRESS") != mac:
        return f"{name} has MAC {link.get('IFLA_ADDRESS')}, not {mac}"
    return None


def _veth(operation: Veth, reader: Reader) -> str | None:
    link = reader.link("host", operation.host_name)
    if link is None:
        return f"link {operation.host_name} missing on the host"
    if operation.mtu and link.get("IFLA_MTU") != operation.mtu:
        return f"{operation.host_name} has MTU {link.get('IFLA_MTU')}, not {operation.mtu}"
    return None if operation.handover else _in_sandbox(operation.name, operation.mac, "veth", reader)


def _bridge_port(operation: BridgePort, reader: Reader) -> str | None:
    link, bridge = reader.link("host", operation.link), reader.link("host", operation.bridge)
    if link is None or bridge is None:
        return f"link {operation.link if link is None else operation.bridge} missing on the host"
    if link.get("IFLA_MASTER") != bridge["index"]:
        return f"{operation.link} is not a port of {operation.bridge}"
    if not link["flags"] & rtnl.IFF_UP:
        return f"{operation.link} is down"
    port = link.get_nested("IFLA_LINKINFO", "IFLA_INFO_SLAVE_DATA")
    if port.get("IFLA_BRPORT_STATE") == 0 and link.get("IFLA_OPERSTATE") == "UP":
        return f"{operation.link} is disabled"
    for word, wanted, attribute in (
        ("hairpin", operation.hairpin, "IFLA_BRPORT_MODE"),
        ("isolated", operation.isolated, "IFLA_BRPORT_ISOLATED"),
    ):
        if bool(port.get(attribute)) != wanted:
            return f"{operation.link} has {word} {'off' if wanted else 'on'}"
    return _port_vlans(operation, reader, link["index"]) if operation.vlan or operation.trunk else None


def _port_vlans(operation: BridgePort, reader: Reader, index: int) -> str | None:
    wanted = {vlan for first, last in operation.trunk for vlan in range(first, last + 1)}
    missing = ({operation.vlan} - {0} | wanted) - reader.vlans(index)
    return f"{operation.link} is not in VLAN {', '.join(map(str, sorted(missing)))}" if missing else None


def _macvlan(operation: Macvlan, reader: Reader) -> str | None:
    if operation.handover:
        return None  # where the engine took it we cannot see
    mac = "" if operation.mode == "passthru" else operation.mac
    return _in_sandbox(operation.name, mac, "macvlan", reader, operation.where)


def _ipvlan(operation: Ipvlan, reader: Reader) -> str | None:
    if operation.handover:
        return None
    found = _in_sandbox(operation.name, "", "ipvlan", reader, operation.where)
    link = reader.link(operation.where, operation.name)
    if found or link is None:
        return found
    mode = link.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", "IFLA_IPVLAN_MODE")
    return None if mode == rtnl.IPVLAN_MODES[operation.mode] else f"{operation.name} is not in mode {operation.mode}"


def _vxlan(operation: Vxlan, reader: Reader) -> str | None:
    link = reader.link("host", operation.name)
    if link is None:
        return "link missing"
    data = link.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
    if link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") != "vxlan":
        return "is no vxlan"
    if data.get("IFLA_VXLAN_ID") != operation.vni:
        return f"has VNI {data.get('IFLA_VXLAN_ID')}, not {operation.vni}"
    if link.get("IFLA_ADDRESS") != operation.mac:
        return f"has MAC {link.get('IFLA_ADDRESS')}, not {operation.mac}"
    return None


def _forwarding_entry(operation: ForwardingEntry, reader: Reader) -> str | None:
    link = reader.link("host", operation.link)
    if link is None:
        return "link missing"
    found = reader.forwarding_entries(link["index"]).get(operation.mac)
    return None if found == operation.vtep else f"leads to {found}" if found else "entry missing"


def _neighbour(operation: Neighbour, reader: Reader) -> str | None:
    link = reader.link(operation.where, operation.link)
    if link is None:
        return "link missing"
    found = reader.neighbours(operation.where, link["index"]).get(operation.address)
    return None if found == operation.mac else f"is {found}" if found else "neighbour missing"


def _link_up(operation: LinkUp, reader: Reader) -> str | None:
    link = reader.link(operation.where, operation.link)
    if link is None:
        return "link missing"
    return None if link["flags"] & rtnl.IFF_UP else "is down"


def _address(operation: InterfaceAddress, reader: Reader) -> str | None:
    link = reader.link(operation.where, operation.link)
    if link is None:
        return "link missing"
    return None if operation.address in reader.addresses(operation.where, link["index"]) else "address missing"


def _route(operation: InterfaceRoute, reader: Reader) -> str | None:
    link = reader.link(operation.where, operation.link)
    if link is None:
        return "link missing"
    ip, _, prefix_text = operation.dst.partition("/")
    family = rtnl.AF_INET6 if ":" in ip else rtnl.AF_INET
    prefix = int(prefix_text) if prefix_text else (128 if family == rtnl.AF_INET6 else 32)
    zero = "::" if family == rtnl.AF_INET6 else "0.0.0.0"
    dst = f"{ip if prefix else zero}/{prefix}"
    for route in reader.routes(operation.where, family).get((link["index"], dst), ()):
        if (
            (route.get("RTA_GATEWAY") or "") == operation.via
            and (route.get("RTA_TABLE") or route["table"]) == (operation.table or rtnl.RT_TABLE_MAIN)
            and (not operation.metric or route.get("RTA_PRIORITY") == operation.metric)
        ):
            return None
    return "route missing"


def _link_settings(operation: LinkSettings, reader: Reader) -> str | None:
    link = reader.link("sandbox", operation.link)
    if link is None:
        return "link missing"
    for attribute, wanted in (
        ("IFLA_ADDRESS", operation.mac),
        ("IFLA_MTU", operation.mtu),
        ("IFLA_TXQLEN", operation.tx_queue_length),
    ):
        if wanted and link.get(attribute) != wanted:
            return f"{attribute[5:].lower()} is {link.get(attribute)}, not {wanted}"
    for bit, flag in ((rtnl.IFF_PROMISC, operation.promiscuous), (rtnl.IFF_ALLMULTI, operation.allmulticast)):
        if flag is not None and bool(link["flags"] & bit) != flag:
            return "flags differ"
    return None


def _ipsec_guard(operation: IpsecGuard, reader: Reader) -> str | None:
    return xfrm.guard_drift(operation, reader.ipsec_policies())


def _ipsec_state(operation: IpsecState, reader: Reader) -> str | None:
    return xfrm.state_drift(operation, reader.ipsec_states())


def _ipsec_policy(operation: IpsecPolicy, reader: Reader) -> str | None:
    return xfrm.policy_drift(operation, reader.ipsec_policies())


def _forward_accept(operation: ForwardAccept, _: Reader) -> str | None:
    return firewall.forward_accept_drift(operation)


_READERS: dict[type, Callable[[Any, Reader], str | None]] = {
    Forwarding: _forwarding,
    Sysctl: _sysctl,
    FirewallTable: _table,
    ForwardAccept: _forward_accept,
    Bridge: _bridge,
    VlanLink: _vlan_link,
    Veth: _veth,
    BridgePort: _bridge_port,
    Macvlan: _macvlan,
    Ipvlan: _ipvlan,
    Vxlan: _vxlan,
    ForwardingEntry: _forwarding_entry,
    Neighbour: _neighbour,
    Tunnel: _elements,
    KeepSource: _elements,
    IpsecGuard: _ipsec_guard,
    IpsecState: _ipsec_state,
    IpsecPolicy: _ipsec_policy,
    LinkUp: _link_up,
    InterfaceAddress: _address,
    InterfaceRoute: _route,
    LinkSettings: _link_settings,
    BridgePolicy: _elements,
    Masquerade: _elements,
    Hairpin: _elements,
    Publish: _elements,
    AllowSource: _elements,
}


def difference(operation: AnyOperation, reader: Reader) -> str | None:
    """What differs between an operation and the kernel, None when nothing does."""
    return _READERS[type(operation)](operation, reader)
