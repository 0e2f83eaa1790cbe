"""Docker's plugin protocol: every recorded request answered, over HTTP as dockerd speaks it."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from netdrivers.frontends.docker.plugin import CONTENT_TYPE
from netdrivers.service.http import BODY_LIMIT, HttpServer
from tests.docker_side import DATA, GENERIC, Docker, recorded
from tests.lab import PROJECT, Host

FOLDERS = ("docker-20.10-remote", "docker-26.1-remote", "docker-20.10-managed")
KEYS = {
    "Activate": {"Implements"},
    "NetworkDriver.GetCapabilities": {"Scope", "ConnectivityScope", "GwAllocChecker"},
    "IpamDriver.GetCapabilities": {"RequiresMACAddress", "RequiresRequestReplay"},
    "GetDefaultAddressSpaces": {"LocalDefaultAddressSpace", "GlobalDefaultAddressSpace"},
    "RequestPool": {"PoolID", "Pool", "Data"},
    "RequestAddress": {"Address", "Data"},
    "AllocateNetwork": {"Options"},
    "CreateEndpoint": {"Interface"},
    "EndpointOperInfo": {"Value"},
    "Join": {"InterfaceName", "Gateway", "GatewayIPv6", "DisableGatewayService"},
}
"""What an answer of each method may hold; that of another is empty (moby, drivers/remote/api and ipams/remote/api)."""


def told(body: dict[str, Any], answers: dict[str, str]) -> dict[str, Any]:
    """A request as Docker would send it to us: with our address space and pool ids in place of the recorded stub's."""
    text = json.dumps(body).replace('"mylocal"', '"netdrivers"')
    for theirs, ours in answers.items():
        text = text.replace(theirs, ours)
    return json.loads(text)


@pytest.mark.parametrize("folder", FOLDERS)
def test_recorded_requests_are_answered(docker: Docker, folder: str) -> None:
    pools: dict[str, str] = {}
    created: list[dict[str, Any]] = []
    nobody = docker.host.snapshot()["links"]
    for name, path, body in recorded(folder):
        body = told(body, pools)
        interface, _, method = path.strip("/").partition(".")
        if method == "CreateNetwork" and body["Options"][GENERIC]:
            status, answer = docker.raw(path, body)
            assert (status, "Options.foo" in answer["Err"]) == (200, True)
            body["Options"][GENERIC] = {}
        if body.get("Options") in ({"k": "v"}, {"io": "1"}) or "x" in (body.get("Options") or {}):
            status, answer = docker.raw(path, body)
            assert (status, "not an option" in answer.get("Err", answer.get("Error", ""))) == (200, True), name
            body["Options"] = {key: value for key, value in body["Options"].items() if key.startswith("com.docker")}
        if method == "CreateEndpoint":
            for other in created:  # of another moment: the recording does not hold every deletion
                if any(other["Interface"][key] == body["Interface"][key] != "" for key in ("Address", "AddressIPv6")):
                    docker.call("DeleteEndpoint", NetworkID=other["NetworkID"], EndpointID=other["EndpointID"])
            created.append(body)
        status, answer = docker.raw(path, body)
        assert status == 200, name
        assert set(answer) <= KEYS.get(f"{interface}.{method}", KEYS.get(method, set())), (name, answer)
        if method == "RequestPool" and not body["Pool"]:
            pools |= {"mylocal/10.123.0.0/24": answer["PoolID"], "10.123.0.2": "10.192.0.2"}
    # The recordings hold only some requests of each kind, so that not every network was deleted.
    for _, path, body in recorded(folder):
        if path.endswith("CreateNetwork"):
            docker.call("DeleteNetwork", NetworkID=body["NetworkID"])
    assert docker.host.snapshot()["links"] == nobody


@pytest.mark.parametrize("folder", FOLDERS)
def test_endpoints_are_attached_as_recorded(docker: Docker, folder: str) -> None:
    requests = recorded(folder)
    networks = {body["NetworkID"]: body for _, path, body in requests if path.endswith("CreateNetwork")}
    for body in networks.values():
        if body["IPv4Data"][0]["AddressSpace"] != "mylocal":
            docker.call("CreateNetwork", **{**body, "Options": {**body["Options"], GENERIC: {}}})
    endpoints = [body for _, path, body in requests if path.endswith("CreateEndpoint")]
    assert endpoints
    for body in endpoints:
        kept = {key: value for key, value in body["Options"].items() if key.startswith("com.docker.")}
        docker.call("CreateEndpoint", **{**body, "Options": kept})
        record = docker.lifecycle.store.attachments(container=body["EndpointID"])[0]
        given = {body["Interface"]["Address"], body["Interface"]["AddressIPv6"]} - {""}
        assert {item.address for item in record.lease.addresses} == given
        link = docker.call("Join", NetworkID=body["NetworkID"], EndpointID=body["EndpointID"])["InterfaceName"]
        shown = json.loads(docker.host.run("ip", "-j", "link", "show", link["SrcName"]).stdout)[0]
        assert shown["address"] == (body["Interface"]["MacAddress"] or record.result.interfaces[-1].mac)
        docker.call("DeleteEndpoint", NetworkID=body["NetworkID"], EndpointID=body["EndpointID"])


