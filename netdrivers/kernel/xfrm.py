"""IPsec between two hosts, ESP with AES-GCM in transport mode: states, policies, and what the kernel lacks for it.

Source: linux/xfrm.h; RFC 4106 (AES-GCM in ESP), RFC 4303 (extended sequence numbers).
"""

from __future__ import annotations

import errno
import os
import struct
from _blake2 import blake2b  # hashlib would load OpenSSL

from netdrivers import errors
from netdrivers.kernel.codec import NLM_F_CREATE, NLM_F_EXCL, attribute, attributes
from netdrivers.kernel.rtnl import AF_INET, AF_INET6, packed, unpacked
from netdrivers.kernel.session import Session
from netdrivers.kernel.socket import NetlinkSocket
from netdrivers.operations import IpsecGuard, IpsecPolicy, IpsecState

Body = tuple[int, int, bytes]

XFRM_MSG_NEWSA, XFRM_MSG_DELSA, XFRM_MSG_GETSA = 0x10, 0x11, 0x12
XFRM_MSG_DELPOLICY, XFRM_MSG_GETPOLICY, XFRM_MSG_UPDPOLICY = 0x14, 0x15, 0x19
XFRM_POLICY_IN, XFRM_POLICY_OUT = 0, 1
XFRM_POLICY_ALLOW, XFRM_POLICY_BLOCK = 0, 1
XFRM_MODE_TRANSPORT, XFRM_STATE_ESN = 0, 128
XFRMA_ALG_AUTH, XFRMA_TMPL, XFRMA_ALG_AEAD, XFRMA_REPLAY_ESN_VAL = 1, 5, 18, 23
IPPROTO_UDP, IPPROTO_ESP = 17, 50

PRIORITY, GUARD_PRIORITY = 1000, 2000
"""The kernel takes the policy with the lowest: a peer's goes before the guard."""

KEY_BYTES, SALT_BYTES, ICV_BITS = 32, 4, 128
REPLAY_WINDOW = 128
_PROBE_SPI = 0xFFFFFFFE

_SELECTOR = struct.Struct("=16s16s2s2s2s2sHBBB3xiI")
_ID = struct.Struct("=16s4sB3x")
_LIMITS = struct.pack("=4Q4Q", *([(1 << 64) - 1] * 4), 0, 0, 0, 0)
_USED = bytes(32)
_STATE_TAIL = struct.Struct("=12sIIHBBB7x")
_STATE_SIZE = 224
_POLICY_TAIL = struct.Struct("=IIBBBB4x")
_TEMPLATE = struct.Struct("=24sH2x16sIBBBx3I")
_ANY = b"\0\0"


def _address(text: str) -> bytes:
    return packed(text).ljust(16, b"\0")


def _family(text: str) -> int:
    return AF_INET6 if ":" in text else AF_INET


def _selector(src: str, dst: str, port: int) -> bytes:
    """UDP to a port, between two hosts ("" for any)."""
    known = src or dst
    bits = 128 if ":" in known else 32
    return _SELECTOR.pack(
        _address(dst) if dst else bytes(16),
        _address(src) if src else bytes(16),
        struct.pack(">H", port),
        b"\xff\xff",
        _ANY,
        _ANY,
        _family(known),
        bits if dst else 0,
        bits if src else 0,
        IPPROTO_UDP,
        0,
        0,
    )


def _id(dst: str, spi: int) -> bytes:
    return _ID.pack(_address(dst), struct.pack(">I", spi), IPPROTO_ESP)


def key_of(secret: bytes, src: str, dst: str, spi: int) -> bytes:
    """The key and salt of one direction between two hosts, derived from the network's secret (BLAKE2b, keyed)."""
    name = f"netdrivers ipsec\0{src}\0{dst}\0{spi}".encode()
    return blake2b(name, key=secret, digest_size=KEY_BYTES + SALT_BYTES).digest()


def add_state(src: str, dst: str, spi: int, reqid: int, key: bytes) -> Body:
    """A state. Sequence numbers are extended: 32 bits are used up within 72 minutes at a million packets a second."""
    aead = struct.pack("=64sII", b"rfc4106(gcm(aes))", len(key) * 8, ICV_BITS) + key
    return _new_state(src, dst, spi, reqid, attribute(XFRMA_ALG_AEAD, aead))


def _new_state(src: str, dst: str, spi: int, reqid: int, algorithm: bytes) -> Body:
    body = bytes(_SELECTOR.size) + _id(dst, spi) + _address(src) + _LIMITS + _USED
    body += _STATE_TAIL.pack(bytes(12), 0, reqid, _family(dst), XFRM_MODE_TRANSPORT, 0, XFRM_STATE_ESN)
    words = REPLAY_WINDOW // 32
    replay = struct.pack(f"=6I{words}I", words, 0, 0, 0, 0, REPLAY_WINDOW, *([0] * words))
    return XFRM_MSG_NEWSA, NLM_F_CREATE | NLM_F_EXCL, body + algorithm + attribute(XFRMA_REPLAY_ESN_VAL, replay)


