"""IPAM: host-local's semantics, addresses asked for, overlaps with others, and foreign executables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from netdrivers.errors import AddressTaken, ConfigError, Exhausted
from netdrivers.ipam import allocator, ranges
from netdrivers.model import Ipam, Network, Pool, Range
from netdrivers.state.store import Store
from tests.lab import CniFailed, Host, Namespace, pings

Lab = Callable[..., Namespace]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store of its own."""
    made = Store(str(tmp_path / "store"))
    yield made
    made.close()


def network(store: Store, *pools: Pool, name: str = "n") -> Network:
    """A network with completed pools, which the store knows."""
    made = Network(name, "bridge", ipam=ranges.complete(Ipam("host-local", pools)))
    with store.writing():
        for index, pool in enumerate(made.ipam.pools):
            store.set_pool(name, index, ranges.spans(pool))
    return made


def lease(store: Store, made: Network, owner: str, *asked: str) -> list[str]:
    """The addresses that an owner gets."""
    with store.writing():
        return [item.address for item in allocator.allocate(made, asked, owner, store).addresses]


def test_next_fit_goes_on_after_the_last_lease_and_wraps(store: Store) -> None:
    made = network(store, Pool((Range("10.1.0.0/29"),)))
    assert [lease(store, made, owner)[0] for owner in "abc"] == ["10.1.0.2/29", "10.1.0.3/29", "10.1.0.4/29"]
    with store.writing():
        store.release("a")
    assert lease(store, made, "d") == ["10.1.0.5/29"], "the address that was just freed waits its turn"
    assert lease(store, made, "e") == ["10.1.0.6/29"]
    assert lease(store, made, "f") == ["10.1.0.2/29"], "wrapped around"
    with pytest.raises(Exhausted, match=r"no free address in 10\.1\.0\.1-10\.1\.0\.6 of network n"):
        lease(store, made, "g")
    with store.writing():
        store.release("c")
    assert lease(store, made, "g") == ["10.1.0.4/29"]


def test_ranges_in_order_with_their_own_gateways(store: Store) -> None:
    pool = Pool(
        (
            Range("10.1.0.0/24", "10.1.0.10", "10.1.0.11"),
            Range("10.2.0.0/24", "10.2.0.254", "10.2.0.254", "10.2.0.254"),
            Range("10.3.0.0/24", "10.3.0.20", "10.3.0.20", "10.3.0.99"),
        )
    )
    made = network(store, pool)
    with store.writing():
        found = [allocator.allocate(made, (), owner, store).addresses[0] for owner in "abc"]
    assert [(item.address, item.gateway) for item in found] == [
        ("10.1.0.10/24", "10.1.0.1"),
        ("10.1.0.11/24", "10.1.0.1"),
        ("10.3.0.20/24", "10.3.0.99"),
    ]
    with pytest.raises(Exhausted):
        lease(store, made, "d")


def test_excludes_and_gateways_are_never_leased(store: Store) -> None:
    made = network(store, Pool((Range("10.1.0.0/28"),), ("10.1.0.2", "10.1.0.4-10.1.0.6", "10.1.0.8/30")))
    leased = [lease(store, made, owner)[0] for owner in "abcd"]
    assert leased == ["10.1.0.3/28", "10.1.0.7/28", "10.1.0.12/28", "10.1.0.13/28"]
    assert lease(store, made, "e") == ["10.1.0.14/28"]
    with pytest.raises(Exhausted):
        lease(store, made, "f")


def test_one_address_of_each_family(store: Store) -> None:
    made = network(store, Pool((Range("10.1.0.0/24"),)), Pool((Range("fd00::/64"),)))
    assert lease(store, made, "a") == ["10.1.0.2/24", "fd00::2/64"]
    assert lease(store, made, "b", "fd00::99") == ["10.1.0.3/24", "fd00::99/64"]


