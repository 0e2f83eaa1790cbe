"""Parts of a subnet, one for each host: which are free, and which one a host asks for first; pure.

A few lines of arithmetic, as an executable that joins a network should not pay for a library.
"""

from __future__ import annotations

import _socket
from collections.abc import Container, Iterator

from netdrivers.model import digest


def free(subnet: str, prefix: int, taken: Container[str], host: str) -> Iterator[str]:
    """The slices of a subnet that are not taken, in the order in which a host asks for them.

    It begins at a place derived from the host's address: hosts that join at once seldom want the
    same, and a host whose claim was given up is likely to get the same slice again.
    """
    base, _, _ = subnet.partition("/")
    found = number(base)
    assert found is not None, "a settled network's subnet"
    value, bits = found
    count, size = amount(subnet, prefix), 1 << (bits - prefix)
    first = int.from_bytes(digest("slice", host)[:8], "big")
    for step in range(count):
        text = f"{_text(value + (first + step) % count * size, bits)}/{prefix}"
        if text not in taken:
            yield text


def amount(subnet: str, prefix: int) -> int:
    """How many slices there are."""
    return 1 << (prefix - int(subnet.partition("/")[2]))


def is_slice(text: str, subnet: str, prefix: int) -> bool:
    """Whether a text is a slice of a subnet, written as we write it."""
    base, _, length = text.partition("/")
    raw, whole = number(base), number(subnet.partition("/")[0])
    if raw is None or whole is None or length != str(prefix) or raw[1] != whole[1]:
        return False
    bits, above = raw[1], int(subnet.partition("/")[2])
    return raw[0] % (1 << (bits - prefix)) == 0 and raw[0] >> (bits - above) == whole[0] >> (bits - above)


def number(address: str) -> tuple[int, int] | None:
    """An address as a number, and its bits (32, 128); None for what is none, or is written in another way."""
    family = _socket.AF_INET6 if ":" in address else _socket.AF_INET
    try:
        raw = _socket.inet_pton(family, address)
    except (OSError, ValueError):
        return None
    return (int.from_bytes(raw, "big"), len(raw) * 8) if _socket.inet_ntop(family, raw) == address else None


def _text(value: int, bits: int) -> str:
    family = _socket.AF_INET6 if bits == 128 else _socket.AF_INET
    return _socket.inet_ntop(family, value.to_bytes(bits // 8, "big"))
