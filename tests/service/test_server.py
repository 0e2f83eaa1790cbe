"""The service process seen from outside: who may use it, how it starts, ends and survives."""

from __future__ import annotations

import array
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from service_harness import OWN_SPACE, REPO, ServiceProcess, call, facts, wait_for

from netdrivers import __version__
from netdrivers.errors import Conflict
from netdrivers.launcher import build, wire
from netdrivers.service import client
from netdrivers.service.listener import claim

Start = Callable[..., ServiceProcess]


@pytest.fixture(scope="session")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installed C executable whose in-process path does not exist: only the service can answer."""
    path = tmp_path_factory.mktemp("server") / "bridge"
    build.write_executable(path, "bridge", "/nonexistent/python", [])
    return path


def converse(state_dir: Path, data: bytes, descriptors: tuple[int, ...] = ()) -> tuple[int, bytes]:
    """Sends bytes, and returns kind and body of what comes back; kind 0 when the service hangs up."""
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(20)
        caller.connect(str(state_dir / "service.sock"))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        with contextlib.suppress(BrokenPipeError):  # sent away before a word: the reason is there to read
            caller.sendmsg([data], rights)
        with caller.makefile("rb") as answer:
            while header := answer.read(wire.HEADER_SIZE):
                _, kind, size = wire.unpack_header(header)
                body = answer.read(size)
                if kind != wire.WORKING:
                    return kind, body
            return 0, b""


def run_frame(version: str = __version__, stdin: bytes = b"") -> bytes:
    return wire.pack_frame(wire.RUN, wire.pack_run(version, "bridge", [b"hello"], [], stdin))


def descriptors_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_status_and_stop(service: ServiceProcess, state_dir: Path) -> None:
    before = client.status(state_dir)
    assert (before.pid, before.version, before.served) == (service.process.pid, __version__, 0)
    assert before.rss > 1 << 20
    assert client.stop(state_dir).pid == service.process.pid
    assert service.process.wait(10) == 0
    assert client.status(state_dir) is None
    assert client.stop(state_dir) is None
    assert not (state_dir / "service.sock").exists()


def test_the_socket_is_for_the_owner_alone(service: ServiceProcess, state_dir: Path) -> None:
    assert (state_dir / "service.sock").stat().st_mode & 0o777 == 0o600


def test_another_user_is_sent_away_even_where_the_mode_lets_him_in(service: ServiceProcess, state_dir: Path) -> None:
    state_dir.chmod(0o777)
    (state_dir / "service.sock").chmod(0o777)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setuid(65534)
            kind, body = converse(state_dir, wire.pack_frame(wire.STOP))
            os.write(writer, b"%d %s" % (kind, body))
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as said:
        assert said.read() == b"%d user 65534 may not use it" % wire.DECLINED
    os.waitpid(child, 0)
    assert client.status(state_dir).declined == 1


def test_what_is_declined_and_why(service: ServiceProcess, state_dir: Path, namespace: Path) -> None:
    own, other = (os.open(path, os.O_RDONLY) for path in (OWN_SPACE, namespace))
    kind, body = converse(state_dir, run_frame(), (own,))
    assert kind == wire.ANSWER
    for frame, descriptors, reason in (
        (run_frame("0.0.1"), (own,), b"version"),
        (run_frame(), (), b"no network namespace"),
        (run_frame(), (other,), b"another network namespace"),
        (run_frame(), (0,), b"another network namespace"),
        (wire.pack_frame(wire.RUN, b"\xff" * 20), (own,), b"fields"),
        (wire.pack_frame(wire.RUN, b""), (own,), b"fields"),
        (wire.pack_frame(99), (own,), b"no call 99"),
        (b"NDRV\x02" + run_frame()[5:], (own,), b"protocol"),
        (run_frame()[:12] + b"\xff\xff\xff\xff", (own,), b"bytes"),
    ):
        kind, body = converse(state_dir, frame, descriptors)
        assert (kind, reason in body) == (wire.DECLINED, True), (frame, kind, body)
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"NDRV", run_frame() + b"more"):
        assert converse(state_dir, garbage, (own,))[0] == 0
    os.close(own)
    os.close(other)


def test_no_descriptor_is_kept(service: ServiceProcess, state_dir: Path, bridge: Path, namespace: Path) -> None:
    own = os.open(OWN_SPACE, os.O_RDONLY)

    def storm() -> None:
        for _ in range(20):
            facts(call(bridge, state_dir=state_dir, stdin=b"x" * 100_000, CNI_NETNS=str(namespace)))
            call(bridge, "raise", state_dir=state_dir, CNI_NETNS=str(namespace))
            converse(state_dir, run_frame("0.0.1"), (own, own))
            converse(state_dir, b"garbage of no kind", (own, own))
            with socket.socket(socket.AF_UNIX) as hasty:
                hasty.connect(str(state_dir / "service.sock"))
                hasty.sendmsg([run_frame()[:30]], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [own]))])

    storm()
    pid = service.process.pid
    wait_for(lambda: client.status(state_dir).running == 0)
    before = descriptors_of(pid)
    storm()
    wait_for(lambda: descriptors_of(pid) <= before)
    os.close(own)


def test_a_caller_that_left_is_not_served(start: Start, state_dir: Path, bridge: Path) -> None:
    start("workers=1").ready()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(call, bridge, "sleep", "1", state_dir=state_dir)
        wait_for(lambda: client.status(state_dir).running == 1)
        second = subprocess.Popen(
            [bridge, "say", "0", "", ""], env={"NETDRIVERS_STATE_DIR": str(state_dir)}, stdin=subprocess.DEVNULL
        )
        wait_for(lambda: client.status(state_dir).waiting == 1)
        second.kill()
        second.wait()
        facts(first.result())
    wait_for(lambda: client.status(state_dir).waiting == 0 == client.status(state_dir).running)
    assert client.status(state_dir).served == 1


def test_busy_beyond_the_limit(start: Start, state_dir: Path, bridge: Path) -> None:
    start("workers=1", "queue_limit=1").ready()
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(call, bridge, "sleep", "2", state_dir=state_dir)
        wait_for(lambda: client.status(state_dir).running == 1)
        waiting = pool.submit(call, bridge, "one", state_dir=state_dir)
        wait_for(lambda: client.status(state_dir).waiting == 1)
        refused = call(bridge, state_dir=state_dir, NETDRIVERS_SERVICE="require")
        assert b"busy" in refused.stdout
        assert facts(running.result())["args"] == ["sleep", "2"]
        assert facts(waiting.result())["args"] == ["one"]


def test_sigterm_lets_calls_finish_and_sends_the_rest_away(start: Start, state_dir: Path, bridge: Path) -> None:
    service = start("workers=1").ready()
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(call, bridge, "sleep", "1", state_dir=state_dir)
        wait_for(lambda: client.status(state_dir).running == 1)
        waiting = pool.submit(call, bridge, "late", state_dir=state_dir, NETDRIVERS_SERVICE="require")
        wait_for(lambda: client.status(state_dir).waiting == 1)
        service.process.send_signal(signal.SIGTERM)
        assert b"stopping" in waiting.result().stdout
        assert facts(running.result())["via"] == "service"
    assert service.process.wait(10) == 0


def test_a_call_that_never_ends_does_not_hold_up_the_end(start: Start, state_dir: Path, bridge: Path) -> None:
    service = start("grace=0.2").ready()
    caller = subprocess.Popen(
        [bridge, "sleep", "60"],
        env={"NETDRIVERS_STATE_DIR": str(state_dir)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    wait_for(lambda: client.status(state_dir).running == 1)
    service.process.terminate()
    assert service.process.wait(10) == 0
    assert caller.wait(10) == 1


def test_two_services_do_not_fight(service: ServiceProcess, start: Start, state_dir: Path) -> None:
    second = start()
    assert second.process.wait(10) != 0
    assert f"pid {service.process.pid}" in second.end()
    with pytest.raises(Conflict):
        claim(state_dir, 1)
    assert client.status(state_dir).pid == service.process.pid


def test_a_dead_service_leaves_nothing_in_the_way(service: ServiceProcess, start: Start, state_dir: Path) -> None:
    service.process.kill()
    service.process.wait()
    assert (state_dir / "service.sock").exists()
    assert client.status(state_dir) is None
    assert client.status(start().ready().state_dir).pid != service.process.pid


def test_socket_activation(start: Start, state_dir: Path, bridge: Path) -> None:
    """systemd's part is played by hand: a listening socket at descriptor 3, and LISTEN_* in the environment."""
    path = state_dir / "service.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with ThreadPoolExecutor(1) as pool:
            early = pool.submit(call, bridge, "early", state_dir=state_dir, NETDRIVERS_SERVICE="require")
            become = (
                "import os, sys; os.dup2(int(sys.argv[1]), 3); "
                "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); "
                "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
            )
            harness = str(REPO / "tests/service/service_harness.py")
            service = subprocess.Popen(
                [sys.executable, "-c", become, str(listener.fileno()), harness, str(state_dir)],
                env={**os.environ, "PYTHONPATH": str(REPO)},
                pass_fds=(listener.fileno(),),
                stderr=subprocess.DEVNULL,
            )
            assert facts(early.result())["pid"] == service.pid
        client.stop(state_dir)
        assert service.wait(10) == 0
        assert path.exists()