def test_unknown_method_is_404_and_bad_json_400(docker: Docker) -> None:
    assert docker.raw("/NetworkDriver.Fly", {})[0] == 404
    assert docker.raw("/VolumeDriver.List", {})[0] == 404
    with docker.host.entered():
        assert docker.plugin.answer("/NetworkDriver.Join", b'{"NetworkID":')[0] == 400


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"NetworkID": 7},
        {"NetworkID": "n" * 64, "Options": []},
        {"NetworkID": "n" * 64, "Options": {GENERIC: "x"}},
        {"NetworkID": "n" * 64, "Options": {}, "IPv4Data": [{"Pool": "10.1.0.0/99"}]},
        {"NetworkID": "n" * 64, "Options": {}, "IPv4Data": "10.1.0.0/24"},
        {"NetworkID": "n" * 64, "EndpointID": "../../etc", "Options": {"k": "v"}},
    ],
)
@pytest.mark.parametrize(
    "method", ["CreateNetwork", "CreateEndpoint", "Join", "Leave", "DeleteEndpoint", "ProgramExternalConnectivity"]
)
def test_bad_request_is_an_error_and_changes_nothing(docker: Docker, method: str, body: dict[str, Any]) -> None:
    before = docker.host.snapshot()
    status, answer = docker.raw(f"/NetworkDriver.{method}", body)
    assert status == 200
    assert "internal error" not in answer.get("Err", "")
    assert docker.host.snapshot() == before


# Over HTTP


@contextmanager
def served(path: Path, handler: Callable[[str, bytes], tuple[int, bytes]]) -> Iterator[Callable[[], None]]:
    """An HttpServer with a blocking handler, in a loop of its own; yields what stops it."""
    loop = asyncio.new_event_loop()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    async def handle(target: str, body: bytes) -> tuple[int, bytes]:
        return await loop.run_in_executor(None, handler, target, body)

    server = HttpServer(listener, handle, CONTENT_TYPE)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(5)

    def stop() -> None:
        asyncio.run_coroutine_threadsafe(server.stop(5), loop).result(10)

    try:
        yield stop
    finally:
        stop()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)


def echo(path: str, body: bytes) -> tuple[int, bytes]:
    return 200, json.dumps({"path": path, "size": len(body)}).encode()


def connected(path: Path) -> http.client.HTTPConnection:
    """A client on a Unix socket."""
    client = http.client.HTTPConnection("plugin", timeout=10)
    client.sock = socket.socket(socket.AF_UNIX)
    client.sock.settimeout(10)
    client.sock.connect(str(path))
    return client


def answers(path: Path) -> bool:
    """Whether somebody listens."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def answer_to(path: Path, *pieces: bytes) -> tuple[int, bytes]:
    """Status and body of what raw bytes get, sent piece by piece."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        for piece in pieces:
            client.sendall(piece)
            time.sleep(0.02)
        response = http.client.HTTPResponse(client)
        response.begin()
        return response.status, response.read()


@pytest.mark.parametrize("folder", FOLDERS)
def test_recorded_bytes_are_http(tmp_path: Path, folder: str) -> None:
    with served(tmp_path / "s", echo):
        for file in sorted((DATA / folder).glob("*.req")):
            head, _, body = file.read_text().partition("\n\n")
            first, *headers = head.splitlines()
            length = next(line.partition(": ")[2] for line in headers if line.startswith("Content-Length"))
            payload = body.encode()[: int(length)]
            raw = "\r\n".join([f"{first} HTTP/1.1", *headers, "", ""]).encode() + payload
            status, answer = answer_to(tmp_path / "s", raw)
            assert (status, json.loads(answer)) == (200, {"path": first.split()[1], "size": len(payload)})


