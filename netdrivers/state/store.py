"""The embedded store: networks, attachments, leases and host ports in SQLite, for one boot of one host.

It lives under /run and is emptied when the boot id changes: what it describes dies with the kernel.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec
from msgspec import Struct

from netdrivers import operations
from netdrivers.errors import UnknownContainer
from netdrivers.model import Attachment, Lease, Network, PortMapping, Result
from netdrivers.operations import Operations
from netdrivers.state import locks

_EXTENDING = 2
"""The value of networks.ready (else 0 or 1) while an attachment adds operations to a network."""

SCHEMA_VERSION = "3"

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE networks (
    name TEXT PRIMARY KEY, source BLOB NOT NULL, config BLOB NOT NULL, record BLOB NOT NULL,
    ready INTEGER NOT NULL, idle_since REAL
) WITHOUT ROWID;
CREATE TABLE attachments (
    key TEXT PRIMARY KEY, network TEXT NOT NULL, container TEXT NOT NULL, ifname TEXT NOT NULL,
    attachment BLOB NOT NULL, lease BLOB NOT NULL, result BLOB NOT NULL, record BLOB NOT NULL,
    state TEXT NOT NULL, inode INTEGER NOT NULL, created REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX attachments_network ON attachments (network);
CREATE INDEX attachments_container ON attachments (container);
CREATE TABLE leases (
    network TEXT, address BLOB, pool INTEGER NOT NULL, owner TEXT NOT NULL, PRIMARY KEY (network, address)
) WITHOUT ROWID;
CREATE INDEX leases_owner ON leases (owner);
-- What is free, as disjoint spans: the next free address is one look-up, however many are leased.
CREATE TABLE spans (
    network TEXT, pool INTEGER, last BLOB, first BLOB NOT NULL, PRIMARY KEY (network, pool, last)
) WITHOUT ROWID;
CREATE TABLE pools (
    network TEXT, pool INTEGER, config BLOB NOT NULL, cursor BLOB NOT NULL, PRIMARY KEY (network, pool)
) WITHOUT ROWID;
CREATE TABLE ports (
    protocol TEXT, port INTEGER, host_ip TEXT, owner TEXT NOT NULL, PRIMARY KEY (protocol, port, host_ip)
) WITHOUT ROWID;
CREATE INDEX ports_owner ON ports (owner);
-- Host links (by index) that are cut off and wait for the reaper, with the attachment that they were of.
CREATE TABLE unlinking (link INTEGER PRIMARY KEY, owner TEXT NOT NULL);
CREATE INDEX unlinking_owner ON unlinking (owner);
"""


class NetworkRecord(Struct, frozen=True):
    """A network as recorded: as asked for (source) and as settled on this host (network).

    ready is False while its operations are being applied or undone; extending is True while an
    attachment adds its own to those of a ready network.
    """

    source: Network
    network: Network
    record: bytes
    ready: bool
    idle_since: float | None
    extending: bool = False

    @property
    def operations(self) -> Operations:
        """Decoded when asked for: an add does not, however many peers the network has."""
        return operations.decode(self.record)


class AttachmentRecord(Struct, frozen=True):
    """An attachment as recorded. state: planned, attached or removing; inode: its namespace's."""

    attachment: Attachment
    lease: Lease
    result: Result
    operations: Operations
    state: str
    inode: int
    created: float


_encode = msgspec.json.Encoder().encode
_network = msgspec.json.Decoder(Network).decode
_attachment = msgspec.json.Decoder(Attachment).decode
_lease = msgspec.json.Decoder(Lease).decode
_result = msgspec.json.Decoder(Result).decode

Row = tuple[object, ...]


