"""Background tasks: started, nudged by calls, reported and stopped by the server; Periodic's turns."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from service_harness import OWN_SPACE

from netdrivers.frontends.request import Request, Response
from netdrivers.launcher import wire
from netdrivers.service import client
from netdrivers.service.background import Periodic, in_thread
from netdrivers.service.listener import claim
from netdrivers.service.server import Server


class Recorder:
    """A task that notes what it is told."""

    name = "recorder"

    def __init__(self) -> None:
        self.heard: list[str] = []

    async def start(self) -> None:
        self.heard.append("start")

    async def stop(self) -> None:
        self.heard.append("stop")

    def nudge(self) -> None:
        self.heard.append("nudge")

    def report(self) -> dict[str, Any]:
        return {"heard": len(self.heard)}


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def test_the_server_runs_its_tasks(state_dir: Path) -> None:
    from test_server import converse

    def one_call() -> int:
        with OWN_SPACE.open() as own:
            body = wire.pack_run("0.0", "bridge", [], [], b"")
            assert converse(state_dir, wire.pack_frame(wire.RUN, body), (own.fileno(),))[0] == wire.DECLINED
            body = wire.pack_run(client.status(state_dir).version, "bridge", [], [], b"")
            return converse(state_dir, wire.pack_frame(wire.RUN, body), (own.fileno(),))[0]

    async def scenario() -> None:
        claimed = claim(state_dir, 10)
        task = Recorder()
        server = Server(claimed.listener, lambda request: Response(0), workers=1, tasks=[task])
        await server.start()
        assert task.heard == ["start"]
        assert await asyncio.to_thread(one_call) == wire.ANSWER
        await until(lambda: len(task.heard) > 1)
        status = await asyncio.to_thread(client.status, state_dir)
        assert status.tasks == {"recorder": {"heard": 2}}
        await server.stop()
        claimed.release()
        assert task.heard == ["start", "nudge", "stop"]

    asyncio.run(scenario())


def test_the_handler_runs_outside_the_loop(state_dir: Path) -> None:
    from test_server import converse, run_frame

    seen: list[Request] = []

    def handler(request: Request) -> Response:
        seen.append(request)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return Response(300, b"outside")
        return Response(1)

    async def scenario() -> None:
        claimed = claim(state_dir, 10)
        server = Server(claimed.listener, handler, workers=1)
        await server.start()
        with OWN_SPACE.open() as own:
            kind, body = await asyncio.to_thread(converse, state_dir, run_frame(), (own.fileno(),))
        assert (kind, wire.unpack_answer(body)) == (wire.ANSWER, (300, b"outside", b""))
        await server.stop()
        claimed.release()

    asyncio.run(scenario())
    assert [request.args for request in seen] == [("hello",)]


def test_periodic_comes_back_by_itself_and_after_failures() -> None:
    async def scenario() -> None:
        turns: list[int] = []

        def work() -> None:
            turns.append(1)
            if len(turns) == 2:
                raise RuntimeError("once")

        task = Periodic("p", in_thread(work), interval=0.01)
        await task.start()
        await until(lambda: len(turns) >= 4)
        report = task.report()
        assert (report["failures"], report["error"]) == (1, "")
        await task.stop()
        after = len(turns)
        await asyncio.sleep(0.05)
        assert len(turns) == after

    asyncio.run(scenario())


def test_periodic_takes_many_nudges_as_one_and_never_overlaps() -> None:
    async def scenario() -> None:
        turns, busy = [], []

        async def work() -> None:
            assert not busy
            busy.append(1)
            await asyncio.sleep(0.02)
            busy.pop()
            turns.append(1)

        task = Periodic("p", work, interval=60, settle=0.05)
        await task.start()
        await until(lambda: len(turns) == 1)
        for _ in range(100):
            task.nudge()
        await until(lambda: len(turns) == 2)
        task.nudge()
        await until(lambda: len(turns) == 3)
        await asyncio.sleep(0.2)
        assert len(turns) == 3
        assert task.report()["failures"] == 0
        await task.stop()

    asyncio.run(scenario())
