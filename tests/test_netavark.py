"""The netavark plugins wire containers as Podman has them called: real packets, and what goes wrong."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from netdrivers import __version__
from netdrivers.frontends import dispatch
from netdrivers.frontends.request import Request
from netdrivers.names import server
from tests.lab import Echo, Host, Namespace, ask, pings
from tests.netavark import (
    BRIDGE,
    MACVLAN,
    asked,
    assert_same,
    container,
    done,
    network,
    plugin,
    port,
    refused,
    shared,
    still,
)
from tests.recorded import Recorded, requests
from tests.resolving import becomes, needs_server, resolv_conf, resolve, serving

# What real engines sent


def renamed(document: dict[str, Any]) -> dict[str, Any]:
    """A recorded request, for our driver."""
    made = copy.deepcopy(document)
    made.get("network", made)["driver"] = BRIDGE
    return made


def without_options(document: dict[str, Any]) -> dict[str, Any]:
    """A recorded request without the options that the recording made up."""
    made = renamed(document)
    made.get("network", made).pop("options", None)
    made.get("network_options", {}).pop("options", None)
    return made


def _recorded(verb: str) -> list[Recorded]:
    return [*requests("podman-5.4-netavark", verb), *requests("buildah-1.39-netavark", verb)]


@pytest.mark.parametrize("request_", _recorded("create"), ids=lambda r: r.name)
def test_recorded_create_is_completed(host: Host, request_: Recorded) -> None:
    given = json.loads(request_.stdin)
    if given.get("options"):
        assert f"options.{next(iter(given['options']))}" in refused(host, *request_.args, renamed(given))
    wanted = without_options(given)
    answer = done(host, *request_.args, wanted)
    subnets = answer.pop("subnets")
    interface = answer.pop("network_interface")
    assert interface == wanted.pop("network_interface", f"nd-{given['name']}")
    for subnet, before in zip(subnets, wanted.pop("subnets", [{}]), strict=True):
        assert before.items() <= subnet.items()
        assert subnet["gateway"] == subnet["subnet"].replace(".0/24", ".1")
    assert answer == wanted


@pytest.mark.parametrize("request_", _recorded("setup"), ids=lambda r: r.name)
def test_recorded_setup_and_teardown(host: Host, container_: Namespace, request_: Recorded) -> None:
    verb, _ = request_.args
    given = json.loads(request_.stdin)
    before = still(host)
    if given["network"]["options"]:
        assert "options.foo" in refused(host, verb, renamed(given), container_)
        assert_same(host, before)
    wanted = without_options(given)
    answer = done(host, verb, wanted, container_)
    options = given["network_options"]
    ifname, (address,) = options["interface_name"], options["static_ips"]
    prefix, first = f"{address}/24", given["network"]["subnets"][0]["gateway"] or "10.96.0.1"
    assert set(answer) == {"interfaces", "dns_server_ips", "dns_search_domains"}
    named = given["network"]["dns_enabled"] and server.executable() is not None
    assert answer["dns_server_ips"] == ([first] if named else given["network"]["network_dns_servers"] or [])
    said = answer["interfaces"][ifname]
    assert said["subnets"] == [{"ipnet": prefix, "gateway": first}]
    assert options["static_mac"] in (None, said["mac_address"])
    assert container_.addresses(ifname) == {prefix}
    assert said["mac_address"] in container_.run("ip", "link", "show", ifname).stdout
    assert done(host, "teardown", wanted, container_) is None
    assert container_.links() == {"lo"}
    assert_same(host, before)


@pytest.mark.parametrize("request_", _recorded("teardown"), ids=lambda r: r.name)
def test_recorded_teardown_of_what_is_not_there(host: Host, container_: Namespace, request_: Recorded) -> None:
    before = still(host)
    assert done(host, "teardown", without_options(json.loads(request_.stdin)), container_) is None
    assert_same(host, before)


@pytest.fixture
def container_(container: Namespace) -> Namespace:
    """The empty namespace of the fixture ``container``, whose name a function here has."""
    return container


def test_info(host: Host) -> None:
    assert done(host, "info", b"") == {"version": __version__, "api_version": "1.0.0", "driver": "bridge"}


def test_the_executable_speaks_the_protocol(host: Host, container_: Namespace) -> None:
    """By its own process, as Podman starts it; info reads nothing from its input."""
    code = f"import sys; from netdrivers.frontends.executable import main; sys.exit(main({BRIDGE!r}))"

    def run(*args: str, document: Any = None) -> Any:
        text = json.dumps(document) if document else ""
        said = host.run(sys.executable, "-c", code, *args, input=text, env=host.env(), check=False)
        return said.returncode, json.loads(said.stdout) if said.stdout else None

    assert run("info") == (0, {"version": __version__, "api_version": "1.0.0", "driver": "bridge"})
    given = container(network(), "10.95.0.2")
    assert run("setup", container_.path, document=given)[0] == 0
    assert container_.addresses("eth0") == {"10.95.0.2/24"}
    assert run("teardown", container_.path, document=given) == (0, None)
    assert run("dance", document=given)[0] == 1


# setup and teardown


def test_published_port_static_address_and_neighbours(
    host: Host, outside: Namespace, lab: Callable[..., Namespace]
) -> None:
    host.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")  # it stays on, and brings anycast routes
    before = still(host)
    web, other = lab("web"), lab("other")
    net = network(subnets=("10.95.0.0/24", "fd00:95::/64"))
    first = container(net, "10.95.0.77", "fd00:95::77", ports=[port(8080, 80, count=3)], static_mac="02:11:22:33:44:66")
    second = container(net, "10.95.0.2", "fd00:95::2", number=2)
    answer = done(host, "setup", first, web)
    assert answer["interfaces"] == {
        "eth0": {
            "mac_address": "02:11:22:33:44:66",
            "subnets": [
                {"ipnet": "10.95.0.77/24", "gateway": "10.95.0.1"},
                {"ipnet": "fd00:95::77/64", "gateway": "fd00:95::1"},
            ],
        }
    }
    done(host, "setup", second, other)
    servers = [Echo(web, 80, "web"), Echo(web, 82, "last", family=6)]
    try:
        assert ask(outside, "192.0.2.1", 8080) == "web 192.0.2.2"
        assert ask(outside, "2001:db8:1::1", 8082) == "last 2001:db8:1::2"
        assert ask(host, "127.0.0.1", 8080).startswith("web ")
        assert ask(web, "192.0.2.1", 8080).startswith("web ")
        assert ask(other, "10.95.0.77", 80) == "web 10.95.0.2"
        assert pings(web, "10.95.0.2")
        assert pings(web, "fd00:95::2")
    finally:
        for server in servers:
            server.close()
    done(host, "teardown", first, web)
    assert ask(outside, "192.0.2.1", 8080, timeout=0.5) == "no answer"
    assert "nd-shop" in host.links(), "the other container still uses it"
    done(host, "teardown", second, other)
    assert_same(host, before)
    assert host.rows() == {}


def test_network_reload_is_teardown_and_setup(host: Host, outside: Namespace, container_: Namespace) -> None:
    given = container(network(), "10.95.0.5", ports=[port(8080, 80)])
    done(host, "setup", given, container_)
    web = Echo(container_, 80, "web")
    try:
        host.run("nft", "flush", "ruleset")
        assert ask(outside, "192.0.2.1", 8080, timeout=0.5) == "no answer"
        done(host, "teardown", given, container_)
        done(host, "setup", given, container_)
        assert ask(outside, "192.0.2.1", 8080) == "web 192.0.2.2"
    finally:
        web.close()


@pytest.mark.parametrize("next_one", ["yard", "barn"])
def test_flushed_firewall_comes_back_for_all_networks(
    host: Host, outside: Namespace, lab: Callable[..., Namespace], next_one: str
) -> None:
    """Whichever network is the next to get a container, be it new or not."""
    nets = {name: network(name, (f"10.{96 + i}.0.0/24",)) for i, name in enumerate(("shop", "yard", "barn"))}
    shop, yard, late = lab("shop"), lab("yard"), lab("late")
    done(host, "setup", container(nets["shop"], "10.96.0.2"), shop)
    done(host, "setup", container(nets["yard"], "10.97.0.2", number=2), yard)
    host.run("nft", "flush", "ruleset")
    address = {"yard": "10.97.0.3", "barn": "10.98.0.3"}[next_one]
    done(host, "setup", container(nets[next_one], address, number=3), late)
    listener = Echo(outside, 7000, "out")
    try:
        for space in (late, yard, shop):
            assert ask(space, "192.0.2.2", 7000) == "out 192.0.2.1", "masqueraded"
    finally:
        listener.close()


def test_two_networks_publish_once(host: Host, outside: Namespace, container_: Namespace) -> None:
    """netavark hands a container's ports to each of its networks."""
    before = still(host)
    ports = [port(8080, 80), port(5353, 53, "udp")]
    calls = [
        container(network("yard", ("10.96.0.0/24",), internal=True), "10.96.0.5", ports=ports, ifname="eth1"),
        container(network("shop"), "10.95.0.5", ports=ports),
        container(network("barn", ("10.97.0.0/24",)), "10.97.0.5", ports=ports, ifname="eth2"),
    ]
    for call in calls:
        done(host, "setup", call, container_)
    listener = Echo(container_, 80, "web")
    try:
        assert ask(outside, "192.0.2.1", 8080) == "web 192.0.2.2"
        assert ask(host, "10.96.0.5", 80).startswith("web ")
        assert ask(host, "10.97.0.5", 80).startswith("web ")
        done(host, "teardown", calls[1], container_)
        assert ask(outside, "192.0.2.1", 8080) == "web 192.0.2.2", "by the network that is left"
    finally:
        listener.close()
    for call in calls:
        done(host, "teardown", call, container_)
    assert_same(host, before)