def test_an_activation_meant_for_another_process_is_ignored(start: Start, state_dir: Path) -> None:
    service = start(env={"LISTEN_PID": "1", "LISTEN_FDS": "1"}).ready()
    assert client.status(state_dir).pid == service.process.pid


def test_what_systemd_is_told(start: Start, state_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(state_dir / "notify"))
        manager.settimeout(15)
        service = start(env={"NOTIFY_SOCKET": str(state_dir / "notify"), "WATCHDOG_USEC": "200000"})
        words = [manager.recv(1000).decode().splitlines()[0] for _ in range(4)]
        assert words[:1] == ["READY=1"]
        assert set(words[1:]) == {"WATCHDOG=1"}
        assert client.status(state_dir).pid == service.process.pid
        service.process.terminate()
        while not manager.recv(1000).startswith(b"STOPPING=1"):
            continue
    assert service.process.wait(10) == 0


def test_a_thousand_calls_do_not_grow_it(service: ServiceProcess, state_dir: Path, bridge: Path) -> None:
    def storm(calls: int) -> int:
        with ThreadPoolExecutor(8) as pool:
            for done in pool.map(lambda i: call(bridge, str(i), state_dir=state_dir, stdin=b"y" * 2000), range(calls)):
                facts(done)
        return client.status(state_dir).rss

    before = storm(300)
    assert storm(1000) - before < 2 << 20
