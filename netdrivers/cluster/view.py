"""What a host knows of its network from etcd: who is alive, what is attached where, which secrets there are."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from netdrivers.cluster import layout, slices
from netdrivers.cluster.join import Identity, State
from netdrivers.cluster.layout import HostEntry, Keys, Secret
from netdrivers.cluster.messages import Event, KeyValue, Range
from netdrivers.drivers.spanning import Peer


class View:
    """Kept up to date from one state and the events after it.

    topology and revision: up to which revision hosts and secrets are known, and attachments; 0 before
    they were read. hosts, secrets: as in join.State. attachments: values by host and by the rest of
    their keys, undecoded: there may be many. gone: when a host was seen to leave (seconds since the
    epoch). complete: False when a state is to be read before any more events.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self.complete = False
        self.topology = self.revision = 0
        self.hosts: dict[str, HostEntry] = {}
        self.secrets: dict[int, Secret] = {}
        self.attachments: dict[str, dict[bytes, bytes]] = {}
        self.gone: dict[str, float] = {}
        self._early: list[Event] = []

    def restart(self, state: State) -> None:
        """Take hosts and secrets from a state. If that was needed, attachments are to be read anew, too."""
        for host in self.hosts:
            if host not in state.hosts:
                self.gone.setdefault(host, time.time())
        self.hosts, self.secrets, self.topology = state.hosts, state.secrets, state.revision
        if not self.complete:
            self.complete, self.revision, self._early = True, 0, []

    def take(self, pages: Sequence[Range]) -> None:
        """All attachments, as of the revision of the first page, and the events that came meanwhile."""
        if not pages:
            return
        self.attachments = {}
        for page in pages:
            for item in page.kvs:
                self._attachment(item, deleted=False)
        self.revision = pages[0].header.revision
        early, self._early = self._early, []
        self.apply(early)

    def apply(self, events: Iterable[Event]) -> tuple[bool, bool]:
        """Take events in; whether hosts or secrets changed, and whether attachments did.

        Those that a state knew already change nothing.
        """
        changed = attachments = False
        latest = 0
        for event in events:
            latest = max(latest, event.kv.mod_revision)
            if not event.kv.key.startswith(self._keys.attachments):
                if event.kv.mod_revision > self.topology:
                    changed |= self._topology_event(event)
            elif not self.revision:
                self._early.append(event)
            elif event.kv.mod_revision > self.revision:
                self._attachment(event.kv, event.deleted)
                attachments = True
        self.topology = max(self.topology, latest)
        self.revision = max(self.revision, latest) if self.revision else 0
        return changed, attachments

    def _attachment(self, item: KeyValue, deleted: bool) -> None:
        host, _, rest = item.key[len(self._keys.attachments) :].partition(b"/")
        of_host = self.attachments.setdefault(host.decode(), {})
        if deleted:
            of_host.pop(rest, None)
        else:
            of_host[rest] = item.value

    def _topology_event(self, event: Event) -> bool:
        key = event.kv.key
        if key.startswith(self._keys.hosts):
            host = key[len(self._keys.hosts) :].decode()
            entry = None if event.deleted else layout.decoded(event.kv.value, HostEntry)
            if entry is None:
                self.gone[host] = time.time()
                return self.hosts.pop(host, None) is not None
            self.gone.pop(host, None)
            before, self.hosts[host] = self.hosts.get(host), entry
            return bool(before != entry)
        generation = int(key[len(self._keys.keys) :])
        secret = None if event.deleted else layout.decoded(event.kv.value, Secret)
        if secret is None:
            return bool(self.secrets.pop(generation, None))
        self.secrets[generation] = secret
        return True


def peers_of(hosts: Mapping[str, HostEntry], who: Identity, mine: str) -> tuple[Peer, ...]:
    """The hosts that are alive, by address. mine: the slice of the host that asks.

    Whoever may write to etcd is trusted, but not with our kernel: what is no host of this underlay with a
    slice of this network, and of its own, is left out.
    """
    settings, owners = who.settings, {mine: who.host}
    bits = 128 if ":" in who.host else 32
    found = []
    for host, entry in sorted(hosts.items()):
        address = slices.number(host)
        if address is None or address[1] != bits or owners.setdefault(entry.slice, host) != host:
            continue
        if slices.is_slice(entry.slice, settings.subnet, settings.slice_prefix):
            found.append(Peer(host, entry.slice, entry.keys))
    return tuple(found)
