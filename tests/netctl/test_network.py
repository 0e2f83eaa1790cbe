"""netctl network: files of named networks, made from options, attached to by name, removed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab import Echo, Namespace, ask, pings
from tests.netctl.runner import Netctl, bridge


def config_of(netctl: Netctl, name: str) -> Any:
    """The content of a network's file."""
    return json.loads((netctl.networks / f"{name}.json").read_text())


def test_life_of_a_network(netctl: Netctl, outside: Namespace, container: Namespace) -> None:
    before = netctl.host.snapshot()
    netctl.ok("network", "create", "shop", "--subnet", "10.72.0.0/24", "--subnet", "fd72::/64")
    assert netctl.host.snapshot() == before, "the first attachment makes it"
    (row,) = netctl.json("network", "ls")
    assert (row["name"], row["driver"], row["state"], row["attachments"]) == ("shop", "bridge", "not made", 0)
    assert row["subnets"] == ["10.72.0.0/24", "fd72::/64"]
    netctl.ok("add", "shop", container.path, "-p", "8080:80")
    server = Echo(container, 80, "web")
    assert ask(outside, "192.0.2.1", 8080) == "web 192.0.2.2"
    server.close()
    assert pings(container, "192.0.2.2")
    found = netctl.json("network", "inspect", "shop")
    assert (found["ready"], len(found["attachments"]), found["drift"]) == (True, 1, [])
    assert "attachment" in netctl.fails(4, "network", "rm", "shop")
    assert netctl.json("network", "ls")[0]["state"] == "ready"
    netctl.ok("del", "shop", container.path)
    assert netctl.json("network", "rm", "shop") == [{"name": "shop", "removed": ["kernel", "file"]}]
    assert netctl.json("network", "ls") == []
    assert "nd-shop" not in netctl.host.links()


def test_options_become_configuration(netctl: Netctl) -> None:
    netctl.ok(
        "network", "create", "shop", "--subnet", "10.72.0.0/24", "--gateway", "10.72.0.254",
        "--range", "10.72.0.10-10.72.0.19", "--opt", "mtu=1400", "--opt", "icc=false", "--opt", "bridge=br-shop",
    )  # fmt: skip
    config = config_of(netctl, "shop")
    assert (config["mtu"], config["icc"], config["bridge"]) == (1400, False, "br-shop")
    assert config["ipam"]["ranges"] == [
        [{"subnet": "10.72.0.0/24", "gateway": "10.72.0.254", "rangeStart": "10.72.0.10", "rangeEnd": "10.72.0.19"}]
    ]
    netctl.ok("network", "create", "inner", "--subnet", "10.73.0.0/24", "--internal")
    assert config_of(netctl, "inner")["internal"] is True
    assert netctl.json("lint", "--strict", netctl.networks / "shop.json", netctl.networks / "inner.json") == []


def test_a_long_name_still_gives_a_link(netctl: Netctl, container: Namespace) -> None:
    name = "a-network-with-a-long-name"
    netctl.ok("network", "create", name, "--subnet", "10.72.0.0/24")
    netctl.ok("add", name, container.path)
    assert config_of(netctl, name)["bridge"] in netctl.host.links()


