"""Encrypted overlay networks: only ESP between the hosts, secrets renewed while they talk, and kernels that cannot."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from netdrivers.cluster import join, layout, rotation
from netdrivers.cluster.etcd import Etcd as Client
from netdrivers.cluster.options import checked
from netdrivers.cluster.peers import identity
from netdrivers.drivers.overlay import OverlayDriver
from netdrivers.kernel.host import Kernel
from netdrivers.model import FactsQuery
from tests.lab import CniFailed, Host, Namespace
from tests.overlay_lab import Containers, Switch, World, differences, hosts_of, needs_etcd, until

SECRET = "a7" * 32


@pytest.fixture
def lacking(host: Host) -> str:
    """What this kernel lacks for encryption over IPv4."""
    with host.entered():
        return Kernel().facts(FactsQuery(encryption=True)).no_encryption[0]


@pytest.fixture
def esp(lacking: str) -> None:
    """Only where the kernel can."""
    if lacking:
        pytest.skip(f"needs esp: this kernel lacks {lacking}")


def _config(family: int = 4, **more: Any) -> dict[str, Any]:
    base = "192.0.2." if family == 4 else "2001:db8::"
    peers = [{"host": f"{base}{n}", "slice": f"10.210.{n}.0/24"} for n in (1, 2, 3)]
    return {"cniVersion": "1.1.0", "name": "shop", "type": "overlay", "vni": 7, "subnet": "10.210.0.0/16",
            "underlay": "eth0", "encrypted": True, "peers": peers, **more}  # fmt: skip


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where static networks have their secrets."""
    folder = tmp_path / "keys"
    folder.mkdir()
    monkeypatch.setenv("NETDRIVERS_KEY_DIR", str(folder))
    return folder


class Wire:
    """Counts what passes the switch: ESP, VXLAN in the clear, and everything else between hosts."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch.namespace
        self._switch.run("nft", "add", "table", "bridge", "seen")
        self._switch.run("nft", "add chain bridge seen c { type filter hook prerouting priority 0; }")
        for rule, word in (("meta l4proto esp", "esp"), ("udp dport 4789", "clear")):
            self._switch.run("nft", f'add rule bridge seen c {rule} counter comment "{word}"')

    def counts(self) -> dict[str, int]:
        """Packets so far."""
        rules = json.loads(self._switch.run("nft", "-j", "list", "table", "bridge", "seen").stdout)["nftables"]
        return {
            item["rule"]["comment"]: next(part["counter"]["packets"] for part in item["rule"]["expr"]
                                          if "counter" in part)
            for item in rules
            if "rule" in item
        }  # fmt: skip


@pytest.fixture
def containers() -> Iterator[Containers]:
    """Attached namespaces."""
    made = Containers()
    yield made
    made.close()


def test_a_kernel_that_cannot_says_what_it_lacks(lab: Callable[..., Namespace], keys: Path, lacking: str) -> None:
    if not lacking:
        pytest.skip("needs no-esp: this kernel can encrypt")
    (keys / "shop").write_text(SECRET)
    host = Switch(lab).host(1)
    before = host.snapshot()
    with pytest.raises(CniFailed, match=r"encrypted: this kernel lacks .*CONFIG_INET_ESP.*CONFIG_CRYPTO_GCM") as failed:
        host.call("overlay", "ADD", _config(), lab("c"))
    assert failed.value.code == 102
    assert host.snapshot() == before
    assert not host.rows()


@pytest.mark.parametrize("family", [4, 6])
def test_only_esp_is_seen_between_the_hosts(
    lab: Callable[..., Namespace], keys: Path, esp: None, containers: Containers, family: int
) -> None:
    (keys / "shop").write_text(SECRET)
    switch = Switch(lab)
    wire = Wire(switch)
    for number in (1, 2, 3):
        host, namespace = switch.host(number), lab(f"c{number}")
        result = host.call("overlay", "ADD", _config(family), namespace, f"c{number}")
        containers.add(namespace, result["ips"][0]["address"].partition("/")[0])
        assert differences(host) == []
        assert SECRET not in json.dumps(host.rows(), default=repr)
    assert not containers.silent(("tcp", "udp", "ping"))
    counts = wire.counts()
    assert counts["esp"] > 100
    assert counts["clear"] == 0


def test_another_secret_on_one_host_cuts_it_off(
    lab: Callable[..., Namespace], keys: Path, esp: None, containers: Containers
) -> None:
    switch = Switch(lab)
    for number, secret in ((1, SECRET), (2, "b8" * 32)):
        (keys / "shop").write_text(secret)
        namespace = lab(f"c{number}")
        result = switch.host(number).call("overlay", "ADD", _config(), namespace, f"c{number}")
        containers.add(namespace, result["ips"][0]["address"].partition("/")[0])
    assert len(containers.silent()) == 2


@needs_etcd
def test_secrets_are_renewed_while_everybody_talks(world: Callable[..., World], esp: None) -> None:
    here = world(encrypted=True)
    wire = Wire(here.switch)
    here.everybody()
    assert not here.containers.silent(("tcp", "udp", "ping"))
    network = _network(here.hosts[0])
    with here.hosts[0].entered(), Client(checked(here.config()["etcd"])) as etcd:
        who = identity(network)
        for generation in (2, 3):
            state = join.look(etcd, who)
            newest = max(state.secrets)
            assert newest == generation - 1
            etcd.transaction(_aged(who, state, newest))
            rotation.renew(etcd, who, join.look(etcd, who))
            for host in here.hosts:
                until(lambda host=host, generation=generation: _spoken(host) == {generation})
            here.settled(f"secret {generation}")
        assert 1 not in join.look(etcd, who).secrets, "a secret that nobody needs is dropped"
    assert wire.counts()["clear"] == 0
    assert [hosts_of(host) for host in here.hosts] == [["192.0.2.1", "192.0.2.2", "192.0.2.3"]] * 3


def _aged(who: join.Identity, state: join.State, generation: int) -> list[dict[str, Any]]:
    from netdrivers.cluster import messages

    old = layout.Secret(state.secrets[generation].secret, 0)
    return [messages.put(who.keys.secret(generation), layout.encode(old))]


def _network(host: Host) -> Any:
    with host.lifecycle() as life:
        record = life.store.network("shop")
        assert record is not None
        return record.network


def _spoken(host: Host) -> set[int]:
    """The generations that a host's record says its peers hold."""
    place = OverlayDriver().placed(_network(host))
    assert place is not None
    return {peer.keys for peer in place.hosts}
