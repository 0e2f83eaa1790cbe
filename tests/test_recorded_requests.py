"""What real engines sent to a CNI executable, replayed: each is answered in the spec's form, and works."""

from __future__ import annotations

import json
from typing import Any

import pytest

from netdrivers.frontends import dispatch
from netdrivers.frontends.cni.result import VERSIONS
from netdrivers.frontends.request import Request
from tests.lab import Echo, Host, Namespace, ask, pings
from tests.recorded import DATA, Recorded, requests

FOLDERS = ("podman-4.3-cni", "buildah-1.28-cni", "containerd-1.6-ctr", "containerd-1.6-cri", "containerd-1.7-cri")
ADDS = [(folder, request) for folder in FOLDERS for request in requests(folder, "add")]


def replay(host: Host, request: Recorded, netns: Namespace | None, previous: Any = None) -> Any:
    """Send a recorded request as type bridge on this host, about a namespace of ours; the answer's JSON."""
    config = json.loads(request.stdin)
    if config.get("type"):
        config["type"] = "bridge"
    if "prevResult" in config and previous is not None:
        config["prevResult"] = previous
    env = request.env | {"NETDRIVERS_STATE_DIR": str(host.state_dir)}
    if env.get("CNI_NETNS") and netns is not None:
        env["CNI_NETNS"] = netns.path
    with host.entered():
        response = dispatch.handle(Request("bridge", (), env, json.dumps(config).encode()))
    assert response.exit_code == 0, response.stdout
    return json.loads(response.stdout) if response.stdout else None


def recorded_answer(folder: str, request: Recorded) -> Any:
    """What the plugin that was recorded answered."""
    return json.loads((DATA / folder / f"{request.name}.resp").read_text())


def shape(value: Any) -> Any:
    """A value's keys and types, without its values."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return [shape(item) for item in value] if isinstance(value, list) else type(value).__name__


@pytest.mark.parametrize(("folder", "request_"), ADDS, ids=[f"{folder}-{request.name}" for folder, request in ADDS])
def test_add_and_del_as_recorded(
    host: Host, outside: Namespace, container: Namespace, folder: str, request_: Recorded
) -> None:
    before = host.snapshot()
    answer = replay(host, request_, container)
    expected = recorded_answer(folder, request_)
    expected["interfaces"][2]["sandbox"] = container.path
    assert answer["cniVersion"] == expected["cniVersion"]
    assert shape({**answer, "dns": {}, "routes": []}) == shape({**expected, "dns": {}, "routes": []})
    assert answer["interfaces"][0]["name"] == expected["interfaces"][0]["name"], "the bridge"
    assert answer["interfaces"][2]["name"] == "eth0"
    assert answer["interfaces"][2]["sandbox"] == container.path
    assert answer["ips"][0]["gateway"] == expected["ips"][0]["gateway"]
    assert [route["dst"] for route in answer["routes"]] == ["0.0.0.0/0"]
    _works(host, outside, container, request_, answer)

    same = [r for r in requests(folder, "del") if r.env["CNI_CONTAINERID"] == request_.env["CNI_CONTAINERID"]]
    for late in same:
        assert replay(host, late, container, answer) is None
    if not same:
        env = {**request_.env, "CNI_COMMAND": "DEL"}
        assert replay(host, Recorded("del", (), env, request_.stdin), container) is None
    assert container.links() == {"lo"}
    with host.lifecycle() as lifecycle:
        lifecycle.gc_dead()
    assert host.snapshot() == before
    assert not host.rows()


def _works(host: Host, outside: Namespace, container: Namespace, request: Recorded, answer: Any) -> None:
    """The wishes of the request, seen in the container and on the wire."""
    assert container.addresses("eth0") == {answer["ips"][0]["address"]}
    assert pings(container, answer["ips"][0]["gateway"])
    args = dict(pair.split("=") for pair in filter(None, request.env["CNI_ARGS"].split(";")))
    runtime = json.loads(request.stdin).get("runtimeConfig", {})
    if "MAC" in args:
        assert args["MAC"] in container.run("ip", "link", "show", "eth0").stdout
    if "IP" in args or "ips" in runtime:
        assert container.addresses("eth0") == {"10.90.0.77/24"}
    if "dns" in runtime:
        assert answer["dns"] == {"nameservers": ["10.1.1.1"], "search": ["x.local"], "options": ["ndots:2"]}
    server = Echo(container, 80, "web")
    try:
        for mapping in runtime.get("portMappings", []):
            keys = {key.lower(): value for key, value in mapping.items()}
            if keys.get("hostip"):
                assert ask(host, keys["hostip"], keys["hostport"]).startswith("web ")
                assert ask(outside, "192.0.2.1", keys["hostport"], timeout=0.5) == "no answer"
            else:
                assert ask(outside, "192.0.2.1", keys["hostport"]) == "web 192.0.2.2"
    finally:
        server.close()


@pytest.mark.parametrize("folder", ["podman-4.3-cni", "buildah-1.28-cni"])
def test_version_as_recorded(host: Host, folder: str) -> None:
    for request in requests(folder, "version"):
        answer = replay(host, request, None)
        assert answer == {"cniVersion": json.loads(request.stdin)["cniVersion"], "supportedVersions": list(VERSIONS)}
        assert set(recorded_answer(folder, request)["supportedVersions"]) <= set(answer["supportedVersions"])


def test_every_folder_holds_requests() -> None:
    assert {folder for folder, _ in ADDS} == set(FOLDERS)
