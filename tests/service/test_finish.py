"""A background task that has work left when the service stops."""

from __future__ import annotations

import asyncio

import pytest

from netdrivers.service.background import Periodic


@pytest.mark.parametrize(("finish", "turns"), [(True, 2), (False, 1)])
def test_work_is_done_once_more_at_the_stop_if_so_asked(finish: bool, turns: int) -> None:
    async def life() -> int:
        done = 0
        first = asyncio.Event()

        async def work() -> None:
            nonlocal done
            done += 1
            first.set()

        task = Periodic("task", work, interval=1000, finish=finish)
        await task.start()
        await first.wait()
        await asyncio.sleep(0.01)
        await task.stop()
        return done

    assert asyncio.run(life()) == turns


def test_last_turn_may_fail() -> None:
    async def life() -> int:
        async def work() -> None:
            raise OSError("no")

        task = Periodic("task", work, interval=1000, finish=True)
        await task.start()
        await asyncio.sleep(0.01)
        await task.stop()
        return task.report()["failures"]

    assert asyncio.run(life()) == 2