def test_containers_find_each_other_by_name(host: Host, lab: Callable[..., Namespace], tmp_path: Path) -> None:
    """Podman's own network with its name service on, which netavark leaves to the plugin."""
    needs_server()
    net = network(dns_enabled=True)
    one, two = lab("one"), lab("two")
    first, second = container(net, "10.95.0.2"), container(net, "10.95.0.3", number=2, aliases=["redis"])
    answer = done(host, "setup", first, one)
    assert answer["dns_server_ips"] == ["10.95.0.1"]
    done(host, "setup", second, two)
    conf = resolv_conf(
        {"nameservers": answer["dns_server_ips"], "search": answer["dns_search_domains"]}, tmp_path / "resolv.conf"
    )
    for name in ("c2", "redis"):
        assert becomes(lambda name=name: resolve(one, conf, name), {"10.95.0.3"}) == {"10.95.0.3"}
    done(host, "teardown", second, two)
    assert becomes(lambda: resolve(one, conf, "redis"), set()) == set()
    done(host, "teardown", first, one)
    assert becomes(lambda: serving(host), []) == []


def test_options_have_their_meaning(host: Host, container_: Namespace) -> None:
    options = {"mtu": "1400", "metric": "7"}
    routes = [{"destination": "10.50.0.0/16", "gateway": "10.95.0.9", "metric": 20}]
    done(host, "setup", container(network(options=options, routes=routes), "10.95.0.2"), container_)
    found = {
        (route["dst"], route.get("gateway"), route.get("metric"))
        for route in json.loads(container_.run("ip", "-j", "route").stdout)
    }
    assert {("default", "10.95.0.1", 7), ("10.50.0.0/16", "10.95.0.9", 20)} <= found
    assert "mtu 1400" in container_.run("ip", "link", "show", "eth0").stdout
    assert "mtu 1400" in host.run("ip", "link", "show", "nd-shop").stdout


