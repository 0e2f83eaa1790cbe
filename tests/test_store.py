"""The embedded store: leases and spans, ports, records, another boot, and how its cost grows."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from netdrivers.model import Attachment, Ipam, Lease, LeasedAddress, Network, Pool, PortMapping, Range, Result
from netdrivers.operations import Bridge, Masquerade, Veth
from netdrivers.state import store as store_room
from netdrivers.state.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store of its own."""
    made = Store(str(tmp_path / "state"))
    yield made
    made.close()


def packed(text: str) -> bytes:
    """Four bytes of an address."""
    return IPv4Address(text).packed


def spans(store: Store) -> list[tuple[str, str]]:
    """The free spans of pool 0 of network n."""
    rows = store._db.execute("SELECT first, last FROM spans WHERE network = 'n' AND pool = 0 ORDER BY last").fetchall()
    return [(str(IPv4Address(first)), str(IPv4Address(last))) for first, last in rows]


NETWORK = Network("n", "bridge", {"bridge": "br0"}, Ipam("host-local", (Pool((Range("10.0.0.0/24"),)),)))


def attachment(container: str) -> Attachment:
    """An attachment to network n."""
    return Attachment("n", "bridge", container, "eth0", netns="/run/netns/x", ports=(PortMapping("tcp", 80, 8080),))


def test_leases_split_and_join_what_is_free(store: Store) -> None:
    with store.writing():
        store.set_pool("n", 0, [(packed("10.0.0.2"), packed("10.0.0.9"))])
        assert store.take("n", 0, packed("10.0.0.5"), "a") is None
        assert spans(store) == [("10.0.0.2", "10.0.0.4"), ("10.0.0.6", "10.0.0.9")]
        assert store.take("n", 0, packed("10.0.0.6"), "b") is None
        assert store.take("n", 0, packed("10.0.0.2"), "c") is None
        assert spans(store) == [("10.0.0.3", "10.0.0.4"), ("10.0.0.7", "10.0.0.9")]
        assert store.take("n", 0, packed("10.0.0.5"), "b") == "a"
        assert store.take("n", 0, packed("10.0.0.5"), "a") is None, "one's own lease is no conflict"
        for owner in "abc":
            store.release(owner)
        assert spans(store) == [("10.0.0.2", "10.0.0.9")]


def test_a_changed_pool_keeps_what_is_leased(store: Store) -> None:
    with store.writing():
        store.set_pool("n", 0, [(packed("10.0.0.2"), packed("10.0.0.9"))])
        store.take("n", 0, packed("10.0.0.3"), "a")
        store.set_pool("n", 0, [(packed("10.0.0.2"), packed("10.0.0.5"))])
        assert spans(store) == [("10.0.0.2", "10.0.0.2"), ("10.0.0.4", "10.0.0.5")]
        store.take("n", 0, packed("10.0.0.5"), "b")
        store.set_pool("n", 0, [(packed("10.0.0.2"), packed("10.0.0.4"))])
        store.release("b")
        assert spans(store) == [("10.0.0.2", "10.0.0.2"), ("10.0.0.4", "10.0.0.4")], "no longer of the pool"


def test_next_free_goes_on_and_wraps(store: Store) -> None:
    with store.writing():
        store.set_pool("n", 0, [(packed("10.0.0.2"), packed("10.0.0.4")), (packed("10.0.0.8"), packed("10.0.0.8"))])
        seen = []
        for owner in ("a", "b", "c", "d"):
            found = store.next_free("n", 0)
            assert found is not None
            store.take("n", 0, found, owner)
            seen.append(str(IPv4Address(found)))
        assert seen == ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.8"]
        assert store.next_free("n", 0) is None
        store.release("b")
        assert store.next_free("n", 0) == packed("10.0.0.3"), "wrapped around"


def test_the_ends_of_the_address_space(store: Store) -> None:
    with store.writing():
        store.set_pool("n", 0, [(b"\0" * 4, b"\0\0\0\1"), (b"\xff" * 4, b"\xff" * 4)])
        for owner in ("a", "b", "c"):
            found = store.next_free("n", 0)
            assert found is not None
            assert store.take("n", 0, found, owner) is None
        assert store.next_free("n", 0) is None
        for owner in ("a", "b", "c"):
            store.release(owner)
        assert spans(store) == [("0.0.0.0", "0.0.0.1"), ("255.255.255.255", "255.255.255.255")]


