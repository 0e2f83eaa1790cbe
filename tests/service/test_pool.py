"""The fair queue: turns, shares, limits, and that it notices when nothing moves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from service_harness import wait_for

from netdrivers.frontends.request import Request
from netdrivers.service.pool import FairPool
from netdrivers.service.server import queue_key


def test_keys_take_turns() -> None:
    pool = FairPool(workers=1, limit=100)
    gate, order = threading.Event(), []

    def job(name: str) -> Callable[[], None]:
        return lambda: order.append(name)

    pool.submit("gate", lambda: gate.wait(10) and None)
    wait_for(lambda: pool.running == 1)
    for name in ("a1", "a2", "a3", "b1", "b2", "c1"):
        assert pool.submit(name[0], job(name))
    gate.set()
    wait_for(lambda: len(order) == 6)
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_one_key_never_holds_all_workers() -> None:
    pool = FairPool(workers=4, limit=100)
    gate, served = threading.Event(), threading.Event()
    for _ in range(20):
        assert pool.submit("slow", lambda: gate.wait(30) and None)
    wait_for(lambda: pool.running == 3)
    assert pool.submit("other", served.set)
    assert served.wait(10)
    assert (pool.running, pool.waiting) == (3, 17)
    gate.set()
    wait_for(lambda: pool.running == pool.waiting == 0)


def test_a_full_queue_refuses() -> None:
    pool = FairPool(workers=1, limit=2)
    gate, done = threading.Event(), []
    assert pool.submit("a", lambda: gate.wait(10) and None)
    assert pool.submit("a", lambda: done.append(1))
    assert pool.submit("b", lambda: done.append(2))
    assert not pool.submit("c", lambda: done.append(3))
    gate.set()
    wait_for(lambda: len(done) == 2)
    assert pool.submit("c", lambda: done.append(3))
    wait_for(lambda: done == [1, 2, 3])


def test_drain_gives_back_what_has_not_begun() -> None:
    pool = FairPool(workers=1, limit=10)
    gate, done = threading.Event(), []
    pool.submit("a", lambda: gate.wait(10) and done.append("first"))
    wait_for(lambda: pool.running == 1)
    pool.submit("a", lambda: done.append("second"))
    jobs = pool.drain()
    gate.set()
    wait_for(lambda: done == ["first"])
    assert len(jobs) == 1
    jobs[0]()
    assert done == ["first", "second"]


def test_stuck_is_when_no_worker_moves() -> None:
    pool = FairPool(workers=2, limit=10)
    gate = threading.Event()
    assert not pool.stuck(0.0)
    pool.submit("a", lambda: gate.wait(30) and None)
    pool.submit("b", lambda: gate.wait(30) and None)
    wait_for(lambda: pool.running == 2)
    time.sleep(0.05)
    assert pool.stuck(0.01)
    assert not pool.stuck(60.0)
    gate.set()
    wait_for(lambda: not pool.stuck(0.01))


def test_every_job_is_done_once_under_load() -> None:
    pool = FairPool(workers=8, limit=10_000)
    lock, done = threading.Lock(), []

    def job(number: int) -> Callable[[], None]:
        def work() -> None:
            with lock:
                done.append(number)

        return work

    def producer(first: int) -> None:
        for number in range(first, first + 500):
            assert pool.submit(str(number % 7), job(number))

    threads = [threading.Thread(target=producer, args=(first,)) for first in range(0, 2000, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_for(lambda: len(done) == 2000)
    assert sorted(done) == list(range(2000))
    wait_for(lambda: pool.running == pool.waiting == 0)


def test_the_key_is_the_network() -> None:
    def key(stdin: bytes) -> str:
        return queue_key(Request("bridge", (), {}, stdin))

    assert key(b'{"cniVersion":"1.0.0","name":"red","type":"bridge"}') == "red"
    assert "blue" in key(b'{"container_id":"1","network":{"name":"blue","id":"2"}}')
    for other in (b"", b"{", b"[]", b'{"name":7}', b'{"network":7}', b'{"network":{"name":7}}', b"\xff", b"{}"):
        assert key(other) in ("bridge", "7")
    assert key(b'{"name":"' + b"x" * 100_000 + b'"}') == "bridge"


def test_every_worker_is_warmed_and_the_warmest_works() -> None:
    warmed: list[int] = []
    worked: list[int] = []

    def warm() -> None:
        warmed.append(threading.get_ident())
        if len(warmed) == 2:
            raise RuntimeError("one cannot be")

    pool = FairPool(4, 10, warm)
    assert len(set(warmed)) == 4
    for turn in range(1, 11):
        assert pool.submit("a", lambda: worked.append(threading.get_ident()))
        wait_for(lambda turn=turn: len(worked) == turn and pool.running == 0)
    assert len(set(worked)) == 1
