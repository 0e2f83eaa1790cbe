"""What people type: published ports, namespaces, near names; and what files of any content do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netdrivers.errors import NetdriversError
from netdrivers.near import near, nearest
from netdrivers.netctl import mappings, targets
from netdrivers.netctl.linting import lint
from netdrivers.portspec import mapping

ADDRESSES = st.sampled_from(["", "127.0.0.1", "192.0.2.7", "::1", "2001:db8::7"])


@given(ADDRESSES, st.integers(1, 65000), st.integers(1, 65000), st.integers(1, 20), st.sampled_from(["tcp", "udp"]))
def test_a_mapping_is_read_as_it_is_written(ip: str, host: int, own: int, count: int, protocol: str) -> None:
    front = f"[{ip}]:" if ":" in ip else f"{ip}:" if ip else ""
    ports = [f"{first}-{first + count - 1}" if count > 1 else str(first) for first in (host, own)]
    found = mapping(f"{front}{ports[0]}:{ports[1]}/{protocol}")
    assert (found.host_ip, found.host_port, found.container_port) == (ip, host, own)
    assert (found.count, found.protocol) == (count, protocol)
    entries = mappings.cni([found])
    assert [(one["hostPort"], one["containerPort"]) for one in entries] == [(host + i, own + i) for i in range(count)]
    assert all(one.get("hostIP", "") == ip for one in entries)


@given(st.text(alphabet="0123456789:-/[].tcpud ", max_size=30))
def test_any_other_text_is_refused_and_nothing_else(text: str) -> None:
    try:
        found = mapping(text)
    except NetdriversError:
        return
    assert 1 <= found.host_port <= 65535
    assert found.host_port + found.count <= 65536


@pytest.mark.parametrize(
    ("text", "path", "container"),
    [
        ("web", "/run/netns/web", "web"),
        ("/run/netns/web", "/run/netns/web", "web"),
        ("/var/run/netns/web", "/var/run/netns/web", "web"),
        ("4711", "/proc/4711/ns/net", "pid-4711"),
        ("pid:4711", "/proc/4711/ns/net", "pid-4711"),
        ("/proc/4711/ns/net", "/proc/4711/ns/net", "pid-4711"),
    ],
)
def test_namespaces_by_every_name(text: str, path: str, container: str) -> None:
    assert targets.target(text) == targets.Target(path, container)


@given(st.text(min_size=1, max_size=40).filter(lambda text: not text.startswith("pid:")))
def test_every_spelling_gives_an_id_that_engines_could_use(text: str) -> None:
    from netdrivers.frontends.reading import check_name

    assert check_name(targets.target(text).container, "id")


def test_near_names() -> None:
    assert nearest("isgateway", ["isGateway", "ipMasq"]) == "isGateway"
    assert nearest("zzz", ["isGateway"]) is None
    assert near("shpo", ["shop", "lan"]) == "did you mean shop?"
    assert near("zzz", ["shop", "lan"]) == "there are: lan, shop"
    assert near("zzz", []) == ""


WORDS = st.sampled_from(["bridge", "host-local", "static", "10.0.0.0/24", "x", ""])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 70000) | WORDS,
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["name", "type", "plugins", "ipam", "ranges", "subnet", "mtu", "dns", "capabilities", "routes", "dst",
             "cniVersion", "runtimeConfig", "portMappings", "addresses", "address", "bridge", "vlanTrunk", "sysctl"]
        ),
        inner,
        max_size=6,
    ),
    max_leaves=20,
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(st.sampled_from(["bridge", "macvlan", "host", "none", "portmap", "tuning", "firewall"]), JSON, JSON)
def test_lint_has_an_answer_to_any_json(tmp_path: Path, kind: str, ipam: object, value: object) -> None:
    path = tmp_path / "any.conflist"
    plugin = {"type": kind, "ipam": ipam, **(value if isinstance(value, dict) else {"mtu": value})}
    for document in (value, {"name": "n", "plugins": [plugin]}, {"name": "n", **plugin}):
        path.write_text(json.dumps(document))
        for finding in lint([str(path)]):
            assert finding.message