def test_a_macvlan_network(netctl: Netctl, outside: Namespace, container: Namespace) -> None:
    netctl.ok(
        "network", "create", "lan", "--driver", "macvlan", "--subnet", "192.0.2.0/24", "--gateway", "192.0.2.2",
        "--range", "192.0.2.100-192.0.2.110",
    )  # fmt: skip
    netctl.ok("add", "lan", container.path)
    assert container.addresses("eth0") == {"192.0.2.100/24"}
    assert pings(container, "192.0.2.2")


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (("x", "--subnet", "10.72.0.0/33"), 2, "--subnet"),
        (("x", "--subnet", "10.72.0.1/24"), 2, "without host bits"),
        (("x",), 2, "--subnet"),
        (("x", "--driver", "macvlan", "--gateway", "10.0.0.1", "--opt", "master=wire0"), 2, "--gateway"),
        (("x", "--subnet", "10.72.0.0/24", "--gateway", "10.1.0.1"), 2, "--gateway"),
        (("x", "--subnet", "10.72.0.0/24", "--range", "10.72.0.5"), 2, "--range"),
        (("x", "--subnet", "10.72.0.0/24", "--range", "10.72.0.9-10.72.0.5"), 2, "rangeEnd"),
        (("x", "--subnet", "10.72.0.0/24", "--opt", "isgateway=true"), 2, "did you mean isGateway?"),
        (("x", "--subnet", "10.72.0.0/24", "--opt", "mtu=big"), 2, "mtu"),
        (("x", "--subnet", "10.72.0.0/24", "--opt", "mtu"), 2, "KEY=VALUE"),
        (("x", "--subnet", "10.72.0.0/24", "--opt", "mtu=66000"), 2, "mtu"),
        (("x", "--subnet", "10.72.0.0/24", "--opt", "vlanTrunk=[{"), 2, "JSON"),
        (("x", "--subnet", "10.72.0.0/24", "--driver", "brigde"), 2, "did you mean bridge?"),
        (("x", "--subnet", "10.72.0.0/24", "--driver", "portmap"), 2, "--driver"),
        (("x", "--driver", "macvlan", "--opt", "master=eth9"), 5, "eth9"),
        (("x", "--driver", "none", "--internal"), 2, "--internal"),
        (("../x", "--subnet", "10.72.0.0/24"), 2, "NAME"),
        (("x", "--subnet", "192.0.2.0/25"), 4, "host's route"),
        (("x", "--subnet", "10.72.0.0/24", "--subnet", "10.72.0.128/25"), 2, "apart from"),
    ],
)
def test_bad_wishes_write_nothing(
    netctl: Netctl, outside: Namespace, words: tuple[str, ...], status: int, told: str
) -> None:
    assert told in netctl.fails(status, "network", "create", *words)
    assert netctl.json("network", "ls") == []


def test_networks_do_not_overlap(netctl: Netctl, container: Namespace) -> None:
    netctl.ok("network", "create", "one", "--subnet", "10.72.0.0/24")
    assert "of network one" in netctl.fails(4, "network", "create", "two", "--subnet", "10.72.0.128/25")
    assert "exists already" in netctl.fails(4, "network", "create", "one", "--subnet", "10.74.0.0/24")
    netctl.conflist("engine", bridge("10.75.0.0/24"))
    netctl.ok("add", "engine", container.path)
    assert "of network engine" in netctl.fails(4, "network", "create", "two", "--subnet", "10.75.0.0/16")


def test_rm_of_a_network_without_a_file(netctl: Netctl, container: Namespace) -> None:
    netctl.conflist("engine", bridge())
    netctl.ok("add", "engine", container.path)
    netctl.ok("del", "engine", container.path)
    assert netctl.json("network", "rm", "engine") == [{"name": "engine", "removed": ["kernel"]}]
    assert "br-test" not in netctl.host.links()
    netctl.fails(3, "network", "rm", "engine")


def test_rm_by_force_leaves_containers_alone(netctl: Netctl, container: Namespace) -> None:
    netctl.ok("network", "create", "shop", "--subnet", "10.72.0.0/24")
    netctl.ok("add", "shop", container.path)
    assert netctl.json("network", "rm", "--force", "shop") == [{"name": "shop", "removed": ["file"]}]
    assert pings(container, "10.72.0.1")
    netctl.ok("del", "shop", container.path)
    assert netctl.json("gc")["removed"] == ["network shop"]


def test_wrong_names_suggest_the_near_one(netctl: Netctl, container: Namespace) -> None:
    netctl.ok("network", "create", "shop", "--subnet", "10.72.0.0/24")
    for words in (("network", "inspect", "shpo"), ("network", "rm", "shpo"), ("add", "shpo", container.path)):
        assert "did you mean shop?" in netctl.fails(3, *words)


def test_a_bad_file_does_not_hide_the_others(netctl: Netctl, lab: Callable[..., Namespace]) -> None:
    netctl.ok("network", "create", "shop", "--subnet", "10.72.0.0/24")
    (netctl.networks / "bad.json").write_text("{")
    done = netctl.run("network", "ls", "--json")
    assert [row["name"] for row in json.loads(done.stdout)] == ["shop"]
    assert "bad.json" in done.stderr
    assert "bad.json" in netctl.fails(2, "add", "bad", lab("one").path)
    netctl.ok("add", "shop", lab("two").path)
