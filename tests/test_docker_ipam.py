"""Docker's IPAM driver: pools, addresses, what is remembered over a reboot, and a named network shared with others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from netdrivers.errors import AddressTaken
from netdrivers.frontends.named import named_network
from netdrivers.model import Attachment
from tests.docker_side import Docker, DriverError, port, served
from tests.lab import Host, Namespace, ask, pings

SPACE = "netdrivers"
GATEWAY = {"RequestAddressType": "com.docker.network.gateway"}
NAMED = {
    "cniVersion": "1.0.0", "name": "shop", "type": "bridge", "bridge": "br-shop", "isGateway": True, "ipMasq": True,
    "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "10.88.7.0/24"}], [{"subnet": "fd00:88:7::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}, {"dst": "192.168.44.0/24", "gw": "10.88.7.200"}],
    },
}  # fmt: skip
Make = Callable[..., Namespace]


def pool(docker: Docker, subnet: str = "", part: str = "", v6: bool = False, **options: str) -> tuple[str, str]:
    """Id and subnet of a requested pool."""
    answer = docker.ipam("RequestPool", AddressSpace=SPACE, Pool=subnet, SubPool=part, Options=options, V6=v6)
    return answer["PoolID"], answer["Pool"]


def address(docker: Docker, key: str, wanted: str = "", options: dict[str, str] | None = None) -> str:
    answer = docker.ipam("RequestAddress", PoolID=key, Address=wanted, Options=options)
    return answer["Address"]


@pytest.fixture
def named(tmp_path: Path) -> None:
    """A network of networks.d."""
    folder = tmp_path / "data" / "networks.d"
    folder.mkdir(parents=True)
    (folder / "shop.json").write_text(json.dumps(NAMED))


def test_default_pools_are_apart_from_each_other_and_from_the_host(docker: Docker, host: Host) -> None:
    host.run("ip", "link", "add", "wide", "type", "veth", "peer", "name", "other")
    host.run("ip", "link", "set", "wide", "up")
    host.run("ip", "route", "add", "10.192.0.0/23", "dev", "wide")
    first, second = pool(docker), pool(docker)
    assert (first[1], second[1]) == ("10.192.2.0/24", "10.192.3.0/24")
    assert first[0] != second[0]
    sixes = {pool(docker, v6=True)[1] for _ in range(3)}
    assert len(sixes) == 3
    assert all(subnet.startswith("fd") and subnet.endswith("::/64") for subnet in sixes)
    docker.ipam("ReleasePool", PoolID=first[0])
    assert pool(docker)[1] == "10.192.2.0/24"


def test_the_same_pool_is_counted(docker: Docker) -> None:
    one, two = pool(docker, "10.60.0.0/24"), pool(docker, "10.60.0.0/24")
    assert one == two
    assert address(docker, one[0]) == "10.60.0.1/24"
    docker.ipam("ReleasePool", PoolID=one[0])
    assert address(docker, one[0]) == "10.60.0.2/24"
    docker.ipam("ReleasePool", PoolID=one[0])
    with pytest.raises(DriverError, match="no pool"):
        address(docker, one[0])
    docker.ipam("ReleasePool", PoolID=one[0])


def test_every_address_of_a_small_pool_is_leased_once(docker: Docker) -> None:
    key, _ = pool(docker, "10.60.0.0/29")
    assert address(docker, key, options=GATEWAY) == "10.60.0.1/29"
    assert [address(docker, key) for _ in range(5)] == [f"10.60.0.{i}/29" for i in range(2, 7)]
    with pytest.raises(DriverError, match="no free address"):
        address(docker, key)
    docker.ipam("ReleaseAddress", PoolID=key, Address="10.60.0.4")
    docker.ipam("ReleaseAddress", PoolID=key, Address="10.60.0.4")
    assert address(docker, key) == "10.60.0.4/29"


def test_part_of_a_pool(docker: Docker) -> None:
    key, subnet = pool(docker, "10.60.0.0/16", "10.60.5.0/30")
    assert subnet == "10.60.0.0/16"
    assert address(docker, key, "10.60.0.1", GATEWAY) == "10.60.0.1/16"
    assert address(docker, key, "10.60.5.1") == "10.60.5.1/16"
    assert [address(docker, key) for _ in range(3)] == ["10.60.5.2/16", "10.60.5.3/16", "10.60.5.0/16"]
    assert address(docker, key, "10.60.9.9") == "10.60.9.9/16"


def test_ipv6_pool(docker: Docker) -> None:
    key, subnet = pool(docker, "fd00:60::/64")
    assert subnet == "fd00:60::/64"
    assert address(docker, key, options=GATEWAY) == "fd00:60::1/64"
    assert address(docker, key) == "fd00:60::2/64"
    assert address(docker, key, "fd00:60::ffff:1") == "fd00:60::ffff:1/64"


@pytest.mark.parametrize(
    ("method", "body", "words"),
    [
        ("RequestPool", {"AddressSpace": "other"}, "AddressSpace"),
        ("RequestPool", {"AddressSpace": SPACE, "SubPool": "10.1.0.0/24"}, "none without a Pool"),
        ("RequestPool", {"AddressSpace": SPACE, "Pool": "10.1.0.0/24", "SubPool": "10.2.0.0/25"}, "a part of"),
        ("RequestPool", {"AddressSpace": SPACE, "Pool": "10.1.0.0/31"}, "at least four addresses"),
        ("RequestPool", {"AddressSpace": SPACE, "Pool": "10.1.0.1/24"}, "without host bits"),
        ("RequestPool", {"AddressSpace": SPACE, "Pool": "ten"}, "a subnet in CIDR form"),
        ("RequestPool", {"AddressSpace": SPACE, "Options": {"a": "b"}}, "not an option of this IPAM driver"),
        ("RequestAddress", {"PoolID": "nothing"}, "no pool nothing"),
        ("RequestAddress", {}, "PoolID"),
        ("RequestAddress", {"PoolID": "netdrivers/10.60.0.0/24", "Address": "10.61.0.1"}, "an address of a host in"),
        ("RequestAddress", {"PoolID": "netdrivers/10.60.0.0/24", "Address": "10.60.0.255"}, "an address of a host in"),
        ("RequestAddress", {"PoolID": "netdrivers/10.60.0.0/24", "Address": "x"}, "an IP address"),
        ("ReleaseAddress", {"PoolID": "netdrivers/10.60.0.0/24", "Address": "x"}, "an IP address"),
        ("ReleasePool", {"PoolID": 7}, "PoolID"),
    ],
)
def test_bad_request_is_refused(docker: Docker, method: str, body: dict[str, Any], words: str) -> None:
    assert pool(docker, "10.60.0.0/24")[0] == "netdrivers/10.60.0.0/24"
    with pytest.raises(DriverError) as caught:
        docker.ipam(method, **body)
    assert words in str(caught.value)


def test_gateway_and_addresses_asked_for_by_name_are_kept_over_a_reboot(
    dockers: Callable[..., Docker], host: Host
) -> None:
    docker = dockers()
    key, _ = pool(docker, "10.60.0.0/29")
    address(docker, key, options=GATEWAY)
    address(docker, key, "10.60.0.3")
    assert address(docker, key) == "10.60.0.4/29"
    docker.close()
    again = dockers()  # the service again: everything is as it was
    with pytest.raises(DriverError, match="is leased already"):
        address(again, key, "10.60.0.4")
    again.close()
    shutil.rmtree(host.state_dir)
    booted = dockers()
    left = {address(booted, key) for _ in range(4)}
    assert left == {f"10.60.0.{i}/29" for i in (2, 4, 5, 6)}
    with pytest.raises(DriverError, match="no free address"):
        address(booted, key)
    assert address(booted, key, "10.60.0.3") == "10.60.0.3/29"  # by the container that had it
    with pytest.raises(DriverError, match="leased already"):
        address(booted, key, "10.60.0.3")
    with pytest.raises(DriverError, match="leased already"):
        address(booted, key, "10.60.0.1")


def test_pool_with_our_network_driver(docker: Docker, outside: Namespace, container: Namespace) -> None:
    key, subnet = pool(docker)
    gateway = address(docker, key, options=GATEWAY)
    network = docker.network(subnet, space=SPACE)
    docker.run(network, container, address(docker, key), ports=[port(80, 8080)])
    served(container)
    assert gateway == "10.192.0.1/24"
    assert ask(outside, "192.0.2.1", 8080) == "web 192.0.2.2"


# A network of networks.d


@pytest.mark.usefixtures("named")
def test_named_network_gives_its_own_addresses(
    docker: Docker, host: Host, outside: Namespace, container: Namespace
) -> None:
    """With Docker's IPAM driver null."""
    key = docker.key()
    data = [{"AddressSpace": "null", "Pool": "0.0.0.0/0"}]
    docker.call(
        "CreateNetwork", NetworkID=key, Options={"com.docker.network.generic": {"network": "shop"}}, IPv4Data=data
    )
    endpoint = docker.run(key, container, ports=[port(80, 8080)])
    served(container)
    assert container.addresses(endpoint.name) == {"10.88.7.2/24", "fd00:88:7::2/64"}
    assert endpoint.join["Gateway"] == "10.88.7.1"
    assert endpoint.join["GatewayIPv6"] == "fd00:88:7::1"
    assert endpoint.join["StaticRoutes"] == [
        {"Destination": "192.168.44.0/24", "RouteType": 0, "NextHop": "10.88.7.200"}
    ]
    assert ask(outside, "2001:db8:1::1", 8080) == "web 2001:db8:1::2"
    endpoint.stop()
    docker.call("DeleteNetwork", NetworkID=key)
    assert "br-shop" in host.links()  # it is not Docker's


