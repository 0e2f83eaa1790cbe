"""What the ipvlan driver refuses, on any kernel; what it does is in tests/vm, as few test machines have ipvlan."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab import CniFailed, Host, Namespace

CONFIG: dict[str, Any] = {
    "cniVersion": "1.1.0", "name": "lan", "type": "ipvlan", "master": "wire0",
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "192.0.2.0/24", "rangeStart": "192.0.2.10"}]]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"mode": "l4"}, "mode: 'l4' is not valid: l2, l3, l3s"),
        ({"mtu": 1501}, "mtu: 1501 is not valid: at most the master's, 1500"),
        ({"linkInContainer": True, "master": ""}, "master: ''"),
        ({"runtimeConfig": {"mac": "02:ab:00:00:00:07"}}, "mac: '02:ab:00:00:00:07' is not valid: none"),
        ({"runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 80}]}}, "portMappings: '80->80/tcp'"),
    ],
)
def test_what_ipvlan_cannot_do(
    host: Host, outside: Namespace, container: Namespace, more: dict[str, Any], words: str
) -> None:
    before = host.snapshot()
    with pytest.raises(CniFailed) as failed:
        host.call("ipvlan", "ADD", {**CONFIG, **more}, container)
    assert words in failed.value.msg
    assert failed.value.code == 7
    assert host.snapshot() == before
    assert not host.rows()


@pytest.mark.parametrize("master", ["wire9", "lo"])
def test_missing_master_is_named_with_those_there_are(
    host: Host, outside: Namespace, container: Namespace, master: str
) -> None:
    with pytest.raises(CniFailed, match=f"master: '{master}'.*there are: wire0") as failed:
        host.call("ipvlan", "ADD", {**CONFIG, "master": master}, container)
    assert failed.value.code == 102
    assert not host.rows()
