"""Netlink sockets: send a batch, collect each message's answer; dump with retries."""

from __future__ import annotations

import _socket
import errno
import os
import struct

from netdrivers.kernel import codec

NETLINK_ROUTE = 0
NETLINK_XFRM = 6
NETLINK_NETFILTER = 12
_SOL_NETLINK = 270
_NETLINK_EXT_ACK = 11
_NETLINK_CAP_ACK = 10
_SEND_BUFFER = 4 << 20
_DUMP_TRIES = 8
_BATCH = 100
"""Messages in one datagram: the answers to all of them wait in our receive buffer at once, which holds some 270."""

_NLMSGERR_ATTR_MSG = 1
_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200


class NetlinkError(OSError):
    """The kernel refused a message. position: its index in the batch; errno is positive."""

    def __init__(self, number: int, position: int, explanation: str = "") -> None:
        super().__init__(number, explanation or os.strerror(number))
        self.position = position


class NetlinkSocket:
    """One netlink socket, bound to the network namespace that its maker was in."""

    def __init__(self, family: int, timeout_seconds: float = 20.0) -> None:
        self._socket = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, family)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.bind((0, 0))
        seconds = int(timeout_seconds)
        # SO_RCVTIMEO rather than settimeout, which would add a poll to every receive.
        self._socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, struct.pack("@ll", seconds, 0))
        self._sequence = 0
        self.broken = False
        """Whether an answer may still be on its way, so that the socket is not to be used again."""

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _grow(self, length: int) -> None:
        for option in (32, _socket.SO_SNDBUF):  # SO_SNDBUFFORCE first: it passes net.core.wmem_max
            try:
                self._socket.setsockopt(_socket.SOL_SOCKET, option, min(length * 2 + 65536, _SEND_BUFFER * 8))
                return
            except OSError:
                continue

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(1 << 18)
        except BlockingIOError:
            self.broken = True
            raise NetlinkError(errno.ETIMEDOUT, 0, "no answer from the kernel") from None

    def batch(self, bodies: list[tuple[int, int, bytes]]) -> list[int]:
        """Send (type, flags, body) messages, in few datagrams; errno (0 for success) of each.

        The kernel goes on after a refused message, so all answers are collected.
        """
        self.explanations: dict[int, str] = {}
        answers: list[int] = []
        for start in range(0, len(bodies), _BATCH):
            answers += self._datagram(bodies[start : start + _BATCH], start)
        return answers

    def _datagram(self, bodies: list[tuple[int, int, bytes]], start: int) -> list[int]:
        first = self._sequence + 1
        self._sequence += len(bodies)
        flags = codec.NLM_F_REQUEST | codec.NLM_F_ACK
        data = b"".join(
            codec.message(kind, flags | extra, first + position, body)
            for position, (kind, extra, body) in enumerate(bodies)
        )
        if len(data) > 100_000:
            self._grow(len(data))
        self._socket.send(data)
        answers = [-1] * len(bodies)
        waiting = len(bodies)
        while waiting:
            for kind, reply_flags, sequence, body in codec.messages(self._receive()):
                position = sequence - first
                if kind != codec.NLMSG_ERROR or not 0 <= position < len(bodies) or answers[position] != -1:
                    continue
                answers[position] = -int.from_bytes(body[:4], "little", signed=True)
                if answers[position] and reply_flags & _NLM_F_ACK_TLVS:
                    explanation = codec.attributes(body, 20).get(_NLMSGERR_ATTR_MSG)
                    if explanation:
                        self.explanations[start + position] = codec.text(explanation)
                waiting -= 1
        return answers

    def transaction(self, bodies: list[tuple[int, int, bytes]], begin: bytes, end: bytes) -> None:
        """Send an nf_tables batch, atomic: NetlinkError (with the first refused position) or all done."""
        first = self._sequence + 1
        self._sequence += len(bodies) + 2
        flags = codec.NLM_F_REQUEST
        parts = [codec.message(0x10, flags, first, begin)]
        parts += [
            codec.message(
                kind,
                flags | extra | (codec.NLM_F_ACK if position == len(bodies) - 1 else 0),
                first + 1 + position,
                body,
            )
            for position, (kind, extra, body) in enumerate(bodies)
        ]
        parts.append(codec.message(0x11, flags, first + len(bodies) + 1, end))
        data = b"".join(parts)
        if len(data) > 100_000:
            self._grow(len(data))
        self._socket.send(data)
        last = first + len(bodies)
        while True:
            for kind, reply_flags, sequence, body in codec.messages(self._receive()):
                if kind != codec.NLMSG_ERROR or sequence < first:
                    continue
                number = -int.from_bytes(body[:4], "little", signed=True)
                if number:
                    explanation = b""
                    if reply_flags & _NLM_F_ACK_TLVS:
                        explanation = codec.attributes(body, 20).get(_NLMSGERR_ATTR_MSG, b"")
                    self._drain()
                    raise NetlinkError(number, max(0, sequence - first - 1), codec.text(explanation))
                if sequence == last:
                    return

    def _drain(self) -> None:
        """Drop answers still queued from a refused batch."""
        try:
            while self._socket.recv(1 << 18, _socket.MSG_DONTWAIT):
                pass
        except BlockingIOError:
            pass

    def ask(self, kind: int, body: bytes) -> bytes:
        """One request with one answer: its body. NetlinkError as the kernel says (ENODEV, ENOENT)."""
        self._sequence += 1
        self._socket.send(codec.message(kind, codec.NLM_F_REQUEST, self._sequence, body))
        while True:
            for answer, _, sequence, reply in codec.messages(self._receive()):
                if sequence != self._sequence:
                    continue
                if answer == codec.NLMSG_ERROR:
                    raise NetlinkError(-int.from_bytes(reply[:4], "little", signed=True), 0)
                return reply

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """All objects; repeated while the kernel says that the dump was interrupted."""
        for _ in range(_DUMP_TRIES):
            found, interrupted = self._dump_once(kind, body)
            if not interrupted:
                return found
        raise NetlinkError(errno.EINTR, 0, "the kernel's tables kept changing during a dump")

    def _dump_once(self, kind: int, body: bytes) -> tuple[list[bytes], bool]:
        self._sequence += 1
        flags = codec.NLM_F_REQUEST | codec.NLM_F_DUMP
        self._socket.send(codec.message(kind, flags, self._sequence, body))
        found: list[bytes] = []
        interrupted = False
        while True:
            for answer, reply_flags, sequence, reply in codec.messages(self._receive()):
                if sequence != self._sequence:
                    continue
                interrupted |= bool(reply_flags & codec.NLM_F_DUMP_INTR)
                if answer == codec.NLMSG_DONE:
                    return found, interrupted
                if answer == codec.NLMSG_ERROR:
                    raise NetlinkError(-int.from_bytes(reply[:4], "little", signed=True), 0)
                found.append(reply)
