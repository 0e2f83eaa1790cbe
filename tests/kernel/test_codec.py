"""Our netlink messages read by pyroute2 and pyroute2's by us, and nft(8) as the judge of set elements."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink import nlmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.marshal import MarshalRtnl
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from netdrivers.kernel import codec, nftables, rtnl
from netdrivers.kernel.host import Kernel
from netdrivers.kernel.socket import NETLINK_NETFILTER, NetlinkSocket
from netdrivers.model import AddressFact, RouteFact
from netdrivers.operations import (
    AllowSource,
    AnyOperation,
    BridgePolicy,
    FirewallTable,
    Hairpin,
    Masquerade,
    Publish,
)
from tests.lab import Host

MAC, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:02"


def theirs(body: rtnl.Body) -> nlmsg:
    """A message of ours as pyroute2 decodes it."""
    kind, flags, payload = body
    (message,) = MarshalRtnl().parse(codec.message(kind, flags, 7, payload))
    assert message["header"]["type"] == kind
    assert message["header"]["sequence_number"] == 7
    assert message["header"]["length"] == 16 + len(payload)
    return message


def ours(message: nlmsg, kind: int, **fields: Any) -> bytes:
    """The body of a message that pyroute2 encoded."""
    message["header"]["type"] = kind
    message.update(fields)
    message.encode()
    ((_, _, _, body),) = codec.messages(bytes(message.data))
    return body


def test_veth_pair() -> None:
    message = theirs(rtnl.create_veth("veth0", OTHER, "eth0", MAC, 1400, 42))
    assert message["header"]["flags"] == codec.NLM_F_CREATE | codec.NLM_F_EXCL
    assert (message["flags"], message["change"]) == (0, 0), "both ends down"
    assert message.get("IFLA_IFNAME") == "veth0"
    assert message.get("IFLA_ADDRESS") == OTHER
    assert message.get("IFLA_MTU") == 1400
    info = message.get("IFLA_LINKINFO")
    assert info.get("IFLA_INFO_KIND") == "veth"
    peer = info.get("IFLA_INFO_DATA").get("VETH_INFO_PEER")
    assert peer.get("IFLA_IFNAME") == "eth0"
    assert peer.get("IFLA_ADDRESS") == MAC
    assert peer.get("IFLA_MTU") == 1400
    assert peer.get("IFLA_NET_NS_FD") == 42


def test_bridge() -> None:
    message = theirs(rtnl.create_bridge("br0", MAC, 9000, True, 0))
    data = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
    assert message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == "bridge"
    assert (message.get("IFLA_IFNAME"), message.get("IFLA_ADDRESS"), message.get("IFLA_MTU")) == ("br0", MAC, 9000)
    assert (data.get("IFLA_BR_VLAN_FILTERING"), data.get("IFLA_BR_VLAN_DEFAULT_PVID")) == (1, 0)
    plain = theirs(rtnl.create_bridge("br0", "", 0, False, -1))
    assert plain.get("IFLA_ADDRESS") is None
    assert plain.get("IFLA_MTU") is None


@pytest.mark.parametrize("mode", ["private", "vepa", "bridge", "passthru"])
def test_macvlan(mode: str) -> None:
    message = theirs(rtnl.create_macvlan("eth0", 3, mode, MAC, 1500, 0, 5))
    data = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
    assert message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == "macvlan"
    assert data.get("IFLA_MACVLAN_MODE") == mode
    assert (message.get("IFLA_LINK"), message.get("IFLA_NET_NS_FD")) == (3, 5)


def test_port_of_a_bridge() -> None:
    message = theirs(rtnl.enslave("veth0", 9, ipv6=True))
    assert message.get("IFLA_MASTER") == 9
    assert message["flags"] & message["change"] & rtnl.IFF_UP
    message = theirs(rtnl.port_flags("veth0", True, True, False, True))
    port = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_SLAVE_DATA")
    assert message.get_nested("IFLA_LINKINFO", "IFLA_INFO_SLAVE_KIND") == "bridge"
    seen = tuple(port.get(f"IFLA_BRPORT_{name}") for name in ("MODE", "ISOLATED", "LEARNING", "NEIGH_SUPPRESS"))
    assert seen == (1, 1, 0, 1)


@pytest.mark.parametrize(("up", "flags"), [(True, rtnl.IFF_UP), (False, 0), (None, 0)])
def test_settings_of_a_link(up: bool | None, flags: int) -> None:
    message = theirs(rtnl.set_link(4, up=up, promiscuous=True, mac=MAC, mtu=1300, tx_queue_length=77))
    assert message["index"] == 4
    assert message["flags"] == flags | rtnl.IFF_PROMISC
    assert message["change"] == (0 if up is None else rtnl.IFF_UP) | rtnl.IFF_PROMISC
    assert (message.get("IFLA_ADDRESS"), message.get("IFLA_MTU"), message.get("IFLA_TXQLEN")) == (MAC, 1300, 77)


ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


@st.composite
def interfaces(draw: st.DrawFn) -> str:
    """An interface address of either family."""
    ip = draw(ADDRESSES)
    return f"{ip}/{draw(st.integers(1, ip.max_prefixlen))}"


@given(cidr=interfaces(), index=st.integers(1, 2**31 - 1), dad=st.booleans())
def test_addresses(cidr: str, index: int, dad: bool) -> None:
    message = theirs(rtnl.address(index, cidr, True, dad))
    ip, _, prefix = cidr.partition("/")
    assert (message["index"], message["prefixlen"]) == (index, int(prefix))
    assert message["family"] == (10 if ":" in ip else 2)
    assert rtnl.packed(message.get("IFA_LOCAL")) == rtnl.packed(ip)
    assert bool(message.get("IFA_FLAGS") & rtnl.IFA_F_NODAD) is (":" in ip and not dad)
    assert theirs(rtnl.address(index, cidr, False))["header"]["type"] == rtnl.RTM_DELADDR


@given(
    dst=st.one_of(st.sampled_from(["0.0.0.0/0", "::/0"]), interfaces()),
    index=st.integers(1, 2**31 - 1),
    metric=st.integers(0, 2**32 - 1),
    mtu=st.integers(0, 65535),
    table=st.integers(0, 2**32 - 1),
)
def test_routes(dst: str, index: int, metric: int, mtu: int, table: int) -> None:
    via = "fd00::1" if ":" in dst else "10.0.0.1"
    message = theirs(rtnl.route(index, dst, via, True, metric=metric, mtu=mtu, table=table, advmss=1200, onlink=True))
    ip, _, prefix = dst.partition("/")
    assert message["dst_len"] == int(prefix)
    assert rtnl.packed(message.get("RTA_DST") or ip) == rtnl.packed(ip)
    assert message.get("RTA_GATEWAY") == via
    assert message.get("RTA_OIF") == index
    assert (message.get("RTA_PRIORITY") or 0) == metric
    assert (message.get("RTA_TABLE") or message["table"]) == (table or rtnl.RT_TABLE_MAIN)
    metrics = message.get("RTA_METRICS")
    assert (metrics.get("RTAX_MTU") or 0, metrics.get("RTAX_ADVMSS")) == (mtu, 1200)
    assert message["flags"] & rtnl.RTNH_F_ONLINK


def test_route_scopes_are_those_of_ip() -> None:
    assert theirs(rtnl.route(1, "10.0.0.0/8", "", True))["scope"] == 253
    assert theirs(rtnl.route(1, "10.0.0.0/8", "10.0.0.1", True))["scope"] == 0
    assert theirs(rtnl.route(1, "fd00::/8", "", True))["scope"] == 0
    assert theirs(rtnl.route(1, "10.0.0.0/8", "", True, scope=200))["scope"] == 200


@given(
    name=st.text("abcdefghijklmnopqrstuvwxyz0123456789-_.", min_size=1, max_size=15),
    index=st.integers(1, 2**31 - 1),
    mtu=st.integers(68, 65535),
    up=st.booleans(),
    master=st.integers(0, 1000),
    kind=st.sampled_from(["", "bridge", "veth", "macvlan"]),
)
def test_a_link_that_pyroute2_wrote(name: str, index: int, mtu: int, up: bool, master: int, kind: str) -> None:
    attrs: list[Any] = [("IFLA_IFNAME", name), ("IFLA_MTU", mtu), ("IFLA_ADDRESS", MAC)]
    attrs += [("IFLA_MASTER", master)] if master else []
    attrs += [("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", kind)]})] if kind else []
    link = rtnl.read_link(ours(ifinfmsg(), 16, index=index, flags=int(up), attrs=attrs))
    assert (link.name, link.index, link.mtu, link.up) == (name, index, mtu, up)
    assert (link.master, link.kind, link.mac) == (master, kind, MAC)


@given(cidr=interfaces())
def test_an_address_that_pyroute2_wrote(cidr: str) -> None:
    ip, _, prefix = cidr.partition("/")
    attrs = [("IFA_ADDRESS", ip)] + ([] if ":" in ip else [("IFA_LOCAL", ip)])
    body = ours(ifaddrmsg(), 20, family=10 if ":" in ip else 2, prefixlen=int(prefix), index=3, attrs=attrs)
    found = rtnl.read_address(body, {3: "eth0"})
    assert found is not None
    assert rtnl.packed(found.address.partition("/")[0]) == rtnl.packed(ip)
    assert found == AddressFact("eth0", f"{rtnl.unpacked(rtnl.packed(ip))}/{prefix}")
    assert rtnl.read_address(body, {}) is None, "a link that went away during the dumps"


def test_routes_that_pyroute2_wrote() -> None:
    def route(family: int = 2, dst_len: int = 0, table: int = 254, kind: int = 1, **attrs: Any) -> bytes:
        message = rtmsg()
        message["type"] = kind
        listed = [(f"RTA_{name.upper()}", value) for name, value in attrs.items()]
        return ours(message, 24, family=family, dst_len=dst_len, table=table, attrs=listed)

    names = {2: "wire0"}
    default = route(oif=2, gateway="192.0.2.2", priority=100)
    assert rtnl.read_route(default, names) == RouteFact("", "wire0", 100, "192.0.2.2")
    on_link = route(family=10, dst_len=64, dst="fd00::", oif=2)
    assert rtnl.read_route(on_link, names) == RouteFact("fd00::/64", "wire0", 0, "::")
    assert rtnl.read_route(route(dst_len=32, dst="10.0.0.1", oif=2, kind=2), names) is None, "a local route"
    assert rtnl.read_route(route(dst_len=8, dst="10.0.0.0", oif=2, table=100), names) is None, "of another table"


@given(st.lists(st.tuples(st.integers(1, 0x3FFF), st.binary(max_size=40)), max_size=12))
def test_attributes_come_back(listed: list[tuple[int, bytes]]) -> None:
    data = b"".join(codec.attribute(kind, payload) for kind, payload in listed)
    assert len(data) % 4 == 0
    assert list(codec.attribute_list(data)) == listed
    assert codec.attributes(data) == dict(listed)


@given(st.binary(max_size=200))
def test_garbage_is_read_without_an_error_or_an_endless_loop(data: bytes) -> None:
    list(codec.messages(data))
    codec.attributes(data)
    list(codec.attribute_list(data))


# nft(8) is the judge of elements: what we write is listed as meant, and what nft writes is seen by us.

ELEMENTS: dict[str, tuple[AnyOperation, str, str]] = {
    "isolated": (BridgePolicy("isolated", "br-a"), "isolated", '"br-a"'),
    "strict": (BridgePolicy("strict", "br-a"), "strict", '"br-a"'),
    "no icc": (BridgePolicy("noicc", "br-a"), "noicc", '"br-a" . "br-a"'),
    "longest name": (BridgePolicy("internal", "b" * 15), "internal", f'"{"b" * 15}"'),
    "masquerade": (Masquerade("10.1.2.0/24"), "masquerade4", "10.1.2.0/24"),
    "masquerade 6": (Masquerade("fd00:1::/64"), "masquerade6", "fd00:1::/64"),
    "masquerade to the end": (Masquerade("255.255.255.0/24"), "masquerade4", "255.255.255.0/24"),
    "hairpin": (Hairpin("10.1.2.0/24"), "same4", "10.1.2.0/24 . 10.1.2.0/24"),
    "hairpin 6": (Hairpin("fd00:1::/64"), "same6", "fd00:1::/64 . fd00:1::/64"),
    "publish": (Publish("tcp", 8080, "10.1.2.3", 80), "publish4any", "tcp . 8080 : 10.1.2.3 . 80"),
    "publish udp": (Publish("udp", 53, "10.1.2.3", 5353), "publish4any", "udp . 53 : 10.1.2.3 . 5353"),
    "publish sctp": (Publish("sctp", 3868, "10.1.2.3", 3868), "publish4any", "sctp . 3868 : 10.1.2.3 . 3868"),
    "publish 6": (Publish("tcp", 8080, "fd00::3", 80), "publish6any", "tcp . 8080 : fd00::3 . 80"),
    "publish on one": (
        Publish("tcp", 8080, "10.1.2.3", 80, "192.0.2.1"),
        "publish4",
        "tcp . 192.0.2.1 . 8080 : 10.1.2.3 . 80",
    ),
    "publish on one 6": (
        Publish("udp", 65535, "fd00::3", 1, "2001:db8::1"),
        "publish6",
        "udp . 2001:db8::1 . 65535 : fd00::3 . 1",
    ),
}


def listed(host: Host, name: str) -> str:
    """A set or map as nft prints it, numbers and not names."""
    kind = "map" if name.startswith("publish") else "set"
    return host.run("nft", "-n", "list", kind, "inet", "netdrivers", name).stdout


def plain(element: str) -> str:
    """An element with protocols as numbers."""
    for word, number in (("tcp", "6"), ("udp", "17"), ("sctp", "132")):
        element = element.replace(f"{word} .", f"{number} .")
    return element


@pytest.mark.parametrize("what", ELEMENTS)
def test_elements_are_what_nft_lists(host: Host, what: str) -> None:
    operation, name, element = ELEMENTS[what]
    with host.entered():
        Kernel().apply((FirewallTable(), operation))
    assert f"elements = {{ {plain(element)} }}" in listed(host, name)
    with host.entered():
        assert not Kernel().drift((operation,))
        assert not Kernel().undo((operation,))
    assert "elements" not in listed(host, name)
    with host.entered():
        assert Kernel().drift((operation,))
    host.run("nft", f"add element inet netdrivers {name} {{ {element} }}")
    with host.entered():
        assert not Kernel().drift((operation,)), "what nft wrote is what we look for"
        assert not Kernel().undo((FirewallTable(), operation))
    assert host.run("nft", "list", "ruleset").stdout == ""


def test_source_guard_is_what_nft_lists(host: Host) -> None:
    with host.entered():
        Kernel().apply((AllowSource("veth1", MAC),))
    text = host.run("nft", "list", "table", "bridge", "netdrivers").stdout
    assert f'elements = {{ "veth1" . {MAC} }}' in text
    assert 'elements = { "veth1" }' in text


def test_many_ports_in_one_operation(host: Host) -> None:
    """A range fills several messages; all of it is one transaction, listed whole and undone whole."""
    operation = Publish("tcp", 1000, "10.1.2.3", 2000, count=3000)
    with host.entered():
        Kernel().apply((FirewallTable(), operation))
        with_ports = json.loads(host.run("nft", "-j", "list", "map", "inet", "netdrivers", "publish4any").stdout)
    elements = next(item["map"]["elem"] for item in with_ports["nftables"] if "map" in item)
    assert len(elements) == 3000
    with host.entered():
        sock = NetlinkSocket(NETLINK_NETFILTER)
        try:
            found = nftables.published(sock)
        finally:
            sock.close()
        assert ("tcp", 3999, "", "10.1.2.3", 4999) in found
        assert len(found) == 3000
        assert not Kernel().undo((operation,))
    assert "elements" not in listed(host, "publish4any")


def test_expected_rules_are_what_the_kernel_holds(host: Host) -> None:
    with host.entered():
        Kernel().apply((FirewallTable(),))
    rules = [item for item in json.loads(host.run("nft", "-j", "list", "ruleset").stdout)["nftables"] if "rule" in item]
    assert len(rules) == nftables.expected_rules()


def test_interrupted_dump_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    sock = NetlinkSocket(0)
    answers = [([b"half"], True), ([b"whole"], False)]
    monkeypatch.setattr(sock, "_dump_once", lambda *_: answers.pop(0))
    try:
        assert sock.dump(*rtnl.dump_links()) == [b"whole"]
    finally:
        sock.close()


def test_batch_goes_on_after_a_refusal_and_names_it(host: Host) -> None:
    with host.entered():
        sock = NetlinkSocket(0)
    try:
        bodies = [
            rtnl.create_bridge("one", MAC, 1500, False, -1),
            rtnl.create_bridge("one", MAC, 1500, False, -1),
            rtnl.create_bridge("two", OTHER, 1500, False, -1),
        ]
        assert sock.batch(bodies) == [0, 17, 0]
    finally:
        sock.close()
    assert {"one", "two"} < host.links()
