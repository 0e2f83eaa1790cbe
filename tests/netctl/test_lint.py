"""netctl lint: each mistake is found, named, and answered with what was probably meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from netdrivers.netctl.linting import Finding, lint
from tests.netctl.runner import Netctl, bridge


def written(folder: Path, *plugins: dict[str, Any], file: str = "net.conflist", **more: Any) -> str:
    """A conflist's path."""
    path = folder / file
    document = {"cniVersion": "1.0.0", "name": file.partition(".")[0], "plugins": plugins, **more}
    path.write_text(json.dumps(document))
    return str(path)


def only(found: list[Finding]) -> Finding:
    """The one finding that there is."""
    assert len(found) == 1, found
    return found[0]


def test_a_good_file_has_no_finding(tmp_path: Path) -> None:
    assert lint([written(tmp_path, bridge(), {"type": "tuning", "mtu": 1400})]) == []


@pytest.mark.parametrize(
    ("plugin", "field", "suggestion"),
    [
        (bridge(isgateway=True), "isgateway", "did you mean isGateway?"),
        (bridge(ipmasq=True), "ipmasq", "did you mean ipMasq?"),
        (bridge(subnet2="x"), "subnet2", ""),
        (bridge(subnet="10.0.0.0/24"), "subnet", "it belongs into ipam: ipam.subnet"),
        (bridge(dns={"nameserver": ["10.0.0.1"]}), "dns.nameserver", "did you mean nameservers?"),
        (bridge(capabilities={"portmappings": True}), "capabilities.portmappings", "did you mean portMappings?"),
        ({"type": "macvlan", "parent": "eth0"}, "parent", ""),
        ({"type": "macvlan", "hostshim": True}, "hostshim", "did you mean hostShim?"),
    ],
)
def test_unknown_keys(tmp_path: Path, plugin: dict[str, Any], field: str, suggestion: str) -> None:
    found = only(lint([written(tmp_path, plugin)]))
    assert (found.field, found.level, found.plugin) == (field, "error", plugin["type"])
    if suggestion:
        assert found.suggestion == suggestion


def test_unknown_keys_inside_of_ipam(tmp_path: Path) -> None:
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": "10.70.0.0/24", "gatway": "10.70.0.1"}]],
        "routes": [{"dst": "0.0.0.0/0", "via": "10.70.0.1"}],
        "range": [],
    }
    found = {item.field: item.suggestion for item in lint([written(tmp_path, bridge(ipam=ipam))])}
    assert found == {
        "ipam.range": "did you mean ranges?",
        "ipam.routes[0].via": "",
        "ipam.ranges[0][0].gatway": "did you mean gateway?",
    }


def test_keys_of_a_foreign_ipam_and_a_foreign_plugin_are_their_own(tmp_path: Path) -> None:
    foreign = bridge(ipam={"type": "whereabouts", "range": "10.0.0.0/24"})
    assert lint([written(tmp_path, foreign, {"type": "calico", "mtu": "any"})]) == []


def test_unknown_keys_around_the_plugins(tmp_path: Path) -> None:
    found = only(lint([written(tmp_path, bridge(), disablecheck=True)]))
    assert (found.field, found.suggestion) == ("disablecheck", "did you mean disableCheck?")


@pytest.mark.parametrize(
    ("plugin", "told"),
    [
        (bridge(mtu="big"), "mtu"),
        (bridge(mtu=12), "mtu"),
        (bridge(vlan=5000), "vlan"),
        (bridge(mac="01:00:00:00:00:00"), "unicast"),
        (bridge(bridge="a-bridge-name-too-long"), "bridge"),
        (bridge(hairpinMode=True, promiscMode=True), "promiscMode"),
        (bridge(internal=True), "isDefaultGateway"),
        (bridge("10.70.0.0/33"), "subnet"),
        (bridge("10.70.0.5/24"), "host bits"),
        (bridge(ipam={"type": "host-local"}), "ranges"),
        ({"type": "macvlan", "mode": "brige"}, "mode"),
        ({"type": "macvlan", "mode": "vepa", "hostShim": True}, "hostShim"),
        ({"type": "none", "ipam": {"type": "host-local", "subnet": "10.0.0.0/24"}}, "ipam"),
        ({"type": "tuning", "sysctl": {"kernel.panic": "1"}}, "kernel.panic"),
    ],
)
def test_values_that_are_not_allowed(tmp_path: Path, plugin: dict[str, Any], told: str) -> None:
    found = [item for item in lint([written(tmp_path, plugin)]) if item.level == "error"]
    assert told in only(found).message