def test_asked_for_addresses(store: Store) -> None:
    made = network(store, Pool((Range("10.1.0.0/24", "10.1.0.100", "10.1.0.200"),)))
    assert lease(store, made, "a", "10.1.0.150") == ["10.1.0.150/24"]
    assert lease(store, made, "b") == ["10.1.0.151/24"], "next-fit goes on from there"
    assert lease(store, made, "c", "10.1.0.7/24") == ["10.1.0.7/24"], "of the subnet, beside the range"
    with pytest.raises(AddressTaken, match=r"address 10\.1\.0\.150 of network n is leased to a"):
        lease(store, made, "d", "10.1.0.150")
    with pytest.raises(AddressTaken, match=r"10\.1\.0\.1 is the gateway of 10\.1\.0\.0/24"):
        lease(store, made, "d", "10.1.0.1")
    for wrong in ("10.9.0.1", "fd00::1", "nonsense"):
        with pytest.raises(ConfigError, match="requested address"):
            lease(store, made, "d", wrong)
    for unusable in ("10.1.0.0", "10.1.0.255"):
        with pytest.raises(ConfigError, match=f"requested address: '{unusable}'"):
            lease(store, made, "d", unusable)
    assert [owner for _, owner in store.leases("n")] == ["c", "a", "b"], "failures lease nothing"


@pytest.mark.parametrize(
    ("part", "field"),
    [
        (Range("10.1.0.0"), "subnet"),
        (Range("10.1.0.0/33"), "subnet"),
        (Range("10.1.0.5/24"), "subnet"),
        (Range("10.1.0.0/31"), "subnet"),
        (Range("fd00::/127"), "subnet"),
        (Range("nonsense/24"), "subnet"),
        (Range("10.1.0.0/24", start="10.2.0.1"), "rangeStart"),
        (Range("10.1.0.0/24", start="10.1.0.0"), "rangeStart"),
        (Range("10.1.0.0/24", start="fd00::1"), "rangeStart"),
        (Range("10.1.0.0/24", end="10.1.0.255"), "rangeEnd"),
        (Range("10.1.0.0/24", start="10.1.0.9", end="10.1.0.8"), "rangeEnd"),
        (Range("10.1.0.0/24", gateway="10.2.0.1"), "gateway"),
        (Range("10.1.0.0/24", gateway="x"), "gateway"),
    ],
)
def test_bad_ranges_are_named(part: Range, field: str) -> None:
    with pytest.raises(ConfigError) as failed:
        ranges.complete(Ipam("host-local", (Pool((part,)),)))
    assert failed.value.field == f"ipam.ranges[0][0].{field}"
    assert repr(failed.value.value) in failed.value.message


@pytest.mark.parametrize(
    "pools",
    [
        (Pool((Range("10.1.0.0/24", end="10.1.0.100"), Range("10.1.0.0/24", start="10.1.0.100"))),),
        (Pool((Range("10.1.0.0/24"), Range("fd00::/64"))),),
        (Pool((Range("10.1.0.0/24"),)), Pool((Range("10.1.0.128/25"),))),
        (Pool(()),),
        (Pool((Range("10.1.0.0/24"),), ("10.1.0.9-10.1.0.5",)),),
        (Pool((Range("10.1.0.0/24"),), ("nonsense",)),),
        (),
    ],
)
def test_bad_range_sets_are_refused(pools: tuple[Pool, ...]) -> None:
    with pytest.raises(ConfigError, match=r"^ipam\.ranges"):
        ranges.complete(Ipam("host-local", pools))


def config(name: str, subnet: str, **more: Any) -> dict[str, Any]:
    """A bridge network on a subnet."""
    return {
        "cniVersion": "1.0.0", "name": name, "type": "bridge", "bridge": f"br-{name}", "isGateway": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": subnet}]]}, **more,
    }  # fmt: skip


