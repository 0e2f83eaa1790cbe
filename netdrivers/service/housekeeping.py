"""Work that the service does after answers: delete cut-off links in batches, remove idle networks, keep names
right, serve [::1]."""

from __future__ import annotations

from collections.abc import Sequence

from netdrivers.frontends.dispatch import lifecycle
from netdrivers.service.background import BackgroundTask, Periodic, in_thread
from netdrivers.service.cluster import Cluster
from netdrivers.service.loopback6 import LISTENERS, Loopback6, Wanted
from netdrivers.state.store import Store

REAP_INTERVAL, REAP_SETTLE = 2.0, 0.3
IDLE_INTERVAL, IDLE_LINGER = 30.0, 300.0
"""Seconds: how often idle networks are looked for, and how long a network may be idle."""

NAMES_INTERVAL = 30.0
"""Seconds after which a name server that died is back."""


class PublishedPorts:
    """The published ports that [::1] should answer; an attachment is read from the store once."""

    def __init__(self, state_dir: str) -> None:
        self._state_dir = state_dir
        self._known: dict[str, dict[tuple[str, int], tuple[str, int]]] = {}

    def __call__(self) -> Wanted:
        """What the store says now; at most as many as are served."""
        store = lifecycle(self._state_dir).store
        owners = {owner for _, _, _, owner in store.some_ports(2 * LISTENERS)}
        self._known = {owner: self._known.get(owner) or _targets(store, owner) for owner in owners}
        return {key: target for targets in self._known.values() for key, target in targets.items()}


def _targets(store: Store, owner: str) -> dict[tuple[str, int], tuple[str, int]]:
    record = store.attachment(owner)
    if record is None or record.state != "attached":
        return {}
    addresses = {item.family: item.ip for item in reversed(record.lease.addresses)}
    address = addresses.get(6) or addresses.get(4)
    return {
        (mapping.protocol, mapping.host_port + step): (address, mapping.container_port + step)
        for mapping in record.attachment.ports
        if address and mapping.host_ip in ("", "::", "::1") and mapping.protocol != "sctp"
        for step in range(mapping.count)
    }


def tasks(state_dir: str, loopback6: bool = True) -> Sequence[BackgroundTask]:
    """The background tasks of a service on a state directory."""
    reap = in_thread(lambda: lifecycle(state_dir).reap())
    idle = in_thread(lambda: lifecycle(state_dir).networks.remove_idle(IDLE_LINGER))
    names = in_thread(lambda: lifecycle(state_dir).names.mend())
    found: list[BackgroundTask] = [
        Periodic("reaper", reap, REAP_INTERVAL, REAP_SETTLE, finish=True),
        Periodic("idle networks", idle, IDLE_INTERVAL, IDLE_INTERVAL),
        Periodic("names", names, NAMES_INTERVAL, NAMES_INTERVAL),
        Cluster(state_dir),
    ]
    if loopback6:
        found.append(Loopback6(PublishedPorts(state_dir)))
    return found
