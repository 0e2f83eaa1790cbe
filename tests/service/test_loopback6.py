"""The forwarder on [::1], with real traffic, each test in a network namespace of its own."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import socket
import subprocess
import threading
from collections.abc import Awaitable, Callable

import pytest
from service_harness import wait_for

from netdrivers.service import forward_tcp, forward_udp
from netdrivers.service.loopback6 import Forwarder, Loopback6

CLONE_NEWNET = 0x40000000
TARGETS = [("127.0.0.2", 7000), ("fd00::2", 7000)]


def in_fresh_namespace(test: Callable[[], Awaitable[None]]) -> None:
    """Runs a coroutine in a thread of its own network namespace, which goes with it."""
    failed: list[BaseException] = []

    def body() -> None:
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "unshare")
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            subprocess.run(["ip", "addr", "add", "fd00::2/128", "dev", "lo", "nodad"], check=True)
            wait_for(lambda: refused(TARGETS[1]))
            asyncio.run(asyncio.wait_for(test(), 60))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def refused(target: tuple[str, int]) -> bool:
    """Whether an address is in use: the kernel routes to a new one some time after it has been added."""
    with socket.socket(socket.AF_INET6) as probe:
        return probe.connect_ex(target) == errno.ECONNREFUSED


async def echo_after_eof(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reads to the end, and only then answers: works through a forwarder that keeps half-closes."""
    writer.write(await reader.read())
    await writer.drain()
    writer.close()


async def echo_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