def steps(store: Store, owner: str) -> int:
    """How many steps of SQLite's machine it takes to lease one address and to free another's."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    with store.writing():
        store._db.set_progress_handler(tick, 1)
        found = store.next_free("n", 0)
        assert found is not None
        assert store.take("n", 0, found, owner) is None
        store.release(f"{owner}-earlier")
        store._db.set_progress_handler(None, 0)
    return count


def test_cost_does_not_grow_with_leases(store: Store) -> None:
    """A /8 with 100,000 leases, every other address free again in between."""
    with store.writing():
        store.set_pool("n", 0, [(packed("10.0.0.2"), packed("10.255.255.254"))])
        store.take("n", 0, packed("10.0.0.2"), "one-earlier")
    few = steps(store, "one")
    start = int(IPv4Address("10.1.0.0"))
    with store.writing():
        for step in range(100_000):
            store.take("n", 0, (start + 2 * step).to_bytes(4, "big"), f"owner{step}")
        store._db.execute("UPDATE leases SET owner = 'two-earlier' WHERE owner = 'owner50000'")
    assert len(store.leases("n")) == 100_001
    many = steps(store, "two")
    assert many <= few * 1.5, f"{few} steps on an empty pool, {many} with 100,000 leases"


def test_leases_of_another_boot_do_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Store(str(tmp_path))
    with first.writing():
        first.put_network(NETWORK, NETWORK, (), ready=True)
        first.set_pool("n", 0, [(packed("10.0.0.2"), packed("10.0.0.2"))])
        first.take("n", 0, packed("10.0.0.2"), "a")
        first.put_attachment(attachment("a"), Lease(), Result(), (), "attached", 1)
        assert first.reserve_ports(PortMapping("tcp", 80, 80), "0.0.0.0", "a") is None
    first.close()
    same = Store(str(tmp_path))
    assert same.leases("n"), "of this boot they do"
    same.close()
    monkeypatch.setattr(store_room, "_boot_id", lambda: "another boot")
    second = Store(str(tmp_path))
    assert not second.leases("n")
    assert not second.networks()
    assert not second.attachments()
    assert not second.ports()
    second.close()


def test_a_store_of_another_schema_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Store(str(tmp_path))
    with first.writing():
        first.put_network(NETWORK, NETWORK, (), ready=True)
    first.close()
    monkeypatch.setattr(store_room, "SCHEMA_VERSION", "another")
    second = Store(str(tmp_path))
    assert not second.networks()
    second.close()


def test_records_come_back_as_they_were(store: Store) -> None:
    operations = (Bridge("br0", mac="02:00:00:00:00:01", mtu=1500), Masquerade("10.0.0.0/24"))
    own = (Veth("veth1", "eth0", "02:00:00:00:00:02", "02:00:00:00:00:03", 1500),)
    lease = Lease((LeasedAddress("10.0.0.2/24", "10.0.0.1"),))
    with store.writing():
        store.put_network(NETWORK, NETWORK, operations, ready=False)
        store.put_attachment(attachment("a"), lease, Result(), own, "planned", 4711)
    network = store.network("n")
    assert network is not None
    assert (network.source, network.operations, network.ready, network.extending) == (NETWORK, operations, False, False)
    record = store.attachment("n/a/eth0/bridge")
    assert record is not None
    assert (record.attachment, record.lease, record.operations) == (attachment("a"), lease, own)
    assert (record.state, record.inode) == ("planned", 4711)
    with store.writing():
        store.put_network(NETWORK, NETWORK, operations, ready=True, extending=True)
    network = store.network("n")
    assert network is not None
    assert (network.ready, network.extending) == (True, True)


def test_what_a_failed_transaction_wrote_is_gone(store: Store) -> None:
    with pytest.raises(RuntimeError), store.writing():  # noqa: PT012
        store.put_network(NETWORK, NETWORK, (), ready=True)
        raise RuntimeError
    assert store.network("n") is None


@pytest.mark.parametrize(
    ("held", "asked", "refused"),
    [
        ("0.0.0.0", "0.0.0.0", True),
        ("0.0.0.0", "192.0.2.1", True),
        ("192.0.2.1", "0.0.0.0", True),
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("0.0.0.0", "::", False),
        ("::", "2001:db8::1", True),
        ("2001:db8::1", "::", True),
        ("2001:db8::1", "192.0.2.1", False),
    ],
)
def test_ports_conflict_where_their_addresses_meet(store: Store, held: str, asked: str, refused: bool) -> None:
    with store.writing():
        assert store.reserve_ports(PortMapping("tcp", 8080, 80, count=3), held, "holder") is None
        found = store.reserve_ports(PortMapping("tcp", 8082, 80), asked, "other")
        assert found == ((8082, "holder") if refused else None)
        assert store.reserve_ports(PortMapping("udp", 8082, 80), asked, "other") is None, "another protocol"
        assert store.reserve_ports(PortMapping("tcp", 8083, 80), asked, "other") is None, "the next port"


def test_writers_of_many_connections_take_turns(tmp_path: Path) -> None:
    """A second writer waits and does not fail with "database is locked"."""
    one = Store(str(tmp_path))
    with one.writing():
        one.set_pool("n", 0, [(packed("10.0.0.2"), packed("10.0.0.250"))])
    failures: list[BaseException] = []

    def work(owner: str) -> None:
        try:
            own = Store(str(tmp_path))
            for turn in range(10):
                with own.writing():
                    found = own.next_free("n", 0)
                    assert found is not None
                    own.take("n", 0, found, f"{owner}-{turn}")
            own.close()
        except (AssertionError, sqlite3.Error) as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(one.leases("n")) == 80
    one.close()