@pytest.mark.parametrize("subnet", ["10.1.0.0/16", "10.1.2.0/24", "10.1.2.128/25", "10.0.0.0/8"])
def test_overlap_with_another_network_names_it(host: Host, lab: Lab, subnet: str) -> None:
    host.call("bridge", "ADD", config("first", "10.1.2.0/24"), lab("a"), "a")
    before, rows = host.snapshot(), host.rows()
    with pytest.raises(CniFailed, match=r"overlaps 10\.1\.2\.0/24 of network first") as failed:
        host.call("bridge", "ADD", config("second", subnet), lab("b"), "b")
    assert failed.value.code == 100
    assert subnet in failed.value.msg
    assert (host.snapshot(), host.rows()) == (before, rows)


def test_overlap_with_a_route_of_the_host_names_it(host: Host, outside: Namespace, container: Namespace) -> None:
    host.run("ip", "route", "add", "10.50.0.0/16", "via", "192.0.2.2")
    before = host.snapshot()
    for subnet, words in (
        ("192.0.2.128/25", "overlaps the host's route 192.0.2.0/24 on wire0"),
        ("10.50.7.0/24", "overlaps the host's route 10.50.0.0/16 on wire0"),
        ("2001:db8:1::/96", "overlaps the host's route 2001:db8:1::/64 on wire0"),
    ):
        with pytest.raises(CniFailed, match=words):
            host.call("bridge", "ADD", config("net", subnet), container)
    assert host.snapshot() == before
    assert not host.rows()
    host.call("bridge", "ADD", config("net", "10.51.0.0/16"), container)


def test_an_idle_network_may_change_its_bridge_and_subnet(host: Host, container: Namespace) -> None:
    """What the earlier configuration made is ours and no obstacle."""
    host.call("bridge", "ADD", config("net", "10.1.0.0/24"), container)
    host.call("bridge", "DEL", config("net", "10.1.0.0/24"), container)
    changed = config("net", "10.1.0.0/16", bridge="br-new", mtu=1400)
    result = host.call("bridge", "ADD", changed, container)
    assert result["ips"][0]["address"].endswith("/16")
    assert "br-net" not in host.links()
    assert pings(container, "10.1.0.1")


def test_changes_under_attached_containers(host: Host, lab: Lab) -> None:
    first, second, third = lab("first"), lab("second"), lab("third")
    host.call("bridge", "ADD", config("net", "10.1.0.0/24"), first, "first")
    before, rows = host.snapshot(), host.rows()
    with pytest.raises(CniFailed, match="network net has containers attached") as failed:
        host.call("bridge", "ADD", config("net", "10.1.0.0/24", bridge="br-new"), second, "second")
    assert failed.value.code == 100
    assert (host.snapshot(), host.rows()) == (before, rows)
    host.call("bridge", "ADD", config("net", "10.2.0.0/24", mtu=1400, isolate=True), second, "second")
    assert pings(second, "10.2.0.1")
    assert pings(first, "10.1.0.1"), "the first keeps its gateway"
    host.call("bridge", "ADD", config("net", "10.2.0.0/24"), third, "third")
    assert 'elements = { "br-net" }' not in host.run("nft", "list", "set", "inet", "netdrivers", "isolated").stdout
    for number, namespace in enumerate((first, second, third)):
        assert pings(namespace, "10.1.0.1" if number == 0 else "10.2.0.1")
    with host.lifecycle() as lifecycle:
        assert not lifecycle.reload()


