"""Messages of nf_tables: elements of our sets and maps, and the static ruleset's loading.

Elements go straight to the kernel (linux/netfilter/nf_tables.h) in one transaction; the ruleset,
loaded once for each host, is text for nft(8).
"""

from __future__ import annotations

import errno
import os
import struct

from netdrivers import errors
from netdrivers.kernel.codec import (
    NLM_F_CREATE,
    attribute,
    attribute_list,
    attributes,
    be32,
    nested,
    string,
    text,
)
from netdrivers.kernel.rtnl import mac_bytes, packed, unpacked
from netdrivers.kernel.socket import NetlinkError, NetlinkSocket
from netdrivers.operations import (
    AllowSource,
    AnyOperation,
    BridgePolicy,
    Hairpin,
    KeepSource,
    Masquerade,
    Publish,
    Tunnel,
)

TABLE = "netdrivers"
NFPROTO_INET, NFPROTO_IPV4, NFPROTO_BRIDGE, NFPROTO_IPV6 = 1, 2, 7, 10

_SUBSYSTEM = 10 << 8
NEWTABLE, GETTABLE, DELTABLE = _SUBSYSTEM | 0, _SUBSYSTEM | 1, _SUBSYSTEM | 2
GETCHAIN, GETRULE, GETSET = _SUBSYSTEM | 4, _SUBSYSTEM | 7, _SUBSYSTEM | 10
NEWSETELEM, GETSETELEM, DELSETELEM = _SUBSYSTEM | 12, _SUBSYSTEM | 13, _SUBSYSTEM | 14

BEGIN = END = struct.pack(">BBH", 0, 0, 10)
_ELEMENTS_PER_MESSAGE = 400  # an attribute's length has 16 bits

_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_SETS = (
    "bridges", "isolated", "strict", "internal", "self", "noicc", "masquerade4", "masquerade6",
    "same4", "same6", "itself4", "itself6", "keep4", "keep6", "publish4", "publish6", "publish4any", "publish6any",
)  # fmt: skip

Body = tuple[int, int, bytes]
Element = tuple[bytes, bytes | None, bytes | None, int]
"""key, data (maps), key_end (concatenated intervals), flags (1: end of an interval)."""


def header(family: int = NFPROTO_INET) -> bytes:
    """struct nfgenmsg."""
    return struct.pack(">BBH", family, 0, 0)


def _name_key(name: str) -> bytes:
    return name.encode().ljust(16, b"\0")


def _port(number: int) -> bytes:
    return struct.pack(">HH", number, 0)


def _bounds(subnet: str) -> tuple[bytes, bytes]:
    """First and last address of a subnet, as bytes."""
    ip, _, prefix = subnet.partition("/")
    raw = packed(ip)
    mask = (1 << (len(raw) * 8 - int(prefix))) - 1
    value = int.from_bytes(raw, "big")
    return (value & ~mask).to_bytes(len(raw), "big"), (value | mask).to_bytes(len(raw), "big")


def elements(operation: AnyOperation) -> list[tuple[str, list[Element]]]:
    """The sets that an operation is an element of, with the elements."""
    single: tuple[str, list[Element]]
    if isinstance(operation, Publish):
        return [_publish(operation)]
    if isinstance(operation, BridgePolicy):
        key = _name_key(operation.link)
        pair: Element = (key * 2, None, None, 0)
        if operation.policy == "noicc":
            return [("noicc", [pair])]
        single = (operation.policy, [(key, None, None, 0)])
        return [single, ("self", [pair])] if operation.policy == "bridges" else [single]
    if isinstance(operation, Masquerade):
        first, last = _bounds(operation.subnet)
        found: list[Element] = [(first, None, None, 0)]
        after = int.from_bytes(last, "big") + 1
        if after < 1 << (len(last) * 8):
            found.append((after.to_bytes(len(last), "big"), None, None, 1))
        return [("masquerade4" if len(first) == 4 else "masquerade6", found)]
    if isinstance(operation, Hairpin):
        first, last = _bounds(operation.subnet)
        if first == last:
            return [("itself4" if len(first) == 4 else "itself6", [(first * 2, None, None, 0)])]
        return [("same4" if len(first) == 4 else "same6", [(first * 2, None, last * 2, 0)])]
    if isinstance(operation, KeepSource):
        first, last = _bounds(operation.subnet)
        return [("keep4" if len(first) == 4 else "keep6", [(first * 2, None, last * 2, 0)])]
    if isinstance(operation, Tunnel):
        bridge, link = _name_key(operation.bridge), _name_key(operation.link)
        return [("self", [(bridge + link, None, None, 0), (link + bridge, None, None, 0)])]
    if isinstance(operation, AllowSource):
        key, mac = _name_key(operation.link), mac_bytes(operation.mac) + b"\0\0"
        return [("sources", [(key + mac, None, None, 0)]), ("guarded", [(key, None, None, 0)])]
    raise TypeError(operation)


