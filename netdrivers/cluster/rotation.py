"""The secrets of an encrypted network: made, renewed and dropped through etcd; none of this asks for a clock in step.

A new generation is made by whichever host first sees that the newest is old. Each host says in its sign of life which
generation it understands, and is sent to with no newer one; a generation that no living host needs is dropped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from netdrivers.cluster import layout
from netdrivers.cluster import messages as wire
from netdrivers.cluster.etcd import Etcd
from netdrivers.cluster.join import Identity, State, look
from netdrivers.cluster.layout import HostEntry, Secret

ROTATION_SECONDS = 24 * 3600
"""AES-GCM allows 2 to the 32 packets with one key and random starting points; the SAs count them too."""


def due(secrets: Mapping[int, Secret]) -> bool:
    """Whether a generation is to be made."""
    return not secrets or time.time() - secrets[max(secrets)].made >= ROTATION_SECONDS


def renew(etcd: Etcd, who: Identity, state: State) -> State:
    """Make a generation if one is due, and drop those that no living host needs; the state after it."""
    if not who.settings.encrypted or not due(state.secrets):
        return state
    keys, newest = who.keys, max(state.secrets, default=0)
    operations = [wire.put(keys.secret(newest + 1), layout.encode(Secret(os.urandom(32).hex())))]
    operations += [wire.delete(keys.secret(old)) for old in unneeded(state.secrets, state.hosts)]
    etcd.transaction(operations, [wire.absent(keys.secret(newest + 1))])  # or another host was first
    return look(etcd, who)


def unneeded(secrets: Mapping[int, Secret], hosts: Mapping[str, HostEntry]) -> list[int]:
    """Generations older than every living host's newest."""
    least = min((entry.keys for entry in hosts.values()), default=max(secrets, default=0))
    return [generation for generation in secrets if generation < least]
