"""Messages of etcd's JSON gateway: answers as types, and the parts that transactions are made of; pure.

Source: etcd's api/etcdserverpb/rpc.proto; int64 is text in JSON, bytes are base64.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from msgspec import Struct


class Header(Struct, frozen=True):
    """What every answer begins with."""

    cluster_id: int = 0
    revision: int = 0


class KeyValue(Struct, frozen=True):
    """A key as it is; revisions are etcd's, lease is 0 for none."""

    key: bytes
    value: bytes = b""
    create_revision: int = 0
    mod_revision: int = 0
    lease: int = 0


class Range(Struct, frozen=True):
    """What a range holds; more is True when a limit cut it."""

    header: Header = Header()
    kvs: tuple[KeyValue, ...] = ()
    more: bool = False


class _Part(Struct, frozen=True):
    response_range: Range = Range()


class Outcome(Struct, frozen=True):
    """Of a transaction: whether its comparisons held, and what its operations answered."""

    header: Header = Header()
    succeeded: bool = False
    responses: tuple[_Part, ...] = ()

    def ranges(self) -> list[tuple[KeyValue, ...]]:
        """What each operation read, in their order."""
        return [part.response_range.kvs for part in self.responses]


class Event(Struct, frozen=True):
    """A change of one key."""

    kv: KeyValue
    type: str = "PUT"

    @property
    def deleted(self) -> bool:
        """Whether the key is gone."""
        return self.type == "DELETE"


class Changes(Struct, frozen=True):
    """One message of a watch: the events up to a revision, none in the first."""

    header: Header = Header()
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    events: tuple[Event, ...] = ()


def text(raw: bytes) -> str:
    """Bytes as the gateway writes them."""
    return b64encode(raw).decode()


def put(key: bytes, value: bytes, lease: int = 0) -> dict[str, Any]:
    """An operation of a transaction."""
    return {"request_put": {"key": text(key), "value": text(value), "lease": str(lease)}}


def delete(key: bytes, end: bytes = b"") -> dict[str, Any]:
    """An operation of a transaction: delete a key, or all from key up to end."""
    return {"request_delete_range": {"key": text(key), **({"range_end": text(end)} if end else {})}}


def read(key: bytes, end: bytes = b"") -> dict[str, Any]:
    """An operation of a transaction: read a key, or all from key up to end."""
    return {"request_range": {"key": text(key), **({"range_end": text(end)} if end else {})}}


def absent(key: bytes, end: bytes = b"") -> dict[str, Any]:
    """A comparison: there is no such key, or none from key up to end."""
    compare = {"target": "CREATE", "result": "EQUAL", "key": text(key), "create_revision": "0"}
    return {**compare, **({"range_end": text(end)} if end else {})}


def unchanged(key: bytes, mod_revision: int) -> dict[str, Any]:
    """A comparison: the key is as it was at a revision (0: absent)."""
    return {"target": "MOD", "result": "EQUAL", "key": text(key), "mod_revision": str(mod_revision)}


def holds(key: bytes, value: bytes) -> dict[str, Any]:
    """A comparison: the key has this value."""
    return {"target": "VALUE", "result": "EQUAL", "key": text(key), "value": text(value)}


def prefix_end(prefix: bytes) -> bytes:
    """The end of the range of all keys that begin so."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))