def _family(operation: AnyOperation) -> int:
    return NFPROTO_BRIDGE if isinstance(operation, AllowSource) else NFPROTO_INET


def _publish(operation: Publish) -> tuple[str, list[Element]]:
    family = "6" if ":" in operation.target_ip else "4"
    prefix = bytes((_PROTOCOLS[operation.protocol], 0, 0, 0))
    if operation.host_ip:
        prefix += packed(operation.host_ip)
    target = packed(operation.target_ip)
    return f"publish{family}{'' if operation.host_ip else 'any'}", [
        (prefix + _port(operation.host_port + step), target + _port(operation.target_port + step), None, 0)
        for step in range(operation.count)
    ]


def _element(element: Element) -> bytes:
    key, data, key_end, flags = element
    body = nested(1, attribute(1, key))
    if data is not None:
        body += nested(2, attribute(1, data))
    if flags:
        body += be32(3, flags)
    if key_end is not None:
        body += nested(10, attribute(1, key_end))
    return nested(1, body)


def _list(name: str, found: list[Element], family: int = NFPROTO_INET) -> bytes:
    return header(family) + string(1, TABLE) + string(2, name) + nested(3, *[_element(element) for element in found])


def element_messages(operation: AnyOperation, add: bool) -> list[Body]:
    """The messages that add or delete an operation's elements, a few hundred in each."""
    kind, flags = (NEWSETELEM, NLM_F_CREATE) if add else (DELSETELEM, 0)
    family = _family(operation)
    return [
        (kind, flags, _list(name, found[start : start + _ELEMENTS_PER_MESSAGE], family))
        for name, found in elements(operation)
        for start in range(0, len(found), _ELEMENTS_PER_MESSAGE)
    ]


def present_messages(sock: NetlinkSocket, operation: AnyOperation) -> list[Body]:
    """The messages that delete those of an operation's elements that the kernel holds, one for each."""
    family = _family(operation)
    return [
        (DELSETELEM, 0, _list(name, [element], family))
        for name, found in elements(operation)
        for element in found
        if _ask(sock, name, element, family) is not None
    ]


def missing(sock: NetlinkSocket, operation: AnyOperation) -> str | None:
    """What the kernel does not hold of an operation's elements, in words; None when all is there."""
    family = _family(operation)
    for name, found in elements(operation):
        for element in found:
            reply = _ask(sock, name, element, family)
            if reply is None:
                return f"element missing from {name}"
            if element[1] is not None and _data(reply) != element[1]:
                return f"element of {name} leads elsewhere"
    return None


def _ask(sock: NetlinkSocket, name: str, element: Element, family: int) -> bytes | None:
    try:
        return sock.ask(GETSETELEM, _list(name, [element], family))
    except NetlinkError as error:
        if error.errno == errno.ENOENT:
            return None
        raise


def _data(reply: bytes) -> bytes | None:
    for item in _items(reply):
        found = attributes(item)
        if 2 in found:
            return attributes(found[2]).get(1)
    return None


def _items(reply: bytes) -> list[bytes]:
    listed = attributes(reply, 4).get(3, b"")
    return [payload for _, payload in attribute_list(listed)]


def is_empty(sock: NetlinkSocket, family: int = NFPROTO_INET, sets: tuple[str, ...] = _SETS) -> bool:
    """Whether a table of ours is there and none of its sets and maps holds an element."""
    for name in sets:
        wanted = header(family) + string(1, TABLE) + string(2, name)
        try:
            if any(map(_is_element, (item for reply in sock.dump(GETSETELEM, wanted) for item in _items(reply)))):
                return False
        except NetlinkError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
    return True


def _is_element(item: bytes) -> bool:
    """Whether a listed item is an element, and not nft's mark that an interval set is empty up to its first."""
    found = attributes(item)
    mark = found.get(3) == b"\0\0\0\1" and not any(attributes(found[1])[1])
    return not mark


