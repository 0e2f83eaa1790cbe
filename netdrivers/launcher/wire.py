"""The protocol between executables and the warm service, as bytes (docs/service.md describes it).

Imports nothing: the Python launcher uses it too, and every import costs it time. The C twin is
launcher.c.
"""

from __future__ import annotations

MAGIC = b"NDRV"
PROTOCOL = 1
HEADER_SIZE = 16
BODY_LIMIT = 64 << 20
"""Bytes of the largest body either side takes."""

RUN, STATUS, STOP = 1, 2, 3
"""What a caller asks: run a front end, say how the service is, stop the service."""

WORKING, ANSWER, DECLINED = 16, 17, 18
"""What the service says: still at it, done, or not by me (the body is the reason)."""

SILENCE = 6.0
"""Seconds without a word after which a caller takes the service for dead; it speaks every second."""

ANSWER_LIMIT = 120.0
"""Seconds a caller waits for a service that is alive (NETDRIVERS_SERVICE_TIMEOUT)."""

SOCKET = "service.sock"
"""The socket's name in the state directory."""


class WireError(ValueError):
    """Bytes that are not this protocol."""


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _fields(body: bytes, start: int, count: int) -> list[bytes]:
    """``count`` byte strings: all their lengths first, then the strings."""
    position = start + 4 * count
    fields = []
    for index in range(count):
        at = start + 4 * index
        end = position + int.from_bytes(body[at : at + 4], "little")
        fields.append(body[position:end])
        position = end
    if position != len(body):
        raise WireError(f"a body of {len(body)} bytes whose fields say {position}")
    return fields


def pack_frame(kind: int, body: bytes = b"") -> bytes:
    """Header and body of one message."""
    return MAGIC + _u32(PROTOCOL) + _u32(kind) + _u32(len(body)) + body


def unpack_header(header: bytes) -> tuple[int, int, int]:
    """Protocol version, kind and body length of a header of HEADER_SIZE bytes; WireError if it is none."""
    if len(header) != HEADER_SIZE or header[:4] != MAGIC:
        raise WireError("not a netdrivers message")
    protocol, kind, length = (int.from_bytes(header[at : at + 4], "little") for at in (4, 8, 12))
    return protocol, kind, length


def pack_run(version: str, program: str, args: list[bytes], env: list[bytes], stdin: bytes) -> bytes:
    """The body of RUN: product version, program, arguments, "NAME=VALUE"s, standard input."""
    fields = (version.encode(), program.encode(), *(b"".join(s + b"\0" for s in strings) for strings in (args, env)))
    return b"".join(map(_u32, map(len, (*fields, stdin)))) + b"".join(fields) + stdin


def unpack_run(body: bytes) -> tuple[str, str, tuple[str, ...], dict[str, str], bytes]:
    """Product version, program, arguments, environment and standard input of a RUN; WireError."""
    version, program, args, env, stdin = _fields(body, 0, 5)
    text = [field.decode("utf-8", "surrogateescape") for field in (version, program, args, env)]
    pairs = (pair.partition("=") for pair in text[3].split("\0")[:-1])
    return text[0], text[1], tuple(text[2].split("\0")[:-1]), {name: value for name, _, value in pairs}, stdin


def pack_answer(exit_code: int, stdout: bytes, stderr: bytes) -> bytes:
    """An ANSWER with its header."""
    return pack_frame(ANSWER, b"".join((_u32(exit_code), _u32(len(stdout)), _u32(len(stderr)), stdout, stderr)))


def unpack_answer(body: bytes) -> tuple[int, bytes, bytes]:
    """Exit code, standard output and standard error of an ANSWER's body; WireError."""
    stdout, stderr = _fields(body, 4, 2)
    return int.from_bytes(body[:4], "little"), stdout, stderr