def test_static_addresses_with_gateway_and_requests(host: Host, container: Namespace, lab: Lab) -> None:
    static = config("net", "unused", isDefaultGateway=True)
    static["ipam"] = {
        "type": "static",
        "addresses": [{"address": "10.1.0.9/24", "gateway": "10.1.0.1"}, {"address": "fd00:1::9/64"}],
        "routes": [{"dst": "198.51.100.0/24", "gw": "10.1.0.1"}],
        "dns": {"nameservers": ["10.1.0.1"], "search": ["example.org"]},
    }
    result = host.call("bridge", "ADD", static, container)
    assert [item["address"] for item in result["ips"]] == ["10.1.0.9/24", "fd00:1::9/64"]
    assert result["dns"] == {"nameservers": ["10.1.0.1"], "search": ["example.org"]}
    assert container.addresses("eth0") == {"10.1.0.9/24", "fd00:1::9/64"}
    assert pings(container, "10.1.0.1")
    with pytest.raises(CniFailed, match=r"10\.1\.0\.9 of network net is leased to net/c1/eth0/bridge"):
        host.call("bridge", "ADD", static, lab("other"), "other")
    empty = {**static, "ipam": {"type": "static"}, "runtimeConfig": {"ips": ["10.1.0.10/24"]}}
    result = host.call("bridge", "ADD", empty, lab("third"), "third")
    assert [item["address"] for item in result["ips"]] == ["10.1.0.10/24"]
    with pytest.raises(CniFailed, match=r"requested address: '10\.1\.0\.11'"):
        host.call("bridge", "ADD", {**empty, "runtimeConfig": {"ips": ["10.1.0.11"]}}, lab("fourth"), "fourth")


FOREIGN = """#!/bin/sh
# Writes down who called, and answers as the file of its verb says.
cat > "$LOG/stdin"
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME" >> "$LOG/calls"
[ -f "$LOG/fail-$CNI_COMMAND" ] && { cat "$LOG/fail-$CNI_COMMAND"; exit 1; }
[ "$CNI_COMMAND" = ADD ] && cat "$LOG/answer"
exit 0
"""
ANSWER = {
    "cniVersion": "1.0.0",
    "ips": [{"address": "10.77.0.5/24", "gateway": "10.77.0.1"}],
    "routes": [{"dst": "0.0.0.0/0"}],
    "dns": {"nameservers": ["10.77.0.1"]},
}