@pytest.mark.usefixtures("named")
def test_named_network_is_shared_with_another_engine(docker: Docker, host: Host, lab: Make) -> None:
    """With our IPAM driver, which leaves the choice of an address to ``docker run --ip``."""
    key, subnet = pool(docker, "10.88.7.0/24", network="shop")
    assert address(docker, key, options=GATEWAY) == "10.88.7.1/24"
    network = docker.key()
    docker.call(
        "CreateNetwork",
        NetworkID=network,
        Options={"com.docker.network.generic": {"network": "shop"}},
        IPv4Data=[{"AddressSpace": SPACE, "Pool": subnet, "Gateway": "10.88.7.1/24"}],
    )
    other, own, late = lab("other"), lab("own"), lab("late")
    with host.entered():
        shop = named_network("shop", docker.env)
        docker.lifecycle.add(shop, Attachment("shop", "bridge", "c1", "eth0", other.path))
    assert other.addresses("eth0") == {"10.88.7.2/24", "fd00:88:7::2/64"}
    with pytest.raises(DriverError, match="leased already"):
        address(docker, key, "10.88.7.2")
    endpoint = docker.run(network, own, address(docker, key, "10.88.7.50"))
    assert "10.88.7.50/24" in own.addresses(endpoint.name)
    assert pings(own, "10.88.7.2")
    assert pings(other, "10.88.7.50")
    wanted = address(docker, key)
    second = Attachment("shop", "bridge", "c2", "eth0", late.path, addresses=(wanted.partition("/")[0],))
    with host.entered(), pytest.raises(AddressTaken, match="is leased to docker"):
        docker.lifecycle.add(shop, second)
    endpoint.stop()
    docker.ipam("ReleaseAddress", PoolID=key, Address="10.88.7.50")
    docker.ipam("ReleaseAddress", PoolID=key, Address=wanted.partition("/")[0])
    docker.ipam("ReleaseAddress", PoolID=key, Address="10.88.7.2")  # another engine's stays
    with host.entered():
        assert [owner for _, owner in docker.lifecycle.store.leases("shop")] == ["shop/c1/eth0/bridge"] * 2


