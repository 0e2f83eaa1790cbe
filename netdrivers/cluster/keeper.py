"""Keeps a host's place in a network: holds the lease, follows the others' changes, tells them its own.

A session is: claim the slice (again), give the sign of life, read what there is, follow what changes. Whatever goes
wrong (etcd restarted, its leader lost, the host cut off, a certificate expired) ends it, and the next one goes on
at the revision where it ended, or with the whole state if that was compacted or etcd was put back to an older
copy. Until then the kernel stays as it is. The whole state is read again now and then, come what may.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from netdrivers.cluster import join, layout, rotation
from netdrivers.cluster import messages as wire
from netdrivers.cluster.etcd import Compacted, Etcd, Unreachable
from netdrivers.cluster.join import Identity, Lost
from netdrivers.cluster.layout import AttachmentEntry
from netdrivers.cluster.messages import Changes, Range
from netdrivers.cluster.options import EtcdOptions
from netdrivers.cluster.view import View
from netdrivers.errors import NetdriversError

log = logging.getLogger(__name__)

PAUSE_SECONDS = (0.3, 1.0)
"""Between sessions: chosen at random, so that a thousand hosts do not come back at the same moment. Twice
as long while sessions fail."""

PATIENCE_SECONDS = 15.0
"""What a call may take: an etcd that a thousand hosts ask at once is not to be asked again by all of them."""

LONG_PAUSE_SECONDS = 5.0
"""After a refusal, which will not soon be another."""

WHOLE_SECONDS = (480.0, 720.0)
"""How often the hosts are read anew although every change was followed; at random, as above."""

NEIGHBOUR_SECONDS = 0.5
"""The least time between two tellings of what is attached elsewhere."""

_BATCH = 100
"""Operations in one transaction; etcd allows 128 (--max-txn-ops)."""


class Backend(Protocol):
    """This host, as the keeper sees it. Every call may block, and raises NetdriversError for what went wrong."""

    def wanted(self) -> bool:
        """Whether the network is still on this host."""

    def attachments(self) -> Mapping[tuple[str, str], AttachmentEntry]:
        """What is attached here, by container and interface."""

    def apply(self, view: View) -> None:
        """The kernel is to lead to exactly the hosts of a view, by secrets that it holds."""

    def neighbours(self, view: View) -> None:
        """What is attached on other hosts may have changed."""

    def lost(self, reason: str) -> None:
        """This host's slice belongs to another now."""