@pytest.mark.parametrize("more", [{"options": {"no_default_route": "true"}}, {"internal": True}])
def test_no_default_route(host: Host, container_: Namespace, more: dict[str, Any]) -> None:
    done(host, "setup", container(network(**more), "10.95.0.2"), container_)
    assert "default" not in container_.run("ip", "route").stdout
    assert pings(container_, "10.95.0.1")


def test_isolated_networks_do_not_reach_each_other(host: Host, lab: Callable[..., Namespace]) -> None:
    nets = [network("shop"), network("yard", ("10.96.0.0/24",)), network("barn", ("10.97.0.0/24",))]
    for net in nets[:2]:
        net["options"] = {"isolate": "true"}
    spaces = [lab("a"), lab("b"), lab("c")]
    for i, (net, space) in enumerate(zip(nets, spaces, strict=True)):
        done(host, "setup", container(net, f"10.{95 + i}.0.5", number=i), space)
    assert not pings(spaces[0], "10.96.0.5")
    assert pings(spaces[0], "10.97.0.5")


def test_unmanaged_bridge_is_left_as_it_is(host: Host, container_: Namespace) -> None:
    host.run("ip", "link", "add", "br9", "address", "02:00:00:00:00:09", "type", "bridge")
    host.run("ip", "addr", "add", "10.95.0.1/24", "dev", "br9")
    host.run("ip", "link", "set", "br9", "up")
    before, links = still(host), host.links()
    net = network(network_interface="br9", options={"mode": "unmanaged"})
    given = container(net, "10.95.0.2", ports=[port(8080, 80)])
    done(host, "setup", given, container_)
    assert pings(container_, "10.95.0.1")
    assert host.snapshot()["nft"] == before["nft"]
    done(host, "teardown", given, container_)
    assert host.links() == links
    # Its carrier comes and goes with its ports, and that shows in a link's flags.
    assert {**host.snapshot(), "links": None} == {**before, "links": None}