def delete_state(dst: str, spi: int) -> Body:
    """Delete a state."""
    spi_bytes = struct.pack(">I", spi)
    return XFRM_MSG_DELSA, 0, struct.pack("=16s4sHBx", _address(dst), spi_bytes, _family(dst), IPPROTO_ESP)


def put_policy(src: str, dst: str, port: int, direction: int, spi: int, reqid: int) -> Body:
    """Only ESP of this request id (and SPI, unless 0) between two hosts to a port; replaces one that is there."""
    template = _TEMPLATE.pack(
        _id(dst, spi), _family(dst), _address(src), reqid, XFRM_MODE_TRANSPORT, 0, 0, *([0xFFFFFFFF] * 3)
    )
    body = _policy(_selector(src, dst, port), PRIORITY, direction, XFRM_POLICY_ALLOW)
    return XFRM_MSG_UPDPOLICY, 0, body + attribute(XFRMA_TMPL, template)


def put_block(src: str, dst: str, port: int, direction: int) -> Body:
    """Nothing passes that no other policy lets pass."""
    return (
        XFRM_MSG_UPDPOLICY,
        0,
        _policy(_selector(src, dst, port), GUARD_PRIORITY, direction, XFRM_POLICY_BLOCK),
    )


def _policy(selector: bytes, priority: int, direction: int, action: int) -> bytes:
    return selector + _LIMITS + _USED + _POLICY_TAIL.pack(priority, 0, direction, action, 0, 0)


def delete_policy(src: str, dst: str, port: int, direction: int) -> Body:
    """Delete the policy of a selector."""
    return XFRM_MSG_DELPOLICY, 0, _selector(src, dst, port) + struct.pack("=IB3x", 0, direction)


# Operations


def _secret(path: str) -> bytes:
    try:
        with open(path, encoding="ascii") as file:
            secret = bytes.fromhex(file.read().strip())
    except OSError as error:
        raise errors.HostLacks(f"the secret {path} cannot be read: {error.strerror}") from None
    except ValueError:
        secret = b""
    if len(secret) != 32:
        raise errors.HostLacks(f"the secret {path} is not 64 hexadecimal digits", f"openssl rand -hex 32 > {path}")
    return secret


def _state(operation: IpsecState) -> Body:
    key = key_of(_secret(operation.secret), operation.src, operation.dst, operation.spi)
    return add_state(operation.src, operation.dst, operation.spi, operation.reqid, key)


def apply_state(operation: IpsecState, session: Session) -> None:
    """The key is read from its file now, and is nowhere else."""
    session.send("xfrm", operation, _state(operation))


def undo_state(operation: IpsecState, session: Session) -> None:
    """Delete it."""
    session.remove("xfrm", [delete_state(operation.dst, operation.spi)])


def apply_policy(operation: IpsecPolicy, session: Session) -> None:
    """Out with one state, in with any of ours."""
    session.send(
        "xfrm",
        operation,
        put_policy(operation.peer, operation.local, operation.port, XFRM_POLICY_IN, 0, operation.reqid),
        put_policy(operation.local, operation.peer, operation.port, XFRM_POLICY_OUT, operation.spi, operation.reqid),
    )


def undo_policy(operation: IpsecPolicy, session: Session) -> None:
    """Delete both."""
    session.remove(
        "xfrm",
        [
            delete_policy(operation.peer, operation.local, operation.port, XFRM_POLICY_IN),
            delete_policy(operation.local, operation.peer, operation.port, XFRM_POLICY_OUT),
        ],
    )


def apply_guard(operation: IpsecGuard, session: Session) -> None:
    """Whoever it is to or from."""
    session.send(
        "xfrm",
        operation,
        put_block("", operation.local, operation.port, XFRM_POLICY_IN),
        put_block(operation.local, "", operation.port, XFRM_POLICY_OUT),
    )


def undo_guard(operation: IpsecGuard, session: Session) -> None:
    """Delete both."""
    session.remove(
        "xfrm",
        [
            delete_policy("", operation.local, operation.port, XFRM_POLICY_IN),
            delete_policy(operation.local, "", operation.port, XFRM_POLICY_OUT),
        ],
    )


# What is there

States = dict[tuple[str, int], bytes]
"""Key and salt by destination and SPI."""

Policies = dict[tuple[str, str, int, int], tuple[int, int]]
"""(action, SPI of the template) by source, destination ("" for any), port and direction."""