@pytest.mark.usefixtures("named")
def test_address_goes_back_to_docker_when_the_attachment_fails(docker: Docker, host: Host) -> None:
    key, subnet = pool(docker, "10.88.7.0/24", network="shop")
    network = docker.key()
    docker.call(
        "CreateNetwork",
        NetworkID=network,
        Options={"com.docker.network.generic": {"network": "shop"}},
        IPv4Data=[{"AddressSpace": SPACE, "Pool": subnet}],
    )
    got = address(docker, key)
    with pytest.raises(DriverError, match=r"10\.99\.0\.1"):
        docker.call(
            "CreateEndpoint", NetworkID=network, EndpointID="a" * 64,
            Interface={"Address": got, "AddressIPv6": "10.99.0.1/24"},
        )  # fmt: skip
    docker.ipam("ReleaseAddress", PoolID=key, Address=got.partition("/")[0])
    with host.entered():
        assert docker.lifecycle.store.leases("shop") == []


@pytest.mark.usefixtures("named")
@pytest.mark.parametrize(
    ("options", "space", "words"),
    [
        ({"network": "shop"}, "LocalDefault", "shop has its own addresses"),
        ({"network": "shop", "mtu": "1400"}, SPACE, "shop has its own options"),
        ({"network": "shoo"}, SPACE, "did you mean shop"),
    ],
)
def test_named_network_refuses_what_is_not_its_own(
    docker: Docker, options: dict[str, str], space: str, words: str
) -> None:
    with pytest.raises(DriverError) as caught:
        docker.network("10.88.7.0/24", space=space, options=options)
    assert words in str(caught.value)


@pytest.mark.usefixtures("named")
def test_pool_of_a_named_network_must_be_said(docker: Docker) -> None:
    """Docker would ask for ever: it refuses a pool of its own choice that a bridge of the host has."""
    with pytest.raises(DriverError, match=r"10\.88\.7\.0/24, as the network shop has \(give it with --subnet\)"):
        pool(docker, network="shop")
    with pytest.raises(DriverError, match="says which addresses are leased"):
        pool(docker, "10.88.7.0/24", "10.88.7.0/25", network="shop")


@pytest.mark.usefixtures("named")
def test_named_network_of_another_driver(dockers: Callable[..., Docker]) -> None:
    with pytest.raises(DriverError, match="a network of the driver macvlan; that one is of netdrivers-bridge"):
        dockers("macvlan").network("10.88.7.0/24", space=SPACE, options={"network": "shop"})