def test_host_interface_name(host: Host, container_: Namespace) -> None:
    given = container(network(), "10.95.0.2", options={"host_interface_name": "web0"})
    done(host, "setup", given, container_)
    assert "web0" in host.links()
    done(host, "teardown", given, container_)
    assert "web0" not in host.links()
    wrong = container(network(), "10.95.0.2", options={"host_interface": "web0"})
    assert "did you mean host_interface_name?" in refused(host, "setup", wrong, container_)


def test_macvlan(host: Host, outside: Namespace, container_: Namespace) -> None:
    before = still(host)
    created = done(
        host,
        "create",
        asked(
            "lan", driver=MACVLAN, options={"parent": "wire0", "mode": "bridge"}, subnets=[{"subnet": "192.0.2.0/24"}]
        ),
        program=MACVLAN,
    )
    assert (created["network_interface"], created["options"]) == ("wire0", {"mode": "bridge"})
    net = {**created, "subnets": [{**created["subnets"][0], "gateway": "192.0.2.2"}]}
    given = container(net, "192.0.2.50", ports=[port(8080, 80)])
    answer = done(host, "setup", given, container_, MACVLAN)
    assert answer["interfaces"]["eth0"]["subnets"] == [{"ipnet": "192.0.2.50/24", "gateway": "192.0.2.2"}]
    listener = Echo(container_, 80, "web")
    try:
        assert ask(outside, "192.0.2.50", 80) == "web 192.0.2.2"
    finally:
        listener.close()
    done(host, "teardown", given, container_, MACVLAN)
    assert container_.links() == {"lo"}
    assert_same(host, before)


# What goes wrong


def test_failed_setup_leaves_the_host_as_it_was(host: Host, lab: Callable[..., Namespace]) -> None:
    before = still(host)
    listener = Echo(host, 8080, "mine")
    try:
        given = container(network(), "10.95.0.2", ports=[port(8080, 80)])
        assert "8080/tcp" in refused(host, "setup", given, lab("web"))
    finally:
        listener.close()
    assert_same(host, before)
    assert host.rows() == {}


KEEPER = """
import socket, sys
with open("/proc/self/comm", "w") as file:
    file.write(sys.argv[1])
server = socket.create_server(("0.0.0.0", 8080))
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("name", "fits"), [("podman", True), ("conmon", True), ("podmanx", False)])
def test_podman_itself_holds_the_port(
    host: Host, outside: Namespace, container_: Namespace, name: str, fits: bool
) -> None:
    """Podman binds a container's ports before it has it wired, so that nobody else listens there."""
    command = ["nsenter", f"--net={host.path}", "--", sys.executable, "-c", KEEPER, name]
    keeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    web = Echo(container_, 80, "web")
    try:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == b"ready\n"
        given = container(network(), "10.95.0.2", ports=[port(8080, 80)])
        if fits:
            done(host, "setup", given, container_)
            assert ask(outside, "192.0.2.1", 8080) == "web 192.0.2.2"
        else:
            assert "held by podmanx" in refused(host, "setup", given, container_)
    finally:
        web.close()
        keeper.communicate()


def test_address_and_port_of_another_container(host: Host, lab: Callable[..., Namespace]) -> None:
    done(host, "setup", container(network(), "10.95.0.2", ports=[port(8080, 80)]), lab("one"))
    taken = container(network(), "10.95.0.2", number=2)
    assert "10.95.0.2" in refused(host, "setup", taken, lab("two"))
    busy = container(network(), "10.95.0.3", number=3, ports=[port(8080, 80)])
    assert "8080/tcp" in refused(host, "setup", busy, lab("three"))
    gateway = container(network(), "10.95.0.1", number=4)
    assert "gateway" in refused(host, "setup", gateway, lab("four"))