class Keeper:
    """A thread that keeps one host's place in one network, and a second one that waits for changes.

    wanted_slice: the slice that the host's containers have addresses of. neighbours: whether it matters
    what is attached to other hosts; there may be a hundred thousand of them.
    """

    def __init__(
        self,
        who: Identity,
        options: EtcdOptions,
        backend: Backend,
        wanted_slice: str = "",
        cluster: int = 0,
        neighbours: bool = True,
    ) -> None:
        self.who = who
        self._options = options
        self._backend = backend
        self._slice = wanted_slice
        self._cluster = cluster
        self._neighbours = neighbours
        self.view = View(who.keys)
        self._inbox: queue.SimpleQueue[Changes | Exception | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._calls: Etcd | None = None
        self._lease = 0
        self._published: dict[bytes, bytes] = {}
        self._dirty = False
        self._seen = time.monotonic()
        self._whole_due = 0.0
        self._sessions = 0
        self._failures = 0
        self._error = ""
        self._thread = threading.Thread(target=self._run, name=f"etcd {who.network.name}", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def nudge(self) -> None:
        """Attachments may have changed."""
        self._inbox.put(None)

    def stop(self, withdraw: bool = False) -> None:
        """End. withdraw: take the sign of life back, as the network is no longer on this host."""
        self._stopping.set()
        self._inbox.put(None)
        if self._calls is not None and not withdraw:
            self._calls.interrupt()
        self._thread.join()
        if withdraw and self._lease:
            with contextlib.suppress(NetdriversError), Etcd(self._options) as etcd:
                etcd.revoke(self._lease)

    @property
    def alive(self) -> bool:
        """Whether it has not ended by itself, as it does when the network is gone."""
        return self._thread.is_alive()

    @property
    def slice(self) -> str:
        """The slice that it keeps."""
        return self._slice

    def report(self) -> dict[str, Any]:
        """How it goes, for people: what JSON can say."""
        calls = self._calls
        return {
            "endpoint": calls.endpoint if calls else "",
            "sessions": self._sessions,
            "revision": self.view.topology,
            "slice": self._slice,
            "hosts": len(self.view.hosts),
            "attachments": sum(len(found) for found in list(self.view.attachments.values())),
            "gone": {host: int(when) for host, when in list(self.view.gone.items())},
            "error": self._error,
        }

    # Sessions

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._failures += 1  # until a session stands
            pause = random.uniform(*PAUSE_SECONDS) * min(self._failures, 2)
            try:
                if not self._backend.wanted():
                    return
                self._session()
            except Compacted:
                self.view.complete, pause = False, 0.0
            except NetdriversError as error:
                self._say(error)
                if not isinstance(error, Unreachable):
                    pause = LONG_PAUSE_SECONDS
            except Exception:
                log.exception("network %s: the session failed; it will be tried again", self.who.network.name)
                pause = LONG_PAUSE_SECONDS
            self._calls = None
            self._stopping.wait(pause)

    def _say(self, error: NetdriversError) -> None:
        """Once for each trouble, however often it is met."""
        if str(error) != self._error:
            log.warning("network %s: %s", self.who.network.name, error)
        self._error = str(error)

    def _session(self) -> None:
        with Etcd(self._options, self._cluster, PATIENCE_SECONDS) as etcd:
            self._calls = etcd
            whole = not self.view.complete
            try:
                state = join.claim(etcd, self.who, self._slice, others=whole)
            except Lost as lost:
                self._backend.lost(str(lost))
                raise
            if state.revision < self.view.topology:
                raise Compacted
            self._cluster, self._slice = state.cluster, state.slice
            if whole:
                state = rotation.renew(etcd, self.who, state)
                self._restart(state)
            self._lease = join.announce(etcd, self.who, state, max(self.view.secrets, default=0))
            self._published = self._own(etcd)
            with self._watching():
                self._publish(etcd)
                self._sessions += 1
                self._failures = 0
                self._error = ""
                log.info("network %s: with etcd at %s", self.who.network.name, etcd.endpoint)
                self._follow(etcd)

    def _own(self, etcd: Etcd) -> dict[bytes, bytes]:
        """This host's attachments as they are in etcd; those of an earlier lease go with it."""
        base = self.who.keys.attachments_of(self.who.host)
        found = (item for page in etcd.read(base, wire.prefix_end(base)) for item in page.kvs)
        return {item.key: item.value for item in found if item.lease == self._lease}

    def _restart(self, state: join.State) -> None:
        self.view.restart(state)
        self._whole_due = time.monotonic() + random.uniform(*WHOLE_SECONDS)
        self._apply()

    def _pages(self, etcd: Etcd) -> Iterator[Range]:
        """What is attached anywhere, if it is wanted and not known yet."""
        if self._neighbours and not self.view.revision:
            yield from etcd.read(self.who.keys.attachments, wire.prefix_end(self.who.keys.attachments))

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        """Changes and the watch's end go to the inbox, from a thread of their own."""
        watch = Etcd(self._options, self._cluster, PATIENCE_SECONDS)
        inbox = self._inbox = queue.SimpleQueue()
        watched = self.who.keys.watched if self._neighbours else self.who.keys.topology
        revision = min(self.view.revision or self.view.topology, self.view.topology) + 1

        def wait() -> None:
            try:
                for changes in watch.watch(*watched, revision):
                    inbox.put(changes)
            except Exception as error:
                inbox.put(error)

        thread = threading.Thread(target=wait, name=f"watch {self.who.network.name}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            watch.interrupt()
            thread.join()
            watch.close()

    def _follow(self, etcd: Etcd) -> None:
        """Until something goes wrong, or the keeper is to stop. Meanwhile attachments are read, page by page."""
        interval = etcd.options.lease / 3
        due = time.monotonic() + interval
        news, told = self._neighbours, float("-inf")
        reading: Iterator[Range] | None = self._pages(etcd)
        pages: list[Range] = []
        while not self._stopping.is_set():
            until = min(due, told + NEIGHBOUR_SECONDS) if news else due
            changes, nudged = self._gather(0.0 if reading else max(0.0, until - time.monotonic()))
            hosts, attachments = self.view.apply(event for item in changes for event in item.events)
            if reading:
                page = next(reading, None)
                if page:
                    pages.append(page)
                else:
                    self.view.take(pages)
                    reading, pages = None, []
            if hosts:
                self._changed(etcd)
            if nudged:
                self._publish(etcd)
            news = news or attachments
            if news and not reading and time.monotonic() >= told + NEIGHBOUR_SECONDS:
                self._backend.neighbours(self.view)
                news, told = False, time.monotonic()
            if time.monotonic() >= due:
                due = time.monotonic() + interval
                self._keep_alive(etcd)

    def _gather(self, wait_seconds: float) -> tuple[list[Changes], bool]:
        """What has come in meanwhile, all of it; an exception is the session's end."""
        changes: list[Changes] = []
        nudged = False
        with contextlib.suppress(queue.Empty):
            item = self._inbox.get(timeout=wait_seconds)
            while True:
                if isinstance(item, Exception):
                    raise item
                if item is None:
                    nudged = True
                else:
                    changes.append(item)
                item = self._inbox.get_nowait()
        return changes, nudged

    def _changed(self, etcd: Etcd) -> None:
        self._apply()
        own = self.view.hosts.get(self.who.host)
        if own is None or own.slice != self._slice:  # or the word of it is still on its way
            own = join.look(etcd, self.who, self._slice, others=False).hosts.get(self.who.host)
        if own is None or own.slice != self._slice:
            raise Unreachable("this host's sign of life is gone from etcd")
        if own.keys != max(self.view.secrets, default=0):
            state = join.look(etcd, self.who, self._slice, others=False)
            join.announce(etcd, self.who, state, max(self.view.secrets, default=0))

    def _keep_alive(self, etcd: Etcd) -> None:
        if not etcd.keep_alive(self._lease, min(5.0, etcd.options.lease / 3)):
            raise Unreachable("this host's lease has ended")
        if time.monotonic() >= self._whole_due:
            self._restart(join.look(etcd, self.who, self._slice))
        elif self._dirty:
            self._apply()
        if time.monotonic() - self._seen >= join.SEEN_SECONDS:
            self._seen = time.monotonic()
            join.note_seen(etcd, self.who, self._slice)
        if self.who.settings.encrypted and rotation.due(self.view.secrets):
            rotation.renew(etcd, self.who, join.look(etcd, self.who, self._slice))

    def _apply(self) -> None:
        """The kernel follows the view; what it refuses is tried again with the next sign of life."""
        try:
            self._backend.apply(self.view)
            self._dirty = False
        except NetdriversError as error:
            self._dirty = True
            self._say(error)

    def _publish(self, etcd: Etcd) -> None:
        """What is attached here is in etcd, and what is not, is not."""
        keys, host = self.who.keys, self.who.host
        wanted = {
            keys.attachment(host, container, ifname): layout.encode(entry)
            for (container, ifname), entry in self._backend.attachments().items()
        }
        operations = [wire.delete(key) for key in self._published if key not in wanted]
        operations += [
            wire.put(key, value, self._lease) for key, value in wanted.items() if self._published.get(key) != value
        ]
        for i in range(0, len(operations), _BATCH):
            etcd.transaction(operations[i : i + _BATCH])
        self._published = wanted