def test_one_connection_carries_many_requests(tmp_path: Path) -> None:
    with served(tmp_path / "s", echo):
        client = connected(tmp_path / "s")
        for size in (0, 1, 70_000, BODY_LIMIT):
            client.request("POST", f"/X.{size}", body=b"x" * size)
            response = client.getresponse()
            assert response.getheader("Content-Type") == CONTENT_TYPE
            assert json.loads(response.read()) == {"path": f"/X.{size}", "size": size}


def test_a_request_may_come_in_pieces(tmp_path: Path) -> None:
    raw = b"POST /X.Y HTTP/1.1\r\nHost: \r\nContent-Length: 5\r\n\r\nhello"
    with served(tmp_path / "s", echo):
        status, answer = answer_to(tmp_path / "s", *(raw[i : i + 9] for i in range(0, len(raw), 9)))
    assert (status, json.loads(answer)["size"]) == (200, 5)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /X.Y HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"POST /X.Y HTTP/1.1\r\nHost: x\r\nContent-Length: oops\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (BODY_LIMIT + 1) + b"x" * (BODY_LIMIT + 1), 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 200_000 + b"\r\n\r\n", 431),
    ],
)
def test_what_is_no_good_request_is_refused(tmp_path: Path, raw: bytes, status: int) -> None:
    with served(tmp_path / "s", echo):
        assert answer_to(tmp_path / "s", raw)[0] == status
        assert answer_to(tmp_path / "s", b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")[0] == 200


def test_stopping_lets_a_call_finish_and_closes_idle_connections(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(path: str, body: bytes) -> tuple[int, bytes]:
        begun.set()
        go_on.wait(10)
        return 200, b"{}"

    with served(tmp_path / "s", slow) as stop:
        idle, busy = connected(tmp_path / "s"), connected(tmp_path / "s")
        busy.request("POST", "/X.Y", body=b"{}")
        assert begun.wait(5)
        stopping = threading.Thread(target=stop)
        stopping.start()
        assert idle.sock.recv(1) == b""
        go_on.set()
        assert busy.getresponse().read() == b"{}"
        stopping.join(10)
        assert not stopping.is_alive()


# As the service serves it


@contextmanager
def service(host: Host, plugins: Path, data: Path, *command: str, sockets: int = 1) -> Iterator[subprocess.Popen[str]]:
    """The service on a host, when that many of its sockets in ``plugins`` answer."""
    env = host.env(NETDRIVERS_DOCKER_PLUGINS=str(plugins), NETDRIVERS_DATA_DIR=str(data))
    argv = ["nsenter", f"--net={host.path}", sys.executable, "-m", *command]
    process = subprocess.Popen(argv, env={**env, "PYTHONPATH": str(PROJECT)}, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(200):
            if process.poll() is not None or sum(map(answers, plugins.glob("*.sock"))) == sockets:
                break
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_service_serves_a_socket_for_each_driver_and_removes_them(host: Host, tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    with service(host, plugins, tmp_path / "data", "netdrivers.netctl", "serve", sockets=3):
        found = {path.stem for path in plugins.glob("*.sock")}
        assert found == {"netdrivers-bridge", "netdrivers-macvlan", "netdrivers-overlay"}
        for path in plugins.glob("*.sock"):
            assert path.stat().st_mode & 0o777 == 0o600
            client = connected(path)
            client.request("POST", "/Plugin.Activate", body=b"")
            assert json.loads(client.getresponse().read()) == {"Implements": ["NetworkDriver", "IpamDriver"]}
    assert list(plugins.glob("*.sock")) == []


def test_service_takes_the_place_of_a_killed_one_but_not_of_a_living(host: Host, tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    command = ("netdrivers.service.managed", "netdrivers-bridge")
    with service(host, plugins, tmp_path / "data", *command) as first:
        inode = os.stat(plugins / "netdrivers-bridge.sock").st_ino
        with service(host, plugins, tmp_path / "data", *command) as second:
            time.sleep(1)
            assert os.stat(plugins / "netdrivers-bridge.sock").st_ino == inode
            second.terminate()
            assert "another service has them" in second.communicate(timeout=20)[1]
        assert os.stat(plugins / "netdrivers-bridge.sock").st_ino == inode
        first.kill()
        first.wait()
        with service(host, plugins, tmp_path / "data", *command):
            client = connected(plugins / "netdrivers-bridge.sock")
            client.request("POST", "/NetworkDriver.GetCapabilities", body=b"")
            assert json.loads(client.getresponse().read())["Scope"] == "local"
