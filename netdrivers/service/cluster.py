"""Networks that etcd keeps, in the service: a keeper for each, and the kernel held against the record."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from netdrivers.cluster import elsewhere
from netdrivers.cluster.layout import AttachmentEntry, entry_of
from netdrivers.drivers.registry import driver as find_driver
from netdrivers.drivers.spanning import Place, spans
from netdrivers.errors import NetdriversError
from netdrivers.frontends.dispatch import lifecycle
from netdrivers.model import Network
from netdrivers.names import text
from netdrivers.service.background import Periodic

log = logging.getLogger(__name__)

LOOK_INTERVAL, LOOK_SETTLE = 1.0, 0.02
"""Seconds: how often networks that no call of the service made are looked for, and how long calls are gathered."""

RECONCILE_INTERVAL = 60.0


class Cluster(Periodic):
    """The background task. Static overlay networks are held against the record too; the rest is etcd's networks."""

    def __init__(self, state_dir: str, reconcile_interval: float = RECONCILE_INTERVAL) -> None:
        super().__init__("cluster", lambda: asyncio.to_thread(self.look), LOOK_INTERVAL, LOOK_SETTLE)
        self._state_dir = state_dir
        self._reconcile_interval = reconcile_interval
        self._reconciled: dict[str, float] = {}
        self._keepers: dict[str, _Kept] = {}
        self._called = False

    async def stop(self) -> None:
        """The others keep their entries until the leases end: a service that is back by then changes nothing."""
        await super().stop()
        for kept in self._keepers.values():
            await asyncio.to_thread(kept.keeper.stop)

    def nudge(self) -> None:
        """Attachments may have changed."""
        self._called = True
        super().nudge()

    def report(self) -> dict[str, Any]:
        """Adds each network's keeper."""
        return super().report() | {name: kept.keeper.report() for name, kept in self._keepers.items()}

    def look(self) -> None:
        """One turn: keepers for exactly the networks that there are, nudged; the kernel held against the record."""
        found: dict[str, Network] = {}
        called, self._called = self._called, False
        store = lifecycle(self._state_dir).store
        for record in store.networks():
            if record.ready and spans(find_driver(record.network.driver)):
                found[record.network.name] = record.network
        for name in [name for name, kept in self._keepers.items() if name not in found]:
            self._keepers.pop(name).keeper.stop(withdraw=True)
            elsewhere.drop(self._state_dir, name)
        for name, network in found.items():
            if network.options.get("etcd") is not None:
                self._keep(name, network)
                kept, count = self._keepers.get(name), store.in_network(name)
                if kept and (called or count != kept.count):
                    kept.count = count
                    kept.keeper.nudge()
            if time.monotonic() - self._reconciled.get(name, float("-inf")) >= self._reconcile_interval:
                self._reconciled[name] = time.monotonic()
                self._reconcile(name)

    def _keep(self, name: str, network: Network) -> None:
        from netdrivers.cluster.keeper import Keeper
        from netdrivers.cluster.options import options_of
        from netdrivers.cluster.peers import identity

        kept = self._keepers.get(name)
        wanted = identity(network)
        place = _placed(network)
        names = text.wanted(network)
        facts = (wanted.host, wanted.settings, place.slice, network.options["etcd"], names)
        if kept and kept.keeper.alive and kept.facts == facts:
            return
        if kept:
            self._keepers.pop(name).keeper.stop()
        try:
            options = options_of(network)
        except NetdriversError as error:
            log.warning("network %s: %s", name, error)
            return
        keeper = Keeper(wanted, options, Here(self._state_dir, name), place.slice, place.cluster, names)
        self._keepers[name] = _Kept(keeper, facts)
        keeper.start()

    def _reconcile(self, name: str) -> None:
        for drift in lifecycle(self._state_dir).networks.reconcile(name):
            log.warning("network %s: mended %s", name, drift.line())


class _Kept(Struct):
    """A keeper, what it was told, and how many attachments there were then."""

    keeper: Any
    facts: tuple[Any, ...]
    count: int = 0


class Here:
    """This host as a keeper sees it (cluster.keeper.Backend)."""

    def __init__(self, state_dir: str, name: str) -> None:
        self._state_dir = state_dir
        self._name = name
        self._failed = False

    def wanted(self) -> bool:
        """Whether the network is still in the store."""
        return lifecycle(self._state_dir).store.network(self._name) is not None

    def attachments(self) -> Mapping[tuple[str, str], AttachmentEntry]:
        """What the store has attached."""
        records = lifecycle(self._state_dir).store.attachments(network=self._name)
        return {
            (record.attachment.container, record.attachment.ifname): entry_of(record.attachment, record.lease)
            for record in records
            if record.state == "attached"
        }

    def apply(self, view: Any) -> None:
        """Change the network's place to what the view says; what the kernel refused before is mended first."""
        from netdrivers.cluster import keyring
        from netdrivers.cluster.peers import identity
        from netdrivers.cluster.view import peers_of

        networks = lifecycle(self._state_dir).networks
        if self._failed:
            networks.reconcile(self._name)
        record = lifecycle(self._state_dir).store.network(self._name)
        if record is None or not record.ready:
            return
        place = _placed(record.network)
        peers = peers_of(view.hosts, identity(record.network), place.slice)
        secrets = keyring.keep(self._state_dir, self._name, view.secrets) if view.secrets else ()
        self._failed = True
        networks.change(self._name, Place(place.slice, peers, secrets, place.cluster))
        self._failed = False
        if secrets:
            keyring.drop(self._state_dir, self._name, view.secrets)

    def neighbours(self, view: Any) -> None:
        """Names of containers on other hosts, where names are switched on."""
        life = lifecycle(self._state_dir)
        record = life.store.network(self._name)
        if record is None or not text.wanted(record.network):
            return
        if elsewhere.write(self._state_dir, self._name, view.attachments, str(record.network.options["local"])):
            life.names.changed(self._name)

    def lost(self, reason: str) -> None:
        """Refuse new attachments; without any, let the network go, so that the next one gets another slice."""
        networks = lifecycle(self._state_dir).networks
        if not lifecycle(self._state_dir).store.in_network(self._name):
            networks.remove(self._name, release=False)
            return
        place = self._place()
        if place is not None:
            networks.change(self._name, Place(place.slice, place.hosts, place.secrets, place.cluster, reason))

    def _place(self) -> Place | None:
        record = lifecycle(self._state_dir).store.network(self._name)
        return _placed(record.network) if record and record.ready else None


def _placed(network: Network) -> Place:
    driver = find_driver(network.driver)
    assert spans(driver)
    place = driver.placed(network)
    assert place is not None
    return place