def published(sock: NetlinkSocket) -> list[tuple[str, int, str, str, int]]:
    """(protocol, host port, host ip or "", target ip, target port) of every publish element in the kernel."""
    words = {number: word for word, number in _PROTOCOLS.items()}
    found = []
    for name in ("publish4", "publish6", "publish4any", "publish6any"):
        width = 16 if "6" in name else 4
        for reply in sock.dump(GETSETELEM, header() + string(1, TABLE) + string(2, name)):
            for item in _items(reply):
                parts = attributes(item)
                key, data = attributes(parts[1])[1], attributes(parts[2])[1]
                host = "" if name.endswith("any") else unpacked(key[4 : 4 + width])
                port = int.from_bytes(key[-4:-2], "big")
                target = int.from_bytes(data[width : width + 2], "big")
                found.append((words.get(key[0], str(key[0])), port, host, unpacked(data[:width]), target))
    return found


def chain_exists(sock: NetlinkSocket, family: int, table: str, chain: str) -> bool:
    """Whether some table, also another's, has a chain."""
    try:
        sock.ask(GETCHAIN, header(family) + string(1, table) + string(3, chain))
    except NetlinkError as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL):
            return False
        raise
    return True


def dropping_forward_chains(sock: NetlinkSocket) -> list[tuple[str, str]]:
    """(table, chain) of base chains in the forward hook, of any table but ours, whose policy is drop."""
    found = []
    for family in (NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6):
        for reply in sock.dump(GETCHAIN, header(family)):
            chain = attributes(reply, 4)
            hook = attributes(chain.get(4, b""))
            forward = 1 in hook and int.from_bytes(hook[1], "big") == 2  # NF_INET_FORWARD
            if reply[0] == family and forward and int.from_bytes(chain.get(5, b"\0\0\0\1"), "big") == 0:
                found.append((text(chain[1]), text(chain[3])))
    return [item for item in found if item[0] != TABLE]


def table_exists(sock: NetlinkSocket) -> bool:
    """Whether our table is there."""
    try:
        sock.ask(GETTABLE, header() + string(1, TABLE))
    except NetlinkError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def rule_count(sock: NetlinkSocket) -> int:
    """How many rules our table holds, -1 when there is no table."""
    if not table_exists(sock):
        return -1
    rules = sock.dump(GETRULE, header() + string(1, TABLE))
    return sum(1 for rule in rules if text(attributes(rule, 4).get(1, b"")) == TABLE)


def ruleset() -> str:
    """The text of the static ruleset."""
    with open(os.path.join(os.path.dirname(__file__), "ruleset.nft"), encoding="utf-8") as file:
        return file.read()


SOURCE_GUARD = """
table bridge netdrivers {
    set guarded { type ifname; }
    set sources { type ifname . ether_addr; }
    chain guard { type filter hook prerouting priority -300; policy accept; }
}
flush chain bridge netdrivers guard
table bridge netdrivers {
    chain guard { iifname @guarded iifname . ether saddr != @sources drop; }
}
"""
"""Rules of the bridge family, loaded for the first link whose source address is checked."""


def expected_rules() -> int:
    """How many rules the ruleset's text holds."""
    second = ruleset().rpartition("\ntable inet netdrivers {")[2]
    lines = (line.strip() for line in second.splitlines())
    return sum(1 for line in lines if line and not line.startswith(("#", "chain", "}")))


def load(rules: str) -> None:
    """Load rules in the current namespace. HostLacks without nft(8); KernelError when refused."""
    import subprocess

    try:
        done = subprocess.run(["nft", "-f", "-"], input=rules, capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        raise errors.HostLacks(
            "the executable nft is not on PATH", "install nftables, or set firewall: iptables"
        ) from None
    except subprocess.TimeoutExpired:
        raise errors.KernelError("nft did not load the ruleset in time", errno.ETIMEDOUT) from None
    if done.returncode:
        reason = done.stderr.strip().splitlines()
        raise errors.KernelError(f"nft refused the ruleset: {reason[0] if reason else done.returncode}")


def delete_table(family: int = NFPROTO_INET) -> Body:
    """The message that deletes our table with all in it."""
    return DELTABLE, 0, header(family) + string(1, TABLE)