def test_setup_twice_is_refused_but_a_dead_namespace_makes_room(host: Host, lab: Callable[..., Namespace]) -> None:
    first = lab("first")
    given = container(network(), "10.95.0.2", ports=[port(8080, 80)])
    done(host, "setup", given, first)
    assert "already" in refused(host, "setup", given, first)
    assert "already" in refused(host, "setup", given, lab("second")), "the first is alive"
    veths = host.links() - {"lo", "nd-shop"}
    first.close()
    for _ in range(100):  # the kernel takes a moment to clear a namespace away
        if not veths & host.links():
            break
        time.sleep(0.05)
    third = lab("third")
    done(host, "setup", given, third)
    assert third.addresses("eth0") == {"10.95.0.2/24"}


def test_teardown_with_the_namespace_gone(host: Host, lab: Callable[..., Namespace]) -> None:
    before = still(host)
    web = lab("web")
    given = container(network(), "10.95.0.2", ports=[port(8080, 80)])
    done(host, "setup", given, web)
    path = web.path
    web.close()
    for _ in range(2):
        with host.entered():
            stdin = json.dumps(given).encode()
            response = dispatch.handle(Request(BRIDGE, ("teardown", path), host.env(), stdin))
        assert (response.exit_code, response.stdout) == (0, b"")
    assert_same(host, before)


def test_same_name_in_another_engine(host: Host, lab: Callable[..., Namespace]) -> None:
    """The other engine's network is not changed under its containers."""
    config = {
        "cniVersion": "1.0.0", "name": "shop", "type": "bridge", "bridge": "cni9", "isGateway": True,
        "ipam": {"type": "host-local", "subnet": "10.30.0.0/24"},
    }  # fmt: skip
    host.call("bridge", "ADD", config, lab("cni"))
    message = refused(host, "setup", container(network("shop"), "10.95.0.2"), lab("podman"))
    assert "network shop is in use" in message
    assert "in use" in refused(host, "create", asked("shop"))


def test_named_network_is_shared_with_other_engines(host: Host, lab: Callable[..., Namespace]) -> None:
    config = {
        "cniVersion": "1.0.0", "name": "shop", "type": "bridge", "bridge": "br-shop", "isGateway": True, "ipMasq": True,
        "ipam": {"type": "host-local", "subnet": "10.30.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]},
    }  # fmt: skip
    shared(host, config)
    created = done(host, "create", asked("front", options={"network": "shop"}))
    assert created["ipam_options"] == {"driver": "none"}, "the named network's pool is everybody's"
    assert "subnets" not in created
    assert "did you mean shop?" in refused(host, "create", asked("front", options={"network": "shopp"}))
    assert "netdrivers-bridge" in refused(
        host, "create", asked("front", driver=MACVLAN, options={"network": "shop"}), program=MACVLAN
    )
    foreign, ours, second = lab("cni"), lab("podman"), lab("podman2")
    host.call("bridge", "ADD", config, foreign, "other")
    given = container(created, number=1)
    answer = done(host, "setup", given, ours)
    assert answer["interfaces"]["eth0"]["subnets"] == [{"ipnet": "10.30.0.3/24", "gateway": "10.30.0.1"}]
    fixed = container(created, "10.30.0.40", number=2)
    done(host, "setup", fixed, second)
    assert pings(ours, "10.30.0.2")
    assert pings(foreign, "10.30.0.40")
    for call, space in ((given, ours), (fixed, second)):
        done(host, "teardown", call, space)
    assert "br-shop" in host.links(), "the other engine still uses it"


def test_malformed_input(host: Host, container_: Namespace) -> None:
    assert "JSON" in refused(host, "setup", b"{", container_)
    assert "setup NETNS" in refused(host, "dance", {})
    assert "namespace" in refused(host, "setup", container(network(), "10.95.0.2"))


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in items for place in ((*path, key), *_places(item, (*path, key)))]


FULL = container(network(), "10.95.0.2", ports=[port(8080, 80)], static_mac="02:00:00:00:00:01")


@pytest.mark.parametrize("place", _places(FULL), ids=lambda place: ".".join(map(str, place)))
def test_every_mistyped_field_is_named_or_does_not_matter(host: Host, container_: Namespace, place: Any) -> None:
    document = copy.deepcopy(FULL)
    holder = document
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = 3.5
    before = still(host)
    code, answer = plugin(host, "setup", document, container_)
    if code:
        word = next(str(key) for key in reversed(place) if isinstance(key, str))
        assert "internal error" not in answer["error"]
        assert word.replace("_", "").lower() in answer["error"].replace("_", "").lower()
        assert_same(host, before)
    else:
        assert place[-1] in ("id", "driver", "dns_enabled", "ipv6_enabled", "created"), "taken without a look"
        done(host, "teardown", document, container_)
