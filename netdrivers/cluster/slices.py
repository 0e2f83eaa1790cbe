"""Parts of a subnet, one for each host: which are free, and which one a host asks for first; pure."""

from __future__ import annotations

from collections.abc import Container, Iterator

from netaddr import IPAddress, IPNetwork

from netdrivers.model import digest


def free(subnet: str, prefix: int, taken: Container[str], host: str) -> Iterator[str]:
    """The slices of a subnet that are not taken, in the order in which a host asks for them.

    It begins at a place derived from the host's address: hosts that join at once seldom want the
    same, and a host whose claim was given up is likely to get the same slice again.
    """
    whole = IPNetwork(subnet)
    count = 1 << (prefix - whole.prefixlen)
    size = 1 << ((128 if whole.version == 6 else 32) - prefix)
    first = int.from_bytes(digest("slice", host)[:8], "big")
    for step in range(count):
        base = IPAddress(whole.first + (first + step) % count * size, whole.version)
        text = f"{base}/{prefix}"
        if text not in taken:
            yield text


def amount(subnet: str, prefix: int) -> int:
    """How many slices there are."""
    return 1 << (prefix - IPNetwork(subnet).prefixlen)