def states(sock: NetlinkSocket) -> States:
    """All states of the namespace."""
    found: States = {}
    for body in sock.dump(XFRM_MSG_GETSA, b""):
        family = struct.unpack_from("=H", body, 212)[0]
        spi = int.from_bytes(body[_SELECTOR.size + 16 : _SELECTOR.size + 20], "big")
        dst = _text(body[_SELECTOR.size : _SELECTOR.size + 16], family)
        found[dst, spi] = attributes(body, _STATE_SIZE).get(XFRMA_ALG_AEAD, b"")[72:]
    return found


def policies(sock: NetlinkSocket) -> Policies:
    """All policies of the namespace for a UDP port."""
    found: Policies = {}
    for body in sock.dump(XFRM_MSG_GETPOLICY, b""):
        daddr, saddr, dport, _, _, _, family, prefix_d, prefix_s, proto, _, _ = _SELECTOR.unpack_from(body)
        if proto != IPPROTO_UDP:
            continue
        _, _, direction, action, _, _ = _POLICY_TAIL.unpack_from(body, _SELECTOR.size + 96)
        template = attributes(body, 168).get(XFRMA_TMPL, b"")
        src, dst = _text(saddr, family) if prefix_s else "", _text(daddr, family) if prefix_d else ""
        port = int.from_bytes(dport, "big")
        found[src, dst, port, direction] = action, int.from_bytes(template[16:20], "big")
    return found


def _text(raw: bytes, family: int) -> str:
    return unpacked(raw[:16] if family == AF_INET6 else raw[:4])


def state_drift(operation: IpsecState, there: States) -> str | None:
    """How the kernel differs."""
    key = there.get((operation.dst, operation.spi))
    if key is None:
        return "state missing"
    try:
        secret = _secret(operation.secret)
    except errors.HostLacks as error:
        return str(error)
    return None if key == key_of(secret, operation.src, operation.dst, operation.spi) else "has another key"


def policy_drift(operation: IpsecPolicy, there: Policies) -> str | None:
    """How the kernel differs."""
    inward = there.get((operation.peer, operation.local, operation.port, XFRM_POLICY_IN))
    outward = there.get((operation.local, operation.peer, operation.port, XFRM_POLICY_OUT))
    if inward != (XFRM_POLICY_ALLOW, 0):
        return "inward policy missing"
    return None if outward == (XFRM_POLICY_ALLOW, operation.spi) else "outward policy missing"


def guard_drift(operation: IpsecGuard, there: Policies) -> str | None:
    """How the kernel differs."""
    blocked = (XFRM_POLICY_BLOCK, 0)
    inward = there.get(("", operation.local, operation.port, XFRM_POLICY_IN))
    outward = there.get((operation.local, "", operation.port, XFRM_POLICY_OUT))
    return None if inward == outward == blocked else "policy missing"


def lacks(sock: NetlinkSocket, family: int) -> str:
    """What the kernel lacks for ESP with AES-GCM in a family (4 or 6), "" for nothing.

    Tried between two addresses that are for documentation, once more without AES-GCM, as the kernel names
    only the first thing that it misses.
    """
    src, dst = ("192.0.2.1", "192.0.2.2") if family == 4 else ("2001:db8::1", "2001:db8::2")
    refusal = _try(sock, dst, add_state(src, dst, _PROBE_SPI, 0, bytes(KEY_BYTES + SALT_BYTES)))
    if not refusal:
        return ""
    module, option = ("esp4", "CONFIG_INET_ESP") if family == 4 else ("esp6", "CONFIG_INET6_ESP")
    missing = []
    if errno.EPROTONOSUPPORT in (refusal, _try(sock, dst, _authenticated(src, dst))):
        missing.append(f"ESP for IPv{family} (module {module}, {option})")
    if refusal in (errno.ENOSYS, errno.ENOENT):
        missing.append("AES-GCM (module gcm, CONFIG_CRYPTO_GCM)")
    return " and ".join(missing) or f"ESP with AES-GCM ({os.strerror(refusal)})"


def _try(sock: NetlinkSocket, dst: str, body: Body) -> int:
    refusal = sock.batch([body])[0]
    if refusal == 0:
        sock.batch([delete_state(dst, _PROBE_SPI)])
    return 0 if refusal == errno.EEXIST else refusal


def _authenticated(src: str, dst: str) -> Body:
    """A state of ESP that asks for nothing but a common hash."""
    auth = struct.pack("=64sI", b"hmac(sha256)", 256) + bytes(32)
    return _new_state(src, dst, _PROBE_SPI, 0, attribute(XFRMA_ALG_AUTH, auth))
