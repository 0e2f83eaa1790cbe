"""A subnet for a pool that Docker leaves to us: free on this host, as far as anybody can tell."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from netdrivers.errors import Exhausted
from netdrivers.frontends.docker import kept
from netdrivers.frontends.netavark.create import used_subnets
from netdrivers.ipam import ranges
from netdrivers.lifecycle import Lifecycle

FIRST, COUNT = (10 << 24 | 192 << 16), 1 << 12
"""IPv4 pools are the /24 subnets of 10.192.0.0/12."""

TRIES = 64


def free_subnet(family: int, lifecycle: Lifecycle, env: Mapping[str, str]) -> str:
    """A subnet that overlaps no route of the host, no network of ours, of Podman's or of Docker's, and no pool."""
    used = used_subnets(lifecycle, env)
    used += [pool.subnet for pool in kept.pools(env).all()]
    for made in kept.networks(env).all():
        used += [part.subnet for pool in made.network.ipam.pools for part in pool.ranges]
    for subnet in _candidates(family):
        if not ranges.overlap(subnet, used):
            return subnet
    raise Exhausted("no free subnet is left", "give one with --subnet")


def _candidates(family: int) -> Iterator[str]:
    """IPv4 in order; for IPv6 random prefixes, as RFC 4193 wants them."""
    if family == 6:
        for _ in range(TRIES):
            text = os.urandom(5).hex()
            yield f"fd{text[:2]}:{text[2:6]}:{text[6:]}::/64"
        return
    for step in range(COUNT):
        block = FIRST + (step << 8)
        yield f"{block >> 24}.{block >> 16 & 255}.{block >> 8 & 255}.0/24"