class Foreign:
    """A foreign IPAM executable on a CNI path of its own."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "bin"
        self.log = directory / "log"
        self.path.mkdir()
        self.log.mkdir()
        executable = self.path / "foreign-ipam"
        executable.write_text(FOREIGN.replace("$LOG", str(self.log)))
        executable.chmod(0o755)
        (self.log / "answer").write_text(json.dumps(ANSWER))

    def calls(self) -> list[str]:
        """What it was called with, in order; forgotten then."""
        file = self.log / "calls"
        found = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return found

    def fail(self, verb: str, answer: str) -> None:
        """Let a verb fail from now on."""
        (self.log / f"fail-{verb}").write_text(answer)

    def recover(self) -> None:
        """Let no verb fail any more."""
        for file in self.log.glob("fail-*"):
            file.unlink()


@pytest.fixture
def foreign(tmp_path: Path) -> Foreign:
    """See Foreign."""
    return Foreign(tmp_path)


def delegated() -> dict[str, Any]:
    """A network whose addresses come from the foreign executable."""
    return config("net", "unused", isDefaultGateway=True, cniVersion="1.1.0") | {
        "ipam": {"type": "foreign-ipam", "key": "kept"}
    }


def test_foreign_ipam_is_asked_around_our_own_work(host: Host, container: Namespace, foreign: Foreign) -> None:
    before = host.snapshot()
    path = f"/nowhere:{foreign.path}"
    result = host.call("bridge", "ADD", delegated(), container, cni_path=path)
    assert foreign.calls() == ["ADD c1 eth0"]
    assert json.loads((foreign.log / "stdin").read_text()) == delegated(), "the whole configuration"
    assert result["ips"] == [{"address": "10.77.0.5/24", "gateway": "10.77.0.1", "interface": 2}]
    assert result["routes"] == [{"dst": "0.0.0.0/0"}]
    assert result["dns"] == {"nameservers": ["10.77.0.1"]}
    assert pings(container, "10.77.0.1"), "its gateway is on the bridge"
    host.call("bridge", "CHECK", {**delegated(), "prevResult": result}, container, cni_path=path)
    assert foreign.calls() == ["CHECK c1 eth0"]
    foreign.fail("CHECK", '{"code": 100, "msg": "lost", "details": "its store"}')
    with pytest.raises(CniFailed, match="ipam foreign-ipam CHECK: lost its store"):
        host.call("bridge", "CHECK", {**delegated(), "prevResult": result}, container, cni_path=path)
    foreign.calls()
    host.call("bridge", "DEL", delegated(), container, cni_path=path)
    host.call("bridge", "DEL", delegated(), container, cni_path=path)
    assert foreign.calls() == ["DEL c1 eth0"] * 2
    with host.lifecycle() as lifecycle:
        lifecycle.gc_dead()
    assert host.snapshot() == before
    assert not host.rows()


@pytest.mark.parametrize("answer", ['{"code": 7, "msg": "no addresses", "details": "today"}', "plain words"])
def test_foreign_ipam_that_fails_is_told_to_clean_up(
    host: Host, container: Namespace, foreign: Foreign, answer: str
) -> None:
    before = host.snapshot()
    foreign.fail("ADD", answer)
    with pytest.raises(CniFailed, match=r"ipam foreign-ipam ADD: (no addresses today|plain words)") as failed:
        host.call("bridge", "ADD", delegated(), container, cni_path=str(foreign.path))
    assert failed.value.code == 106
    assert foreign.calls() == ["ADD c1 eth0", "DEL c1 eth0"], "section 4 of the spec"
    assert host.snapshot() == before
    assert not host.rows()


@pytest.mark.parametrize("answer", ["no json", '{"ips": "x"}', '{"ips": [{"address": 7}]}'])
def test_foreign_ipam_that_talks_nonsense(host: Host, container: Namespace, foreign: Foreign, answer: str) -> None:
    before = host.snapshot()
    (foreign.log / "answer").write_text(answer)
    with pytest.raises(CniFailed, match="ipam") as failed:
        host.call("bridge", "ADD", delegated(), container, cni_path=str(foreign.path))
    assert failed.value.code != 999
    assert foreign.calls() == ["ADD c1 eth0", "DEL c1 eth0"]
    assert host.snapshot() == before


def test_our_own_failure_gives_foreign_addresses_back(host: Host, container: Namespace, foreign: Foreign) -> None:
    container.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
    before = host.snapshot()
    with pytest.raises(CniFailed, match="File exists"):
        host.call("bridge", "ADD", delegated(), container, cni_path=str(foreign.path))
    assert foreign.calls() == ["ADD c1 eth0", "DEL c1 eth0"]
    assert host.snapshot() == before
    assert not host.rows()


def test_foreign_ipam_that_is_not_there(host: Host, container: Namespace) -> None:
    before = host.snapshot()
    with pytest.raises(CniFailed, match="no executable foreign-ipam in CNI_PATH"):
        host.call("bridge", "ADD", delegated(), container, cni_path="/nowhere")
    assert host.snapshot() == before


def test_foreign_ipam_hears_of_gc_and_status(host: Host, container: Namespace, foreign: Foreign) -> None:
    path = str(foreign.path)
    host.call("bridge", "STATUS", delegated(), None, cni_path=path)
    assert [call.split()[0] for call in foreign.calls()] == ["STATUS"]
    foreign.fail("STATUS", '{"code": 50, "msg": "full"}')
    with pytest.raises(CniFailed, match="full") as failed:
        host.call("bridge", "STATUS", delegated(), None, cni_path=path)
    assert failed.value.code == 50
    foreign.recover()
    foreign.calls()
    host.call("bridge", "GC", {**delegated(), "cni.dev/valid-attachments": []}, None, cni_path=path)
    assert [call.split()[0] for call in foreign.calls()] == ["GC"]
