"""The CNI protocol: versions and their result forms, verbs, chains, and arguments from every conventional place."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from netdrivers.frontends.cni.result import VERSIONS
from tests.lab import CniFailed, Echo, Host, Namespace, ask, pings

Lab = Callable[..., Namespace]


def config(version: str = "1.1.0", **more: Any) -> dict[str, Any]:
    """A dual-stack bridge network."""
    ranges = [[{"subnet": "10.10.0.0/24"}], [{"subnet": "fd00:10::/64"}]]
    return {
        "cniVersion": version, "name": "net", "type": "bridge", "bridge": "br-net", "isDefaultGateway": True,
        "ipam": {"type": "host-local", "ranges": ranges, "routes": [{"dst": "198.51.100.0/24", "mtu": 1400}]},
        "dns": {"nameservers": ["10.10.0.1"], "domain": "example.org", "search": ["a", "b"], "options": ["ndots:2"]},
        **more,
    }  # fmt: skip


DNS = {"nameservers": ["10.10.0.1"], "domain": "example.org", "search": ["a", "b"], "options": ["ndots:2"]}


@pytest.mark.parametrize("version", ["", "0.1.0", "0.2.0"])
def test_result_of_the_first_form(host: Host, container: Namespace, version: str) -> None:
    result = host.call("bridge", "ADD", config(version), container)
    assert result == {
        "cniVersion": version or "0.1.0",
        "ip4": {
            "ip": "10.10.0.2/24",
            "gateway": "10.10.0.1",
            "routes": [{"dst": "198.51.100.0/24"}, {"dst": "0.0.0.0/0", "gw": "10.10.0.1"}],
        },
        "ip6": {"ip": "fd00:10::2/64", "gateway": "fd00:10::1", "routes": [{"dst": "::/0", "gw": "fd00:10::1"}]},
        "dns": DNS,
    }


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_result_of_the_later_forms(host: Host, container: Namespace, version: str) -> None:
    result = host.call("bridge", "ADD", config(version), container)
    assert result["cniVersion"] == version
    bridge, peer, own = result["interfaces"]
    assert (bridge["name"], own["name"], own["sandbox"]) == ("br-net", "eth0", container.path)
    assert "sandbox" not in bridge
    assert "sandbox" not in peer
    for interface, namespace in ((bridge, host), (peer, host), (own, container)):
        seen = json.loads(namespace.run("ip", "-j", "link", "show", interface["name"]).stdout)[0]
        assert interface["mac"] == seen["address"]
        assert interface.get("mtu") == (seen["mtu"] if version == "1.1.0" else None)
    marks = [{"version": "4"}, {"version": "6"}] if version < "1.0.0" else [{}, {}]
    assert result["ips"] == [
        {"address": "10.10.0.2/24", "gateway": "10.10.0.1", "interface": 2, **marks[0]},
        {"address": "fd00:10::2/64", "gateway": "fd00:10::1", "interface": 2, **marks[1]},
    ]
    first = {"dst": "198.51.100.0/24", "mtu": 1400} if version == "1.1.0" else {"dst": "198.51.100.0/24"}
    default = [{"dst": "0.0.0.0/0", "gw": "10.10.0.1"}, {"dst": "::/0", "gw": "fd00:10::1"}]
    assert result["routes"] == [first, *default]
    assert result["dns"] == DNS


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_can_be_deleted_and_from_0_4_on_checked(host: Host, container: Namespace, version: str) -> None:
    result = host.call("bridge", "ADD", config(version), container)
    check = {**config(version), "prevResult": result}
    if version >= "0.4.0":
        assert host.call("bridge", "CHECK", check, container) is None
    else:
        with pytest.raises(CniFailed, match=r"has no CHECK: 0\.4\.0 or later") as failed:
            host.call("bridge", "CHECK", check, container)
        assert failed.value.code == 1
    assert host.call("bridge", "DEL", check, container) is None
    assert container.links() == {"lo"}


def test_version_without_input_and_with_any(host: Host) -> None:
    for text, echoed in (("", "0.1.0"), ('{"cniVersion": "1.0.0"}', "1.0.0"), ('{"cniVersion": "9.9.9"}', "9.9.9")):
        answer = host.cni("bridge", "VERSION", text, None)
        assert answer == {"cniVersion": echoed, "supportedVersions": list(VERSIONS)}


@pytest.mark.parametrize("version", ["0.0.1", "0.5.0", "1.2.0", "2.0.0", "nonsense"])
def test_unknown_version_is_refused_with_those_known(host: Host, container: Namespace, version: str) -> None:
    for verb in ("ADD", "DEL", "CHECK", "GC", "STATUS"):
        with pytest.raises(CniFailed) as failed:
            host.call("bridge", verb, config(version), container)
        assert failed.value.code == 1
        assert version in failed.value.msg
        assert ", ".join(VERSIONS) in failed.value.msg


@pytest.mark.parametrize("verb", ["GC", "STATUS"])
def test_new_verbs_need_the_new_version(host: Host, verb: str) -> None:
    with pytest.raises(CniFailed, match=f"has no {verb}: 1.1.0 or later") as failed:
        host.call("bridge", verb, config("1.0.0"), None)
    assert failed.value.code == 1


def test_status_tells_every_reason(host: Host, outside: Namespace, lab: Lab) -> None:
    small = config()
    small["ipam"]["ranges"] = [[{"subnet": "10.10.0.0/30"}]]
    before = host.snapshot(), host.rows()
    assert host.call("bridge", "STATUS", small, None) is None
    assert (host.snapshot(), host.rows()) == before, "asking changes nothing"
    host.call("bridge", "ADD", small, lab("only"))
    host.run("nft", "add table ip rival; add chain ip rival fw { type filter hook forward priority 0; policy drop; }")
    with pytest.raises(CniFailed) as failed:
        host.call("bridge", "STATUS", small, None)
    assert failed.value.code == 50, "the spec's code for: not available"
    assert "no free address in 10.10.0.0/30" in failed.value.msg
    assert "chain fw of table rival drops forwarded packets" in failed.value.msg
    with pytest.raises(CniFailed, match="overlaps the host's route"):
        host.call(
            "bridge",
            "STATUS",
            {**config(), "name": "n", "ipam": {"type": "host-local", "subnet": "192.0.2.0/25"}},
            None,
        )


def test_gc_keeps_the_valid_and_takes_the_rest(host: Host, lab: Lab) -> None:
    containers = {name: lab(name) for name in ("a", "b", "c")}
    for name, namespace in containers.items():
        host.call("bridge", "ADD", config(), namespace, name)
    other = {
        **config(),
        "name": "other",
        "bridge": "br-other",
        "ipam": {"type": "host-local", "subnet": "10.30.0.0/24"},
    }
    host.call("bridge", "ADD", other, containers["a"], "a", "eth1")
    valid = [{"containerID": "b", "ifname": "eth0"}, {"containerID": "c", "ifname": "eth5"}]
    assert host.cni("bridge", "GC", {**config(), "cni.dev/valid-attachments": valid}, None) is None
    assert {name: namespace.links() for name, namespace in containers.items()} == {
        "a": {"lo", "eth1"}, "b": {"lo", "eth0"}, "c": {"lo"},
    }  # fmt: skip
    assert pings(containers["b"], "10.10.0.1")
    assert pings(containers["a"], "10.30.0.1"), "another network is not its business"


def test_input_larger_than_a_pipe(host: Host, container: Namespace) -> None:
    big = config(args={"labels": [{"key": "k" * 50, "value": "v" * 50}] * 2000})
    assert len(json.dumps(big)) > 200_000
    result = host.cni("bridge", "ADD", big, container)
    assert result["ips"][0]["address"] == "10.10.0.2/24"
    host.cni("bridge", "DEL", {**big, "prevResult": result}, container)
    assert container.links() == {"lo"}


@pytest.mark.parametrize("ifname", ["eth1", "net0", "a", "exactly15chars_", "ü"])
def test_other_interface_names(host: Host, container: Namespace, ifname: str) -> None:
    result = host.cni("bridge", "ADD", config(), container, ifname=ifname)
    assert result["interfaces"][2]["name"] == ifname
    assert container.links() == {"lo", ifname}
    assert pings(container, "fd00:10::1")
    host.cni("bridge", "CHECK", {**config(), "prevResult": result}, container, ifname=ifname)
    host.cni("bridge", "DEL", config(), container, ifname=ifname)
    assert container.links() == {"lo"}


def test_one_container_on_several_networks(host: Host, outside: Namespace, container: Namespace) -> None:
    before = host.snapshot()
    networks = []
    for number in range(3):
        ipam = {"type": "host-local", "subnet": f"10.{40 + number}.0.0/24", "routes": [{"dst": "198.51.100.0/24"}]}
        given = config(name=f"net{number}", bridge=f"br{number}", ipMasq=True, ipam=ipam)
        networks.append((given, f"eth{number}"))
        host.call("bridge", "ADD", given, container, ifname=f"eth{number}")
    # A second interface on a network that it is on already.
    host.call("bridge", "ADD", networks[0][0], container, ifname="eth9")
    networks.append((networks[0][0], "eth9"))
    assert container.links() == {"lo", "eth0", "eth1", "eth2", "eth9"}
    for number in range(3):
        assert pings(container, f"10.{40 + number}.0.1", "-I", f"eth{number}")
    server = Echo(outside, 7000, "out")
    try:
        assert ask(container, "192.0.2.2", 7000) == "out 192.0.2.1"
        host.call("bridge", "DEL", *[networks[0][0], container], ifname="eth0")
        assert ask(container, "192.0.2.2", 7000) == "out 192.0.2.1", "by a network that is left"
    finally:
        server.close()
    for given, ifname in networks[1:]:
        assert ifname in container.links()
        host.call("bridge", "DEL", given, container, ifname=ifname)
    with host.lifecycle() as lifecycle:
        lifecycle.gc_dead()
    assert host.snapshot() == before


def test_a_chain_merges_the_results(host: Host, container: Namespace) -> None:
    previous = {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "dummy0", "mac": "02:00:00:00:00:01", "sandbox": container.path}],
        "ips": [{"address": "172.16.0.2/24", "gateway": "172.16.0.1", "interface": 0}],
        "routes": [{"dst": "172.17.0.0/16", "gw": "172.16.0.1"}],
        "dns": {"nameservers": ["172.16.0.1"]},
    }
    plain = config(dns={}, prevResult=previous)
    result = host.call("bridge", "ADD", plain, container)
    assert [item["name"] for item in result["interfaces"]][0::3] == ["dummy0", "eth0"]
    assert [(item["address"], item["interface"]) for item in result["ips"]] == [
        ("172.16.0.2/24", 0), ("10.10.0.2/24", 3), ("fd00:10::2/64", 3),
    ]  # fmt: skip
    assert result["routes"][0] == {"dst": "172.17.0.0/16", "gw": "172.16.0.1"}
    assert result["dns"] == {"nameservers": ["172.16.0.1"]}
    host.call("bridge", "CHECK", {**plain, "prevResult": result}, container)


def test_a_chain_of_an_old_form_is_understood(host: Host, container: Namespace) -> None:
    previous = {"cniVersion": "0.2.0", "ip4": {"ip": "172.16.0.2/24", "routes": [{"dst": "172.17.0.0/16"}]}}
    result = host.call("bridge", "ADD", config("0.2.0", prevResult=previous), container)
    assert result["ip4"]["ip"] == "172.16.0.2/24"
    assert result["ip6"]["ip"] == "fd00:10::2/64"


PLACES: dict[str, tuple[dict[str, Any], str]] = {
    "CNI_ARGS": ({}, "IgnoreUnknown=1;IP=10.10.0.77;MAC=02:00:00:00:00:77;K8S_POD_NAME=x"),
    "CNI_ARGS with both families": ({}, "IP=10.10.0.77,fd00:10::77;MAC=02:00:00:00:00:77"),
    "args.cni": ({"args": {"cni": {"ips": ["10.10.0.77"], "mac": "02:00:00:00:00:77"}}}, ""),
    "runtimeConfig": ({"runtimeConfig": {"ips": ["10.10.0.77/24"], "mac": "02:00:00:00:00:77"}}, ""),
    "capitalised": ({"runtimeConfig": {"IPs": ["10.10.0.77/24"], "Mac": "02-00-00-00-00-77"}}, ""),
    "all, the same": (
        {"runtimeConfig": {"ips": ["10.10.0.77"]}, "args": {"cni": {"ips": ["10.10.0.77"]}}},
        "IP=10.10.0.77;MAC=02:00:00:00:00:77",
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_address_and_mac_from_every_place(host: Host, container: Namespace, place: str) -> None:
    more, args = PLACES[place]
    result = host.cni("bridge", "ADD", config(**more), container, args=args)
    assert result["ips"][0]["address"] == "10.10.0.77/24"
    assert "10.10.0.77/24" in container.addresses("eth0")
    assert ("fd00:10::77/64" in container.addresses("eth0")) is ("families" in place)
    assert result["interfaces"][2]["mac"] == "02:00:00:00:00:77"
    assert "02:00:00:00:00:77" in container.run("ip", "link", "show", "eth0").stdout
    assert pings(container, "10.10.0.1")


def test_mac_of_runtime_config_wins(host: Host, container: Namespace) -> None:
    more = {"mac": "02:00:00:00:00:01", "runtimeConfig": {"mac": "02:00:00:00:00:03"}}
    more["args"] = {"cni": {"mac": "02:00:00:00:00:02"}}
    result = host.call("bridge", "ADD", config(**more), container, args="MAC=02:00:00:00:00:04")
    assert result["interfaces"][2]["mac"] == "02:00:00:00:00:03"


def test_capitalised_runtime_config_of_containerd(host: Host, outside: Namespace, container: Namespace) -> None:
    runtime = {
        "portMappings": [{"HostPort": 18080, "ContainerPort": 80, "Protocol": "TCP", "HostIP": ""}],
        "dns": {"Servers": ["10.1.1.1"], "Searches": ["x.local"], "Options": ["ndots:5"]},
    }
    result = host.call("bridge", "ADD", config(runtimeConfig=runtime), container)
    assert result["dns"] == {
        "nameservers": ["10.1.1.1"], "domain": "example.org", "search": ["x.local"], "options": ["ndots:5"],
    }  # fmt: skip
    server = Echo(container, 80, "web")
    try:
        assert ask(outside, "192.0.2.1", 18080) == "web 192.0.2.2"
    finally:
        server.close()


def test_dns_of_one_pod_does_not_change_the_network(host: Host, lab: Lab) -> None:
    host.call("bridge", "ADD", config(), lab("a"), "a")
    network = host.rows()["networks"]
    host.call("bridge", "ADD", config(runtimeConfig={"dns": {"servers": ["10.1.1.1"]}}), lab("b"), "b")
    assert host.rows()["networks"] == network


def test_ranges_of_the_runtime_come_first(host: Host, container: Namespace) -> None:
    runtime = {"ipRanges": [[{"subnet": "10.60.0.0/24", "rangeStart": "10.60.0.9"}]]}
    result = host.call("bridge", "ADD", config(runtimeConfig=runtime), container)
    assert [item["address"] for item in result["ips"]] == ["10.60.0.9/24", "10.10.0.2/24", "fd00:10::2/64"]
    assert pings(container, "10.60.0.1")


def test_dns_from_a_resolv_conf(host: Host, container: Namespace, tmp_path: Any) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("# comment\nnameserver 10.2.2.2\nnameserver fd00::53\nsearch x y\noptions ndots:3 rotate\n")
    given = config(dns={})
    given["ipam"]["resolvConf"] = str(file)
    result = host.call("bridge", "ADD", given, container)
    assert result["dns"] == {
        "nameservers": ["10.2.2.2", "fd00::53"], "search": ["x", "y"], "options": ["ndots:3", "rotate"],
    }  # fmt: skip


def test_second_add_is_refused_and_harmless(host: Host, container: Namespace, lab: Lab) -> None:
    result = host.call("bridge", "ADD", config(), container)
    before, rows = host.snapshot(), host.rows()
    for netns in (container, lab("other")):
        with pytest.raises(CniFailed, match="container c1 has eth0 on network net already") as failed:
            host.call("bridge", "ADD", config(bridge="br-changed"), netns)
        assert failed.value.code == 100
        assert (host.snapshot(), host.rows()) == (before, rows)
    host.call("bridge", "CHECK", {**config(), "prevResult": result}, container)


def test_a_link_of_that_name_in_the_container_is_an_error(host: Host, container: Namespace) -> None:
    container.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
    before, inside = host.snapshot(), container.links()
    with pytest.raises(CniFailed, match=r"cannot veth .* to eth0 .*: File exists") as failed:
        host.call("bridge", "ADD", config(), container)
    assert failed.value.code == 103
    assert (host.snapshot(), host.rows()) == (before, {})
    assert container.links() == inside


def test_an_unknown_verb_and_missing_variables(host: Host, container: Namespace) -> None:
    with pytest.raises(CniFailed, match="CNI_COMMAND: 'PUT' is not valid: ADD, DEL, CHECK") as failed:
        host.call("bridge", "PUT", config(), container)
    assert failed.value.code == 4
    for more, name in (({"container": ""}, "CNI_CONTAINERID"), ({"ifname": ""}, "CNI_IFNAME")):
        for verb in ("ADD", "DEL", "CHECK"):
            with pytest.raises(CniFailed, match=f"{name}: '' is not valid: set for {verb}") as failed:
                host.call("bridge", verb, config(), container, **more)
            assert failed.value.code == 4
    with pytest.raises(CniFailed, match="CNI_NETNS: '' is not valid: set for ADD"):
        host.call("bridge", "ADD", config(), "")
    assert not host.rows()