async def ask(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("::1", port)
    writer.write(data)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


class Echo(asyncio.DatagramProtocol):
    """Answers each datagram with the sender's port and its own words."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: tuple) -> None:
        self.transport.sendto(b"%d " % address[1] + data, address)


async def converse_udp(client: socket.socket, data: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, data)
    return await asyncio.wait_for(loop.sock_recv(client, 65535), 10)


def udp_client(port: int) -> socket.socket:
    client = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    client.setblocking(False)
    client.connect(("::1", port))
    return client


@pytest.mark.parametrize("target", TARGETS)
def test_tcp_carries_everything_and_keeps_half_closes(target: tuple[str, int]) -> None:
    async def scenario() -> None:
        server = await asyncio.start_server(echo_after_eof, *target)
        forwarder = Forwarder()
        assert forwarder.sync({("tcp", 8080): target}) == {}
        for size in (0, 1, 70_000, 5 << 20):
            data = os.urandom(size)
            assert await ask(8080, data) == data
        data = [os.urandom(200_000) for _ in range(50)]
        assert await asyncio.gather(*(ask(8080, one) for one in data)) == data
        forwarder.close()
        server.close()

    in_fresh_namespace(scenario)


def test_tcp_ends_that_stop_first_are_passed_on() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.write_eof()
        heard.append(await reader.read())
        writer.close()

    heard: list[bytes] = []

    async def scenario() -> None:
        server = await asyncio.start_server(hang_up, *TARGETS[0])
        forwarder = Forwarder()
        forwarder.sync({("tcp", 8080): TARGETS[0]})
        reader, writer = await asyncio.open_connection("::1", 8080)
        assert await reader.read() == b"bye"
        writer.write(b"last words")
        writer.write_eof()
        while not heard:
            await asyncio.sleep(0.01)
        assert heard == [b"last words"]
        forwarder.close()
        server.close()

    in_fresh_namespace(scenario)


def test_a_reader_that_does_not_read_holds_up_the_writer() -> None:
    """Bounded memory: what is in flight is what sockets and one chunk each way hold, not the 256 MiB sent."""

    async def scenario() -> None:
        started = asyncio.Event()

        async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            started.set()
            await asyncio.sleep(60)

        server = await asyncio.start_server(ignore, *TARGETS[0])
        forwarder = Forwarder()
        forwarder.sync({("tcp", 8080): TARGETS[0]})
        client = socket.socket(socket.AF_INET6)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("::1", 8080))
        await started.wait()
        sent, chunk = 0, b"x" * (1 << 20)
        while sent < 256 << 20:
            try:
                sent += await asyncio.wait_for(asyncio.to_thread(send_some, client, chunk), 10)
            except BlockingIOError:
                break
        assert sent < 64 << 20
        client.close()
        forwarder.close()
        server.close()

    def send_some(client: socket.socket, chunk: bytes) -> int:
        """Sends once there is room; BlockingIOError when there is none for a second."""
        client.settimeout(1)
        try:
            return client.send(chunk)
        except TimeoutError:
            raise BlockingIOError from None

    in_fresh_namespace(scenario)


def test_tcp_to_nobody_is_reset() -> None:
    async def scenario() -> None:
        forwarder = Forwarder()
        forwarder.sync({("tcp", 8080): TARGETS[0]})
        with pytest.raises(ConnectionError):
            await ask(8080, b"anybody?")
        forwarder.close()

    in_fresh_namespace(scenario)


def test_a_port_no_longer_wanted_ends_with_its_connections() -> None:
    async def scenario() -> None:
        server = await asyncio.start_server(echo_at_once, *TARGETS[0])
        other = await asyncio.start_server(echo_at_once, *TARGETS[1])
        forwarder = Forwarder()
        both = {("tcp", 8080): TARGETS[0], ("tcp", 8081): TARGETS[1]}
        forwarder.sync(both)
        reader, writer = await asyncio.open_connection("::1", 8080)
        staying, staying_writer = await asyncio.open_connection("::1", 8081)
        for stream, out in ((reader, writer), (staying, staying_writer)):
            out.write(b"hi")
            assert await stream.readexactly(2) == b"hi"
        forwarder.sync({("tcp", 8081): TARGETS[1]})
        with pytest.raises(ConnectionResetError):
            await reader.read()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("::1", 8080)
        staying_writer.write(b"ho")
        assert await staying.readexactly(2) == b"ho"
        assert forwarder.serving() == {("tcp", 8081): TARGETS[1]}
        assert forwarder.sync({("tcp", 8080): TARGETS[1]}) == {}  # moved to another container
        assert await ask(8080, b"moved") == b"moved"
        forwarder.close()
        server.close()
        other.close()

    in_fresh_namespace(scenario)


@pytest.mark.parametrize("target", TARGETS)
def test_udp_keeps_clients_apart(target: tuple[str, int]) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        server, _ = await loop.create_datagram_endpoint(Echo, target)
        forwarder = Forwarder()
        assert forwarder.sync({("udp", 5353): target}) == {}
        clients = [udp_client(5353) for _ in range(20)]
        ports = set()
        for turn in range(3):
            for number, client in enumerate(clients):
                port, _, words = (await converse_udp(client, b"%d.%d" % (turn, number))).partition(b" ")
                assert words == b"%d.%d" % (turn, number)
                ports.add(port)
        assert len(ports) == len(clients)
        large = os.urandom(8000)
        assert (await converse_udp(clients[0], large)).endswith(large)
        forwarder.sync({})
        with pytest.raises(ConnectionRefusedError):
            await converse_udp(clients[0], b"anybody?")
        server.close()

    in_fresh_namespace(scenario)


def test_udp_before_the_container_listens_and_after() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        forwarder = Forwarder()
        forwarder.sync({("udp", 5353): TARGETS[0]})
        client = udp_client(5353)
        for _ in range(3):
            await loop.sock_sendall(client, b"lost")
            await asyncio.sleep(0.01)
        server, _ = await loop.create_datagram_endpoint(Echo, TARGETS[0])
        assert (await converse_udp(client, b"found")).endswith(b"found")
        forwarder.close()
        server.close()

    in_fresh_namespace(scenario)


def test_udp_forgets_the_longest_silent_and_the_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward_udp, "CLIENTS", 4)
    monkeypatch.setattr(forward_udp, "IDLE", 0.2)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        server, _ = await loop.create_datagram_endpoint(Echo, TARGETS[0])
        before = len(os.listdir("/proc/self/fd"))
        port = forward_udp.UdpPort(5353, TARGETS[0])
        for number in range(10):
            with udp_client(5353) as client:
                assert (await converse_udp(client, b"%d" % number)).endswith(b" %d" % number)
        assert len(os.listdir("/proc/self/fd")) == before + 1 + 4
        while len(os.listdir("/proc/self/fd")) > before + 1:
            await asyncio.sleep(0.05)
        port.close()
        assert len(os.listdir("/proc/self/fd")) == before
        server.close()

    in_fresh_namespace(scenario)


def test_connections_beyond_the_limit_are_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward_tcp, "CONNECTIONS", 2)

    async def scenario() -> None:
        server = await asyncio.start_server(echo_at_once, *TARGETS[0])
        forwarder = Forwarder()
        forwarder.sync({("tcp", 8080): TARGETS[0]})
        held = [await asyncio.open_connection("::1", 8080) for _ in range(2)]
        for reader, writer in held:
            writer.write(b"hi")
            assert await reader.readexactly(2) == b"hi"
        with pytest.raises(ConnectionError):
            await ask(8080, b"one too many")
        held[0][1].write_eof()
        assert await held[0][0].read() == b""
        while True:  # its place is free as soon as the relay has noticed
            try:
                assert await ask(8080, b"next") == b"next"
                break
            except ConnectionError:
                await asyncio.sleep(0.01)
        for _, writer in held:
            writer.close()
        forwarder.close()
        server.close()

    in_fresh_namespace(scenario)


def test_what_cannot_be_served_is_named_and_tried_again() -> None:
    async def scenario() -> None:
        holder = socket.create_server(("::1", 8080), family=socket.AF_INET6)
        forwarder = Forwarder(limit=2)
        wanted = {("tcp", 8080): TARGETS[0], ("sctp", 9): TARGETS[0]}
        failed = forwarder.sync(wanted)
        assert set(failed) == set(wanted)
        assert "in use" in failed["tcp", 8080]
        assert "sctp" in failed["sctp", 9]
        holder.close()
        assert set(forwarder.sync(wanted)) == {("sctp", 9)}
        more = {("tcp", port): TARGETS[0] for port in (8080, 8081, 8082)}
        assert set(forwarder.sync(more)) == {("tcp", 8082)}
        forwarder.close()
        assert forwarder.serving() == {}

    in_fresh_namespace(scenario)


def test_the_task_follows_what_is_wanted() -> None:
    async def scenario() -> None:
        wanted: dict = {}
        turns = []

        def ask_store() -> dict:
            turns.append(1)
            if len(turns) == 2:
                raise RuntimeError("the store is away for a moment")
            return dict(wanted)

        async def until(condition: Callable[[], bool]) -> None:
            while not condition():
                await asyncio.sleep(0.005)

        server = await asyncio.start_server(echo_after_eof, *TARGETS[0])
        task = Loopback6(ask_store, interval=30, settle=0.0)
        await task.start()
        await until(lambda: task.report()["runs"] == 1)
        task.nudge()
        await until(lambda: task.report()["failures"] == 1)
        wanted["tcp", 8080] = TARGETS[0]
        wanted["sctp", 9] = TARGETS[0]
        task.nudge()
        await until(lambda: bool(task.report()["serving"]))
        assert task.report()["serving"] == {"tcp 8080": "127.0.0.2 7000"}
        assert list(task.report()["failed"]) == ["sctp 9"]
        assert await ask(8080, b"through") == b"through"
        await task.stop()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("::1", 8080)
        server.close()

    in_fresh_namespace(scenario)