class Store:
    """One connection. Reads may run at any time; writes inside ``writing()``."""

    def __init__(self, directory: str) -> None:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self.directory = directory
        self.lock_path = f"{directory}/locks"
        self._db = sqlite3.connect(f"{directory}/state.db", isolation_level=None, timeout=30.0, check_same_thread=False)
        self._db.execute("PRAGMA synchronous=OFF")  # it need not outlive the kernel
        self._open()

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def _open(self) -> None:
        boot = _boot_id()
        try:
            rows = self._db.execute("SELECT key, value FROM meta").fetchall()
        except sqlite3.OperationalError:
            rows = []
        if dict(rows) == {"schema": SCHEMA_VERSION, "boot": boot}:
            return
        with locks.queued(self.lock_path, "store"):
            try:
                rows = self._db.execute("SELECT key, value FROM meta").fetchall()
            except sqlite3.OperationalError:
                rows = []
            if dict(rows) == {"schema": SCHEMA_VERSION, "boot": boot}:
                return
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("BEGIN IMMEDIATE")
            for (table,) in self._db.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            ).fetchall():
                self._db.execute(f"DROP TABLE {table}")
            for statement in _SCHEMA.split(";"):
                if statement.strip():
                    self._db.execute(statement)
            self._db.executemany("INSERT INTO meta VALUES (?, ?)", [("schema", SCHEMA_VERSION), ("boot", boot)])
            self._db.execute("COMMIT")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One write transaction; rolled back if the block raises. Writers queue on a lock, so none starves."""
        with locks.queued(self.lock_path, "store"):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    # Networks

    def network(self, name: str) -> NetworkRecord | None:
        """A network's record."""
        row = self._db.execute(
            "SELECT source, config, record, ready, idle_since FROM networks WHERE name = ?", (name,)
        ).fetchone()
        return _read_network(row) if row else None

    def network_ready(self, name: str) -> bool:
        """Whether a network is recorded and in the kernel."""
        row = self._db.execute("SELECT ready FROM networks WHERE name = ?", (name,)).fetchone()
        return bool(row and row[0])

    def networks(self) -> list[NetworkRecord]:
        """All networks, by name."""
        rows = self._db.execute("SELECT source, config, record, ready, idle_since FROM networks ORDER BY name")
        return [_read_network(row) for row in rows]

    def put_network(
        self, source: Network, network: Network, record: Operations, ready: bool, extending: bool = False
    ) -> None:
        """Record a network, as asked for and as settled, and the operations that belong to it."""
        state = _EXTENDING if extending else int(ready)
        self._db.execute(
            "INSERT INTO networks VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET source ="
            " excluded.source, config = excluded.config, record = excluded.record, ready = excluded.ready",
            (network.name, _encode(source), _encode(network), operations.encode(record), state, time.time()),
        )

    def drop_network(self, name: str) -> None:
        """Forget a network with its pools."""
        for table in ("networks", "leases", "spans", "pools"):
            column = "name" if table == "networks" else "network"
            self._db.execute(f"DELETE FROM {table} WHERE {column} = ?", (name,))

    def touch_network(self, name: str, idle: bool) -> None:
        """Note when a network's last attachment left (idle), or that it has one."""
        if idle:
            self._db.execute(
                "UPDATE networks SET idle_since = ? WHERE name = ? AND NOT EXISTS"
                " (SELECT 1 FROM attachments WHERE network = ?)",
                (time.time(), name, name),
            )
        else:
            self._db.execute("UPDATE networks SET idle_since = NULL WHERE name = ?", (name,))

    # Attachments

    _COLUMNS = "attachment, lease, result, record, state, inode, created"

    def attachment(self, key: str) -> AttachmentRecord | None:
        """An attachment's record."""
        row = self._db.execute(f"SELECT {self._COLUMNS} FROM attachments WHERE key = ?", (key,)).fetchone()
        return _read_attachment(row) if row else None

    def complete_attachment(self, key: str) -> AttachmentRecord:
        """The record of an attachment that is complete; UnknownContainer when there is none."""
        record = self.attachment(key)
        if record is None or record.state != "attached":
            raise UnknownContainer(f"no attachment {key} is recorded")
        return record

    def attachments(self, network: str | None = None, container: str | None = None) -> list[AttachmentRecord]:
        """All attachments, or those of a network, of a container, or of both; oldest first."""
        rows = self._db.execute(
            f"SELECT {self._COLUMNS} FROM attachments WHERE (?1 IS NULL OR network = ?1)"
            " AND (?2 IS NULL OR container = ?2) ORDER BY created, key",
            (network, container),
        )
        return [_read_attachment(row) for row in rows]

    def attached(self, network: str) -> list[tuple[Attachment, Lease]]:
        """Who is attached to a network, and with which addresses; oldest first."""
        rows = self._db.execute(
            "SELECT attachment, lease FROM attachments WHERE network = ? AND state = 'attached' ORDER BY created, key",
            (network,),
        )
        return [(_attachment(attachment), _lease(lease)) for attachment, lease in rows]

    def in_network(self, network: str) -> int:
        """How many attachments a network has."""
        row = self._db.execute("SELECT count(*) FROM attachments WHERE network = ?", (network,)).fetchone()
        return int(row[0])

    def put_attachment(
        self, attachment: Attachment, lease: Lease, result: Result, record: Operations, state: str, inode: int
    ) -> None:
        """Record a new attachment, before its first operation."""
        self._db.execute(
            "INSERT INTO attachments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                attachment.key,
                attachment.network,
                attachment.container,
                attachment.ifname,
                _encode(attachment),
                _encode(lease),
                _encode(result),
                operations.encode(record),
                state,
                inode,
                time.time(),
            ),
        )

    def change_attachment(self, attachment: Attachment, result: Result, record: Operations) -> None:
        """Record what an attachment has become."""
        self._db.execute(
            "UPDATE attachments SET attachment = ?, result = ?, record = ? WHERE key = ?",
            (_encode(attachment), _encode(result), operations.encode(record), attachment.key),
        )

    def set_state(self, key: str, state: str) -> None:
        """planned, attached or removing."""
        self._db.execute("UPDATE attachments SET state = ? WHERE key = ?", (state, key))

    def drop_attachment(self, key: str) -> None:
        """Forget an attachment and free what it holds."""
        self._db.execute("DELETE FROM attachments WHERE key = ?", (key,))
        self.release(key)

    def release(self, owner: str) -> None:
        """Free an attachment's addresses and host ports."""
        rows = self._db.execute("DELETE FROM leases WHERE owner = ? RETURNING network, pool, address", (owner,))
        for network, pool, address in rows.fetchall():
            if pool >= 0:
                self._give_back(network, pool, address)
        self.free_ports(owner)

    # Links that wait for the reaper

    def put_unlinking(self, links: Sequence[int], owner: str) -> None:
        """Leave links to the reaper."""
        self._db.executemany("INSERT OR REPLACE INTO unlinking VALUES (?, ?)", [(link, owner) for link in links])

    def unlinking(self, owner: str | None = None) -> list[int]:
        """Indexes of links that wait, all or those of one attachment."""
        rows = self._db.execute("SELECT link FROM unlinking WHERE ?1 IS NULL OR owner = ?1", (owner,))
        return [link for (link,) in rows]

    def unlinked(self, links: Sequence[int]) -> None:
        """Forget links that are deleted."""
        self._db.executemany("DELETE FROM unlinking WHERE link = ?", [(link,) for link in links])

    # Leases: LeaseStore of the allocator

    def set_pool(self, network: str, pool: int, spans: list[tuple[bytes, bytes]]) -> None:
        """Install what may be leased from a pool (spans in order), less what is leased; keeps the cursor."""
        config = _encode([(first.hex(), last.hex()) for first, last in spans])
        self._db.execute("DELETE FROM spans WHERE network = ? AND pool = ?", (network, pool))
        self._db.executemany(
            "INSERT INTO spans (network, pool, first, last) VALUES (?, ?, ?, ?)",
            [(network, pool, first, last) for first, last in spans],
        )
        self._db.execute(
            "INSERT INTO pools VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET config = excluded.config",
            (network, pool, config, b""),
        )
        for (address,) in self._db.execute("SELECT address FROM leases WHERE network = ?", (network,)).fetchall():
            if self._split(network, pool, address):
                self._db.execute(
                    "UPDATE leases SET pool = ? WHERE network = ? AND address = ?", (pool, network, address)
                )

    def pool_spans(self, network: str, pool: int) -> list[tuple[bytes, bytes]]:
        """What may be leased from a pool, leased or not; empty when there is no such pool."""
        row = self._db.execute("SELECT config FROM pools WHERE network = ? AND pool = ?", (network, pool)).fetchone()
        return [(bytes.fromhex(first), bytes.fromhex(last)) for first, last in _spans(row[0])] if row else []

    def next_free(self, network: str, pool: int) -> bytes | None:
        """The free address after the last one leased from a pool, wrapping around."""
        row = self._db.execute("SELECT cursor FROM pools WHERE network = ? AND pool = ?", (network, pool)).fetchone()
        cursor: bytes = row[0] if row else b""
        for after in (cursor, b""):
            span = self._db.execute(
                "SELECT first, last FROM spans WHERE network = ? AND pool = ? AND last > ? ORDER BY last LIMIT 1",
                (network, pool, after),
            ).fetchone()
            if span:
                first: bytes = span[0]
                return first if first > after else _shifted(after, 1)
        return None

    def take(self, network: str, pool: int, address: bytes, owner: str) -> str | None:
        """Lease one address; the owner when somebody holds it."""
        row = self._db.execute(
            "SELECT owner FROM leases WHERE network = ? AND address = ?", (network, address)
        ).fetchone()
        if row:
            return None if row[0] == owner else str(row[0])
        if pool >= 0:
            self._split(network, pool, address)
            self._db.execute("UPDATE pools SET cursor = ? WHERE network = ? AND pool = ?", (address, network, pool))
        self._db.execute("INSERT INTO leases VALUES (?, ?, ?, ?)", (network, address, pool, owner))
        return None

    def holder(self, network: str, address: bytes) -> str | None:
        """Who holds an address."""
        row = self._db.execute(
            "SELECT owner FROM leases WHERE network = ? AND address = ?", (network, address)
        ).fetchone()
        return str(row[0]) if row else None

    def hand_lease(self, network: str, address: bytes, owner: str) -> None:
        """Make another the holder of a leased address."""
        self._db.execute("UPDATE leases SET owner = ? WHERE network = ? AND address = ?", (owner, network, address))

    def _split(self, network: str, pool: int, address: bytes) -> bool:
        """Take one address out of the free span that holds it."""
        row = self._db.execute(
            "SELECT first, last FROM spans WHERE network = ? AND pool = ? AND last >= ? ORDER BY last LIMIT 1",
            (network, pool, address),
        ).fetchone()
        if not row or row[0] > address or len(row[0]) != len(address):
            return False
        first, last = row
        self._db.execute("DELETE FROM spans WHERE network = ? AND pool = ? AND last = ?", (network, pool, last))
        parts = []
        if first < address:
            parts.append((network, pool, first, _shifted(address, -1)))
        if address < last:
            parts.append((network, pool, _shifted(address, 1), last))
        self._db.executemany("INSERT INTO spans (network, pool, first, last) VALUES (?, ?, ?, ?)", parts)
        return True

    def _give_back(self, network: str, pool: int, address: bytes) -> None:
        """Make an address free again, joined with its free neighbours."""
        if not any(first <= address <= last for first, last in self.pool_spans(network, pool)):
            return
        first = last = address
        before = self._db.execute(
            "SELECT first FROM spans WHERE network = ? AND pool = ? AND last = ?",
            (network, pool, _shifted(address, -1)),
        ).fetchone()
        if before:
            first = before[0]
            self._db.execute(
                "DELETE FROM spans WHERE network = ? AND pool = ? AND last = ?",
                (network, pool, _shifted(address, -1)),
            )
        after = self._db.execute(
            "SELECT first, last FROM spans WHERE network = ? AND pool = ? AND last > ? ORDER BY last LIMIT 1",
            (network, pool, address),
        ).fetchone()
        if after and after[0] == _shifted(address, 1):
            last = after[1]
            self._db.execute("DELETE FROM spans WHERE network = ? AND pool = ? AND last = ?", (network, pool, last))
        self._db.execute(
            "INSERT INTO spans (network, pool, first, last) VALUES (?, ?, ?, ?)", (network, pool, first, last)
        )

    def leases(self, network: str) -> list[tuple[bytes, str]]:
        """(address, owner's key) of a network, in order."""
        return self._db.execute(
            "SELECT address, owner FROM leases WHERE network = ? ORDER BY address", (network,)
        ).fetchall()

    # Host ports

    def reserve_ports(self, mapping: PortMapping, host_ip: str, owner: str) -> tuple[int, str] | None:
        """Reserve a mapping's host ports on one address ("0.0.0.0" and "::" are all of a family).

        The first port that somebody holds, and the holder's key; None when all are reserved now.
        """
        last = mapping.host_port + mapping.count - 1
        rows = self._db.execute(
            "SELECT port, host_ip, owner FROM ports WHERE protocol = ? AND port BETWEEN ? AND ? ORDER BY port",
            (mapping.protocol, mapping.host_port, last),
        )
        wild = "::" if ":" in host_ip else "0.0.0.0"
        for port, address, holder in rows:
            if address in (host_ip, wild) or (host_ip == wild and (":" in address) == (":" in wild)):
                return port, holder
        self._db.executemany(
            "INSERT INTO ports VALUES (?, ?, ?, ?)",
            [(mapping.protocol, port, host_ip, owner) for port in range(mapping.host_port, last + 1)],
        )
        return None

    def free_ports(self, owner: str) -> None:
        """Free all host ports of an attachment."""
        self._db.execute("DELETE FROM ports WHERE owner = ?", (owner,))

    def some_ports(self, limit: int) -> list[tuple[str, int, str, str]]:
        """(protocol, port, host ip, owner's key) of some reserved host ports, at most ``limit``."""
        return self._db.execute("SELECT protocol, port, host_ip, owner FROM ports LIMIT ?", (limit,)).fetchall()

    def service_pid(self) -> int | None:
        """The process of the service on this state directory, None when there is none."""
        try:
            with open(f"{self.directory}/service.lock", encoding="ascii") as file:
                return int(file.read())
        except (OSError, ValueError):
            return None

    def ports(self) -> list[tuple[str, int, str, str]]:
        """(protocol, port, host ip, owner's key) of every reserved host port."""
        return self._db.execute("SELECT protocol, port, host_ip, owner FROM ports ORDER BY port, protocol").fetchall()


def _shifted(address: bytes, by: int) -> bytes:
    """The address before or after; saturates at the family's ends."""
    limit = (1 << (len(address) * 8)) - 1
    return min(max(int.from_bytes(address, "big") + by, 0), limit).to_bytes(len(address), "big")


_spans = msgspec.json.Decoder(list[tuple[str, str]]).decode


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def _read_network(row: tuple[bytes, bytes, bytes, int, float | None]) -> NetworkRecord:
    source, config, record, state, idle_since = row
    return NetworkRecord(_network(source), _network(config), record, bool(state), idle_since, state == _EXTENDING)


def _read_attachment(row: tuple[bytes, bytes, bytes, bytes, str, int, float]) -> AttachmentRecord:
    attachment, lease, result, record, state, inode, created = row
    return AttachmentRecord(
        _attachment(attachment), _lease(lease), _result(result), operations.decode(record), state, inode, created
    )
