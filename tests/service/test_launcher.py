"""The launchers against a live service, and without one: every kind behaves alike."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from service_harness import OWN_SPACE, ServiceProcess, call, facts, wait_for

from netdrivers.service import client


def error_of(done: subprocess.CompletedProcess[bytes]) -> dict:
    assert done.returncode == 1, done
    return json.loads(done.stdout)


def test_the_whole_call_arrives(bridge: Path, service: ServiceProcess, state_dir: Path, namespace: Path) -> None:
    stdin = b'{"name":"n1"}'
    done = call(
        bridge, "one", "", "zwö lf", state_dir=state_dir, stdin=stdin, CNI_NETNS=str(namespace), EMPTY="", ODD="a=b\nc"
    )
    got = facts(done)
    assert got["via"] == "service"
    assert got["program"] == "bridge"
    assert got["args"] == ["one", "", "zwö lf"]
    assert got["size"], got["digest"] == (len(stdin), hashlib.sha256(stdin).hexdigest())
    assert got["netns"] == os.stat(namespace).st_ino != os.stat(OWN_SPACE).st_ino
    assert got["host"] == os.stat(OWN_SPACE).st_ino
    got["env"].pop("LC_CTYPE", None)  # a Python launcher in the C locale has it (PEP 538)
    assert got["env"] == {
        "PATH": "/usr/bin:/bin",
        "NETDRIVERS_STATE_DIR": str(state_dir),
        "CNI_NETNS": str(namespace),
        "EMPTY": "",
        "ODD": "a=b\nc",
    }


@pytest.mark.parametrize("size", [0, 65536, 1 << 20, (5 << 20) + 1])
def test_input_of_any_size(bridge: Path, service: ServiceProcess, state_dir: Path, size: int) -> None:
    stdin = os.urandom(size)
    for mode, via in (("require", "service"), ("off", "in-process")):
        got = facts(call(bridge, state_dir=state_dir, stdin=stdin, NETDRIVERS_SERVICE=mode))
        assert (got["via"], got["size"], got["digest"]) == (via, size, hashlib.sha256(stdin).hexdigest())


def test_outputs_and_exit_code_come_back(bridge: Path, service: ServiceProcess, state_dir: Path) -> None:
    done = call(bridge, "say", "42", "out", "err", state_dir=state_dir)
    assert (done.returncode, done.stdout, done.stderr) == (42, b"out", b"err")
    assert len(call(bridge, "big", str(3 << 20), state_dir=state_dir).stdout) == 3 << 20


def test_bytes_that_are_no_text_survive(bridge: Path, service: ServiceProcess, state_dir: Path) -> None:
    done = call(bridge, "say", "0", os.fsdecode(b"\xff\xfe"), "", state_dir=state_dir)
    assert done.stdout == b"\xff\xfe"


def test_a_path_that_is_no_namespace_is_not_passed_on(
    bridge: Path, service: ServiceProcess, state_dir: Path, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in ("", "/nonexistent", "/etc/passwd", str(fifo), "/proc/self/ns/mnt"):
        assert facts(call(bridge, state_dir=state_dir, CNI_NETNS=path))["netns"] == 0


def test_a_plugin_names_the_namespace_by_argument(
    plugin: Path, service: ServiceProcess, state_dir: Path, namespace: Path
) -> None:
    for verb in ("setup", "teardown"):
        assert facts(call(plugin, verb, str(namespace), state_dir=state_dir))["netns"] == os.stat(namespace).st_ino
    assert facts(call(plugin, "create", str(namespace), state_dir=state_dir))["netns"] == 0


def test_info_does_not_wait_for_input(plugin: Path, service: ServiceProcess, state_dir: Path) -> None:
    reader, writer = os.pipe()
    done = subprocess.run(
        [plugin, "info"],
        stdin=reader,
        env={"NETDRIVERS_STATE_DIR": str(state_dir)},
        capture_output=True,
        timeout=30,
        check=False,
    )
    os.close(writer)
    os.close(reader)
    assert facts(done)["args"] == ["info"]


def test_without_a_service_it_works_in_process(bridge: Path, state_dir: Path) -> None:
    done = call(bridge, "a", "b c", state_dir=state_dir, stdin=b"in", CNI_COMMAND="ADD")
    got = facts(done)
    assert (got["via"], got["program"], got["args"], got["size"]) == ("in-process", "bridge", ["a", "b c"], 2)
    assert got["env"]["CNI_COMMAND"] == "ADD"
    assert got["flags"] == [1, 1]
    assert got["descriptors"] == [0, 1, 2]
    assert call(bridge, "seven", state_dir=state_dir).returncode == 7


def test_off_leaves_the_service_alone(bridge: Path, service: ServiceProcess, state_dir: Path) -> None:
    assert facts(call(bridge, state_dir=state_dir, stdin=b"x", NETDRIVERS_SERVICE="off"))["via"] == "in-process"
    assert client.status(state_dir).served == 0


def test_a_strange_mode_is_auto_and_said(bridge: Path, service: ServiceProcess, state_dir: Path) -> None:
    done = call(bridge, state_dir=state_dir, NETDRIVERS_SERVICE="of")
    assert facts(done)["via"] == "service"
    assert b"NETDRIVERS_SERVICE" in done.stderr


def test_require_without_a_service_is_try_again_later(bridge: Path, state_dir: Path) -> None:
    error = error_of(call(bridge, state_dir=state_dir, stdin=b"{}", NETDRIVERS_SERVICE="require"))
    assert error["code"] == 11
    assert "No such file" in error["msg"]


def test_require_in_netavarks_form(plugin: Path, state_dir: Path) -> None:
    error = error_of(call(plugin, "create", state_dir=state_dir, stdin=b"{}", NETDRIVERS_SERVICE="require"))
    assert list(error) == ["error"]
    assert "not available" in error["error"]


def test_a_state_directory_with_too_long_a_path(bridge: Path, state_dir: Path) -> None:
    assert facts(call(bridge, state_dir=state_dir / ("x" * 200)))["via"] == "in-process"


def test_another_network_namespace_is_declined(bridge: Path, service: ServiceProcess, state_dir: Path) -> None:
    outside = ("unshare", "--net", bridge)
    env = {"PATH": "/usr/bin:/bin", "NETDRIVERS_STATE_DIR": str(state_dir)}
    done = subprocess.run(outside, input=b"abc", env=env, capture_output=True, check=False)
    assert (facts(done)["via"], facts(done)["size"]) == ("in-process", 3)
    done = subprocess.run(
        outside, input=b"", env={**env, "NETDRIVERS_SERVICE": "require"}, capture_output=True, check=False
    )
    assert "another network namespace" in error_of(done)["msg"]
    assert client.status(state_dir).declined == 2


def test_a_handler_that_raises_sends_the_caller_in_process(
    bridge: Path, service: ServiceProcess, state_dir: Path
) -> None:
    assert facts(call(bridge, "raise", state_dir=state_dir, stdin=b"abc"))["size"] == 3
    error = error_of(call(bridge, "raise", state_dir=state_dir, NETDRIVERS_SERVICE="require"))
    assert "handler failed" in error["msg"]
    assert "told to" in service.end()


def test_killed_at_work_the_caller_does_it(bridge: Path, service: ServiceProcess, state_dir: Path) -> None:
    stdin = os.urandom(1 << 20)
    got = facts(call(bridge, "die", state_dir=state_dir, stdin=stdin))
    assert service.process.wait(10) == -signal.SIGKILL
    assert (got["via"], got["digest"]) == ("in-process", hashlib.sha256(stdin).hexdigest())


def test_killed_from_outside_with_many_at_work(
    bridge: Path, start: Callable[..., ServiceProcess], state_dir: Path
) -> None:
    service = start("workers=4").ready()
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(call, bridge, "sleep", "30", str(i), state_dir=state_dir) for i in range(8)]
        wait_for(lambda: (s := client.status(state_dir)) and s.running == 3 and s.waiting == 5)
        service.process.kill()
        got = [facts(done.result()) for done in calls]
    assert {one["via"] for one in got} == {"in-process"}
    assert [one["args"][2] for one in got] == [str(i) for i in range(8)]


def test_a_frozen_service_is_given_up(bridge: Path, service: ServiceProcess, state_dir: Path) -> None:
    service.process.send_signal(signal.SIGSTOP)
    try:
        assert facts(call(bridge, state_dir=state_dir, stdin=b"abc"))["via"] == "in-process"
    finally:
        service.process.send_signal(signal.SIGCONT)


def test_a_slow_answer_is_waited_for(bridge: Path, service: ServiceProcess, state_dir: Path) -> None:
    assert facts(call(bridge, "sleep", "7", state_dir=state_dir))["via"] == "service"


def test_an_answer_too_late_is_an_error_and_not_done_twice(
    bridge: Path, service: ServiceProcess, state_dir: Path
) -> None:
    error = error_of(call(bridge, "sleep", "4", state_dir=state_dir, NETDRIVERS_SERVICE_TIMEOUT="1"))
    assert error["code"] == 11
    assert "still at work" in error["msg"]


def test_many_at_once_each_get_their_own_answer(bridge: Path, service: ServiceProcess, state_dir: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        calls = [pool.submit(call, bridge, str(i), state_dir=state_dir, stdin=b"x" * i) for i in range(100)]
        got = [facts(done.result()) for done in calls]
    assert [(one["via"], one["args"], one["size"]) for one in got] == [("service", [str(i)], i) for i in range(100)]


def test_a_service_of_another_user_is_not_trusted(bridge: Path, state_dir: Path) -> None:
    state_dir.chmod(0o777)
    ready, heard = os.pipe(), os.pipe()
    impostor = os.fork()
    if impostor == 0:
        try:
            os.setuid(65534)
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(state_dir / "service.sock"))
            listener.listen()
            os.write(ready[1], b"!")
            os.write(heard[1], b"heard: " + listener.accept()[0].recv(1 << 20))
        finally:
            os._exit(0)
    assert os.read(ready[0], 1) == b"!"
    assert facts(call(bridge, state_dir=state_dir, stdin=b"secret"))["via"] == "in-process"
    assert os.read(heard[0], 1 << 20) == b"heard: "
    os.waitpid(impostor, 0)
    for end in (*ready, *heard):
        os.close(end)


def test_answers_that_are_none(bridge: Path, state_dir: Path) -> None:
    """Whatever a broken service says, the caller ends up in-process."""
    header = b"NDRV\x01\0\0\0"
    broken = (
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        header + b"\x11\0\0\0\x04\0\0\0abcd",
        header + b"\x11\0\0\0\x0c\0\0\0" + b"\0\0\0\0\xff\xff\xff\xff\0\0\0\0",
        header + b"\x11\0\0\0\xff\xff\xff\xff",
        header + b"\x11\0\0\0\x20\0\0\0short",
        header + b"\x63\0\0\0\0\0\0\0",
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(state_dir / "service.sock"))
        listener.listen()
        for answer in broken:

            def serve(answer: bytes = answer) -> None:
                caller, _ = listener.accept()
                with caller:
                    caller.recv(1 << 20)
                    caller.sendall(answer)

            thread = threading.Thread(target=serve)
            thread.start()
            assert facts(call(bridge, state_dir=state_dir, stdin=b"abc"))["size"] == 3, answer
            thread.join()


def test_closed_standard_streams_are_harmless(bridge: Path, service: ServiceProcess, state_dir: Path) -> None:
    env = {"PATH": "/usr/bin:/bin", "NETDRIVERS_STATE_DIR": str(state_dir)}
    done = subprocess.run(["sh", "-c", '"$1" <&-', "sh", bridge], env=env, capture_output=True, check=False)
    assert (facts(done)["via"], facts(done)["size"]) == ("service", 0)
    subprocess.run(["sh", "-c", '"$1" <&- >&- 2>&-', "sh", bridge], env=env, check=False, timeout=30)
    assert client.status(state_dir).served == 2
