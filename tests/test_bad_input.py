"""Bad input: each is refused with the spec's error that names field, value and what is allowed, and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lab import CniFailed, Host, Namespace

Lab = Callable[..., Namespace]

DECODE, CONFIG, REQUEST, VERSION, CONFLICT, EXHAUSTED, LACKS = 6, 7, 4, 1, 100, 101, 102


def config(**more: Any) -> dict[str, Any]:
    """A good configuration, with changes; a key given as None is left out."""
    base = {
        "cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "br-net", "isGateway": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.10.0.0/24"}]]},
    }  # fmt: skip
    return {key: value for key, value in {**base, **more}.items() if value is not None}


def ipam(**more: Any) -> dict[str, Any]:
    """A configuration with another ipam."""
    return config(ipam={"type": "host-local", **more})


def part(**more: Any) -> dict[str, Any]:
    """A configuration with another range."""
    return ipam(ranges=[[{"subnet": "10.10.0.0/24", **more}]])


def ports(**more: Any) -> dict[str, Any]:
    """A configuration with one port mapping."""
    mapping = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", **more}
    return config(runtimeConfig={"portMappings": [{k: v for k, v in mapping.items() if v is not None}]})


# What is sent, its error's code, and words of the message: the field, the value, what is allowed.
CONFIGURATIONS: dict[str, tuple[Any, int, tuple[str, ...]]] = {
    "no input": ("", DECODE, ("the network configuration is not well-formed JSON",)),
    "half a document": (json.dumps(config())[:-9], DECODE, ("not well-formed JSON",)),
    "bytes that are no text": (b'{"name": "\xff\xfe"}', DECODE, ("not well-formed JSON",)),
    "an array": ("[]", DECODE, ("is not a JSON object",)),
    "a number": ("7", DECODE, ("is not a JSON object",)),
    "trailing words": (json.dumps(config()) + " x", DECODE, ("not well-formed JSON",)),
    "deep nesting": ('{"a":' * 100_000, DECODE, ("not well-formed JSON",)),
    "no name": (config(name=None), CONFIG, ("name: missing: a string",)),
    "name of another type": (config(name=7), CONFIG, ("name: 7 is not valid: a string",)),
    "empty name": (config(name=""), CONFIG, ("name: ''", "a letter or digit")),
    "name with a slash": (config(name="a/b"), CONFIG, ("name: 'a/b'", "letters, digits")),
    "name upwards": (config(name="../net"), CONFIG, ("name: '../net'",)),
    "name of two dots": (config(name=".."), CONFIG, ("name: '..'",)),
    "name with a newline": (config(name="net\n"), CONFIG, (r"name: 'net\n'",)),
    "name with a NUL": (config(name="n\0t"), CONFIG, (r"name: 'n\x00t'",)),
    "long name": (config(name="n" * 256), CONFIG, ("name: 'nnn", "255 at most")),
    "version of another type": (config(cniVersion=1.0), CONFIG, ("cniVersion: 1.0", "a string")),
    "unknown version": (config(cniVersion="3.0.0"), VERSION, ("cniVersion: '3.0.0'", "one of 0.1.0")),
    "ipam of another type": (config(ipam=[]), CONFIG, ("ipam: []", "an object")),
    "ipam without type": (config(ipam={"subnet": "10.1.0.0/24"}), CONFIG, ("ipam.type: None", "host-local, static")),
    "ipam upwards": (config(ipam={"type": "../evil"}), CONFIG, ("ipam.type: '../evil'", "without a path")),
    "ipam unknown": (config(ipam={"type": "nobody"}), LACKS, ("ipam.type: no executable nobody in CNI_PATH",)),
    "no subnet": (ipam(), CONFIG, ("ipam.ranges: []", "at least one range set")),
    "ranges of another type": (ipam(ranges={}), CONFIG, ("ipam.ranges: {}", "an array")),
    "flat ranges": (ipam(ranges=[{"subnet": "10.1.0.0/24"}]), CONFIG, ("ipam.ranges[0]", "an array of ranges")),
    "range without subnet": (ipam(ranges=[[{}]]), CONFIG, ("ipam.ranges[0][0].subnet: missing",)),
    "subnet of another type": (part(subnet=10), CONFIG, ("ipam.ranges[0][0].subnet: 10", "a string")),
    "no subnet at all": (part(subnet="10.10.0.0"), CONFIG, ("ipam.ranges[0][0].subnet: '10.10.0.0'", "in CIDR form")),
    "subnet with host bits": (part(subnet="10.10.0.7/24"), CONFIG, ("'10.10.0.7/24'", "such as 10.10.0.0/24")),
    "tiny subnet": (part(subnet="10.10.0.0/31"), CONFIG, ("'10.10.0.0/31'", "at least four addresses")),
    "prefix too long": (part(subnet="10.10.0.0/64"), CONFIG, ("'10.10.0.0/64'", "in CIDR form")),
    "range start outside": (part(rangeStart="10.11.0.1"), CONFIG, ("rangeStart: '10.11.0.1'", "from 10.10.0.1 to")),
    "range end before start": (part(rangeStart="10.10.0.9", rangeEnd="10.10.0.8"), CONFIG, ("rangeEnd: '10.10.0.8'",)),
    "gateway outside": (part(gateway="10.11.0.1"), CONFIG, ("gateway: '10.11.0.1'", "an address from 10.10.0.0")),
    "excludes nonsense": (ipam(subnet="10.10.0.0/24", excludes=["x"]), CONFIG, ("excludes: 'x'", "an IP address")),
    "route without dst": (ipam(subnet="10.10.0.0/24", routes=[{}]), CONFIG, ("ipam.routes[0].dst: missing",)),
    "route nonsense": (ipam(subnet="10.10.0.0/24", routes=[{"dst": "x"}]), CONFIG, ("ipam.routes[0].dst: 'x'",)),
    "route of two families": (
        ipam(subnet="10.10.0.0/24", routes=[{"dst": "0.0.0.0/0", "gw": "fd00::1"}]),
        CONFIG,
        ("ipam.routes[0].gw: 'fd00::1'", "an IPv4 address"),
    ),
    "resolv.conf missing": (ipam(subnet="10.10.0.0/24", resolvConf="/no/file"), CONFIG, ("resolvConf: '/no/file'",)),
    "static nonsense": (
        config(ipam={"type": "static", "addresses": [{"address": "10.1.0.300/24"}]}),
        CONFIG,
        ("ipam.addresses[0].address: '10.1.0.300/24'", "in CIDR form"),
    ),
    "static without prefix": (
        config(ipam={"type": "static", "addresses": [{"address": "10.1.0.3"}]}),
        CONFIG,
        ("ipam.addresses[0].address: '10.1.0.3'", "in CIDR form"),
    ),
    "bridge name too long": (config(bridge="b" * 16), CONFIG, ("bridge: 'bbbbbbbbbbbbbbbb'", "1 to 15 characters")),
    "bridge name upwards": (config(bridge="../x"), CONFIG, ("bridge: '../x'", "without spaces, '/'")),
    "bridge name of dots": (config(bridge=".."), CONFIG, ("bridge: '..'",)),
    "bridge name with a newline": (config(bridge="br\n"), CONFIG, (r"bridge: 'br\n'",)),
    "bridge that is none": (config(bridge="lo"), CONFIG, ("bridge: 'lo'", "a bridge or a new name")),
    "bridge of another type": (config(bridge=5), CONFIG, ("bridge: 5", "str")),
    "MTU as words": (config(mtu="big"), CONFIG, ("mtu: 'big'", "int")),
    "MTU too small": (config(mtu=67), CONFIG, ("mtu: 67", "from 68 to 65535")),
    "MTU too large": (config(mtu=65536), CONFIG, ("mtu: 65536", "from 68 to 65535")),
    "MTU negative": (config(mtu=-1), CONFIG, ("mtu: -1", "from 68 to 65535")),
    "MTU too small for IPv6": (
        ipam(subnet="fd00::/64") | {"mtu": 1279},
        CONFIG,
        ("mtu: 1279", "from 1280 to 65535"),
    ),
    "MAC of a group": (config(mac="03:00:00:00:00:01"), CONFIG, ("mac: '03:00:00:00:00:01'", "a unicast MAC")),
    "MAC of zeros": (config(mac="00:00:00:00:00:00"), CONFIG, ("mac: '00:00:00:00:00:00'", "a unicast MAC")),
    "MAC nonsense": (config(mac="02:00"), CONFIG, ("mac: '02:00'", "six bytes in hexadecimal")),
    "runtime MAC of a group": (
        config(runtimeConfig={"mac": "ff:ff:ff:ff:ff:ff"}),
        CONFIG,
        ("runtimeConfig.mac: 'ff:ff:ff:ff:ff:ff'", "a unicast MAC"),
    ),
    "VLAN too large": (config(vlan=4095), CONFIG, ("vlan: 4095", "from 0 to 4094")),
    "VLAN trunk reversed": (config(vlanTrunk=[{"minID": 9, "maxID": 5}]), CONFIG, ("vlanTrunk[0]", "minID <= maxID")),
    "hairpin and promiscuous": (config(hairpinMode=True, promiscMode=True), CONFIG, ("promiscMode: True",)),
    "isolation of another kind": (config(isolate="maybe"), CONFIG, ("isolate: 'maybe'", '"strict"')),
    "boolean as words": (config(isGateway="yes"), CONFIG, ("isGateway: 'yes'", "bool")),
    "firewall unknown": (config(firewall="pf"), CONFIG, ("firewall: 'pf'", "auto, nft or iptables")),
    "masquerade backend unknown": (config(ipMasqBackend="pf"), CONFIG, ("ipMasqBackend: 'pf'", "nftables or iptables")),
    "dns of another type": (config(dns={"nameservers": "10.1.1.1"}), CONFIG, ("dns.nameservers: '10.1.1.1'",)),
    "dns of numbers": (config(dns={"search": [1]}), CONFIG, ("dns.search[0]: 1", "a string")),
    "runtimeConfig of another type": (config(runtimeConfig=[]), CONFIG, ("runtimeConfig: []", "an object")),
    "args of another type": (config(args={"cni": []}), CONFIG, ("args.cni: []", "an object")),
    "prevResult of another type": (config(prevResult=[]), CONFIG, ("prevResult: []", "an object")),
    "prevResult nonsense": (config(prevResult={"ips": [{}]}), CONFIG, ("prevResult.ips[0].address: missing",)),
    "asked for address outside": (
        config(runtimeConfig={"ips": ["10.11.0.5"]}),
        CONFIG,
        ("requested address: '10.11.0.5'", "an address of 10.10.0.0/24"),
    ),
    "asked for the gateway": (config(runtimeConfig={"ips": ["10.10.0.1"]}), CONFLICT, ("10.10.0.1 is the gateway",)),
    "asked for broadcast": (config(runtimeConfig={"ips": ["10.10.0.255"]}), CONFIG, ("'10.10.0.255'",)),
    "asked for nonsense": (config(runtimeConfig={"ips": ["x"]}), CONFIG, ("requested address: 'x'", "an IP address")),
    "port of another type": (ports(hostPort="80"), CONFIG, ("portMappings[0].hostPort: '80'", "a whole number")),
    "port too large": (ports(hostPort=65536), CONFIG, ("portMappings[0].hostPort: 65536", "from 1 to 65535")),
    "port negative": (ports(hostPort=-1), CONFIG, ("portMappings[0].hostPort: -1", "from 1 to 65535")),
    "no container port": (ports(containerPort=None), CONFIG, ("portMappings[0].containerPort: missing",)),
    "container port of zero": (ports(containerPort=0), CONFIG, ("portMappings[0].containerPort: 0",)),
    "protocol unknown": (ports(protocol="icmp"), CONFIG, ("portMappings[0].protocol: 'icmp'", "tcp, udp or sctp")),
    "range too long": (ports(hostPort=65000, range=1000), CONFIG, ("hostPort: 65000", "room for 1000")),
    "range of none": (ports(range=0), CONFIG, ("portMappings[0].range: 0", "from 1")),
    "host address nonsense": (ports(hostIP="example"), CONFIG, ("portMappings[0].hostIP: 'example'", "an IP address")),
    "host address of the other family": (ports(hostIP="fd00::1"), CONFIG, ("hostIP: 'fd00::1'", "IPv6")),
    "mappings of another type": (config(runtimeConfig={"portMappings": {}}), CONFIG, ("portMappings: {}", "an array")),
    "ports without an address": (ports() | {"ipam": {}}, CONFIG, ("portMappings: '8080->80/tcp'", "without addresses")),
    "internal with a way out": (config(internal=True, isDefaultGateway=True), CONFIG, ("isDefaultGateway: True",)),
    "no address wanted, yet ipam": (config(disableContainerInterface=True), CONFIG, ("disableContainerInterface",)),
}

# Arguments of the call, and the same expectations.
CALLS: dict[str, tuple[dict[str, Any], int, tuple[str, ...]]] = {
    "id with a slash": ({"container": "a/b"}, REQUEST, ("CNI_CONTAINERID: 'a/b'", "letters, digits")),
    "id upwards": ({"container": "../../etc"}, REQUEST, ("CNI_CONTAINERID: '../../etc'",)),
    "id of two dots": ({"container": ".."}, REQUEST, ("CNI_CONTAINERID: '..'",)),
    "id with a space": ({"container": "a b"}, REQUEST, ("CNI_CONTAINERID: 'a b'",)),
    "id with a newline": ({"container": "a\n"}, REQUEST, (r"CNI_CONTAINERID: 'a\n'",)),
    "long id": ({"container": "c" * 300}, REQUEST, ("CNI_CONTAINERID: 'ccc", "255 at most")),
    "long interface name": ({"ifname": "e" * 16}, REQUEST, ("CNI_IFNAME: 'eeeeeeeeeeeeeeee'", "1 to 15 characters")),
    "interface name upwards": ({"ifname": ".."}, REQUEST, ("CNI_IFNAME: '..'",)),
    "interface name with a slash": ({"ifname": "a/b"}, REQUEST, ("CNI_IFNAME: 'a/b'", "without spaces, '/'")),
    "interface name with a percent sign": ({"ifname": "eth%d"}, REQUEST, ("CNI_IFNAME: 'eth%d'",)),
    "arguments without a value": ({"args": "IP"}, REQUEST, ("CNI_ARGS: 'IP'", "KEY=VALUE")),
    "address argument nonsense": ({"args": "IP=x"}, CONFIG, ("requested address: 'x'",)),
    "MAC argument of a group": ({"args": "MAC=01:00:5e:00:00:01"}, CONFIG, ("CNI_ARGS MAC: '01:00:5e:00:00:01'",)),
    "no such namespace": ({"netns": "/run/netns/none"}, REQUEST, ("netns: '/run/netns/none'", "of an existing")),
    "namespace below a file": ({"netns": "/etc/hostname/x"}, REQUEST, ("netns: '/etc/hostname/x'",)),
    "a directory": ({"netns": "/tmp"}, REQUEST, ("netns: '/tmp'", "the path of a network namespace")),
    "an empty file": ({"netns": "FILE"}, REQUEST, ("netns: '", "the path of a network namespace")),
    "another kind of namespace": ({"netns": "/proc/self/ns/mnt"}, REQUEST, ("netns: '/proc/self/ns/mnt'",)),
    "a device": ({"netns": "/dev/null"}, REQUEST, ("netns: '/dev/null'", "the path of a network namespace")),
}


def refused(host: Host, code: int, words: tuple[str, ...], call: Callable[[], Any]) -> None:
    """The call fails as expected, and nothing changed."""
    before, rows = host.snapshot(), host.rows()
    with pytest.raises(CniFailed) as failed:
        call()
    assert failed.value.code == code, failed.value.msg
    for word in words:
        assert word in failed.value.msg
    assert "\n" not in failed.value.msg
    assert len(failed.value.msg) < 600
    assert host.snapshot() == before
    assert host.rows() == rows


@pytest.mark.parametrize("what", CONFIGURATIONS)
def test_bad_configuration(host: Host, container: Namespace, what: str) -> None:
    sent, code, words = CONFIGURATIONS[what]
    refused(host, code, words, lambda: host.call("bridge", "ADD", sent, container))
    assert container.links() == {"lo"}


@pytest.mark.parametrize("what", ["MTU too large", "no such bridge", "name upwards", "MAC of a group"])
def test_bad_configuration_of_a_network_in_use(host: Host, lab: Lab, what: str) -> None:
    """The same beside a container that is attached already."""
    host.call("bridge", "ADD", config(), lab("first"), "first")
    sent, code, words = CONFIGURATIONS.get(what, (config(bridge="lo"), CONFIG, ("bridge: 'lo'",)))
    refused(host, code, words, lambda: host.call("bridge", "ADD", sent, lab("second"), "second"))


@pytest.mark.parametrize("what", CALLS)
def test_bad_call(host: Host, container: Namespace, tmp_path: Path, what: str) -> None:
    changes, code, words = CALLS[what]
    netns: Any = changes.get("netns", container)
    if netns == "FILE":
        netns = str(tmp_path / "empty")
        Path(netns).touch()
    more = {key: value for key, value in changes.items() if key != "netns"}
    refused(host, code, words, lambda: host.call("bridge", "ADD", config(), netns, **more))
    assert container.links() == {"lo"}


def test_a_vanished_namespace_does_not_come_back_as_a_file(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "gone"
    refused(host, REQUEST, (str(path),), lambda: host.call("bridge", "ADD", config(), str(path)))
    assert not path.exists()


def test_exhausted_subnet(host: Host, lab: Lab) -> None:
    small = ipam(subnet="10.10.0.0/30")
    host.call("bridge", "ADD", small, lab("first"), "first")
    words = ("no free address in 10.10.0.1-10.10.0.2 of network net",)
    refused(host, EXHAUSTED, words, lambda: host.call("bridge", "ADD", small, lab("second"), "second"))


def test_second_family_exhausted_gives_the_first_back(host: Host, lab: Lab) -> None:
    small = ipam(ranges=[[{"subnet": "10.10.0.0/24"}], [{"subnet": "fd00::/64", "rangeEnd": "fd00::2"}]])
    host.call("bridge", "ADD", small, lab("first"), "first")
    words = ("no free address in fd00::1-fd00::2",)
    refused(host, EXHAUSTED, words, lambda: host.call("bridge", "ADD", small, lab("second"), "second"))


def test_address_taken(host: Host, lab: Lab) -> None:
    asked = config(runtimeConfig={"ips": ["10.10.0.50"]})
    host.call("bridge", "ADD", asked, lab("first"), "first")
    words = ("address 10.10.0.50 of network net is leased to net/first/eth0/bridge",)
    refused(host, CONFLICT, words, lambda: host.call("bridge", "ADD", asked, lab("second"), "second"))


def test_type_changed_while_attached(host: Host, lab: Lab) -> None:
    host.call("bridge", "ADD", config(), lab("first"), "first")
    words = ("type: 'none'", "bridge, as it is while containers are attached")
    alone = {"cniVersion": "1.1.0", "name": "net", "type": "none"}
    refused(host, CONFIG, words, lambda: host.call("none", "ADD", alone, lab("second"), "second"))


def test_a_configuration_of_another_type_is_the_executables_own(host: Host, container: Namespace) -> None:
    """The engine chooses the executable; what the configuration calls itself is only a word."""
    host.call("none", "ADD", {"cniVersion": "1.1.0", "name": "x", "type": "my-alias"}, container)


def test_unknown_keys_are_left_to_lint(host: Host, container: Namespace) -> None:
    host.call("bridge", "ADD", config(isGatway=True, comment={"any": ["thing"]}), container)