def test_devices_are_a_question_for_the_host_and_not_for_the_file(tmp_path: Path) -> None:
    ipam = {"type": "host-local", "subnet": "192.168.7.0/24"}
    assert lint([written(tmp_path, {"type": "macvlan", "master": "enp99s0", "mtu": 9000, "ipam": ipam})]) == []


@pytest.mark.parametrize(
    ("plugin", "field"),
    [
        (bridge(internal=True, isDefaultGateway=False, isGateway=True, capabilities={}), "ipMasq"),
        (bridge(isDefaultGateway=False, capabilities={}), "ipMasq"),
        (bridge(isDefaultGateway=False, ipMasq=False), "capabilities.portMappings"),
        (bridge(ipam={}, ipMasq=False), "isGateway"),
        ({"type": "macvlan", "capabilities": {"portMappings": True}}, "capabilities.portMappings"),
    ],
)
def test_contradictions_are_warnings(tmp_path: Path, plugin: dict[str, Any], field: str) -> None:
    found = only(lint([written(tmp_path, plugin)]))
    assert (found.level, found.field) == ("warning", field)


def test_ports_that_would_be_published_twice(tmp_path: Path) -> None:
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    assert "second time" in only(lint([written(tmp_path, bridge(), portmap)])).message
    assert lint([written(tmp_path, bridge(capabilities={}), portmap)]) == []


def test_overlaps_within_and_between_files(tmp_path: Path) -> None:
    one = written(tmp_path, bridge("10.70.0.0/16"), file="one.conflist")
    two = written(tmp_path, bridge("10.70.9.0/24"), file="two.conflist")
    found = only(lint([one, two]))
    assert found.file == two
    assert found.message == f"subnet 10.70.9.0/24 overlaps 10.70.0.0/16 of network one in {one}"
    twice = written(tmp_path, bridge("10.80.0.0/24"), bridge("10.80.0.0/25", "br2"), file="twice.conflist")
    assert "overlaps 10.80.0.0/24" in only(lint([twice])).message
    sets = {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.1.0.0/25"}]]}
    assert "apart from" in only(lint([written(tmp_path, bridge(ipam=sets))])).message


def test_one_name_in_two_files(tmp_path: Path) -> None:
    one = written(tmp_path, {"type": "none"}, file="one.conflist")
    other = written(tmp_path, {"type": "none"}, file="other.conflist")
    Path(other).write_text(Path(one).read_text())
    assert only(lint([one, other])).field == "name"


def test_a_type_that_is_nearly_ours(tmp_path: Path) -> None:
    found = only(lint([written(tmp_path, {"type": "brigde"})]))
    assert (found.level, found.suggestion) == ("warning", "did you mean bridge?")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "well-formed"),
        ("[]", "not a JSON object"),
        ('{"plugins": [{"type": "none"}]}', "name"),
        ('{"name": "x"}', "type"),
        ('{"name": "x", "plugins": []}', "at least one"),
        ('{"name": "x", "plugins": [{"type": "../none"}]}', "without a path"),
        ('{"name": "../x", "plugins": [{"type": "none"}]}', "name"),
        ('{"name": "x", "cniVersion": "9.9", "plugins": [{"type": "none"}]}', "9.9"),
    ],
)
def test_files_that_are_no_networks(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "bad.conflist"
    path.write_text(text)
    assert told in only(lint([str(path)])).message


def test_the_command(netctl: Netctl, tmp_path: Path) -> None:
    good = netctl.conflist("good", bridge())
    warned = netctl.conflist("warned", {"type": "macvlan", "capabilities": {"portMappings": True}})
    bad = netctl.conflist("bad", bridge("10.71.0.0/24", "br2", isgateway=True))
    assert netctl.ok("lint", good) == ""
    assert "warning" in netctl.ok("lint", good, warned)
    assert netctl.run("lint", "--strict", warned).returncode == 2
    done = netctl.run("lint", bad, good)
    assert done.returncode == 2
    said = "isgateway: unknown key, without effect; did you mean isGateway?"
    assert done.stdout == f"{bad} (bridge): error: {said}\n"
    (found,) = netctl.json("lint", bad, status=2)
    assert set(found) == {"file", "plugin", "field", "level", "message", "suggestion"}
    assert "did you mean good.conflist?" in netctl.run("lint", tmp_path / "net.d" / "god.conflist").stdout
