"""Docker's side of its remote drivers: what dockerd asks, and what it does with the link that it is handed."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

from netdrivers.frontends.docker.plugin import Plugin
from netdrivers.kernel.host import Fault, Kernel
from netdrivers.lifecycle import Lifecycle
from netdrivers.state.store import Store
from tests.lab import Echo, Host, Namespace

DATA = Path(__file__).parent / "data"
GENERIC = "com.docker.network.generic"
PORTMAP = "com.docker.network.portmap"
PROTOCOLS = {"tcp": 6, "udp": 17}


def recorded(folder: str) -> list[tuple[str, str, dict[str, Any]]]:
    """(name, path, body) of every recorded request of a folder, in the order of a network's life."""
    order = (
        "plugin", "getcapabilities", "getdefault", "requestpool", "requestaddress", "discover", "allocate",
        "createnetwork", "createendpoint", "join", "program", "endpointoper", "revoke", "leave", "deleteendpoint",
        "deletenetwork", "releaseaddress", "releasepool",
    )  # fmt: skip

    def place(path: Path) -> tuple[int, str]:
        name = path.name.replace("networkdriver.", "").replace("ipamdriver.", "")
        return next(i for i, word in enumerate(order) if name.startswith(word)), path.name

    found = []
    for path in sorted((DATA / folder).glob("*.req"), key=place):
        head, _, body = path.read_text().partition("\n\n")
        found.append((path.stem, head.split()[1], json.loads(body) if body.strip() else {}))
    return found


def port(container: int, host: int = 0, protocol: str = "tcp", ip: str = "", last: int = 0) -> dict[str, Any]:
    """A binding as Docker sends it."""
    return {
        "Proto": PROTOCOLS[protocol], "IP": "", "Port": container, "HostIP": ip, "HostPort": host,
        "HostPortEnd": last or host,
    }  # fmt: skip


class DriverError(AssertionError):
    """A driver answered with an error."""


class Docker:
    """One plugin on a host, and a dockerd that calls it. A second one on the same host is what a restart gives."""

    numbers = itertools.count(1)

    def __init__(self, host: Host, data: Path, driver: str = "bridge", fault: Fault | None = None) -> None:
        self.host = host
        self.env = {"NETDRIVERS_DATA_DIR": str(data), "NETDRIVERS_NETWORKS_DIR": str(data / "networks.d")}
        self.lifecycle = Lifecycle(Store(str(host.state_dir)), Kernel(fault))
        self.plugin = Plugin(driver, self.env, lambda: self.lifecycle)

    def key(self) -> str:
        """An id as Docker makes them."""
        return hashlib.sha256(str(next(self.numbers)).encode()).hexdigest()

    def close(self) -> None:
        """Close the store."""
        self.lifecycle.store.close()

    def raw(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Status and answer of a call."""
        with self.host.entered():
            status, answer = self.plugin.answer(path, json.dumps(body).encode() if body is not None else b"")
        return status, json.loads(answer)

    def call(self, method: str, /, **body: Any) -> dict[str, Any]:
        """A call of NetworkDriver; DriverError."""
        return self._checked(f"/NetworkDriver.{method}", body, "Err")

    def ipam(self, method: str, /, **body: Any) -> dict[str, Any]:
        """A call of IpamDriver; DriverError."""
        return self._checked(f"/IpamDriver.{method}", body, "Error")

    def _checked(self, path: str, body: dict[str, Any], word: str) -> dict[str, Any]:
        status, answer = self.raw(path, body)
        assert status == 200
        if answer.get(word):
            raise DriverError(answer[word])
        return answer

    def network(self, *subnets: str, internal: bool = False, space: str = "LocalDefault", options: Any = None) -> str:
        """Create a network whose gateways are the subnets' first addresses; its id. options: as given by ``-o``."""
        key = self.key()
        data: dict[str, list[dict[str, str]]] = {"IPv4Data": [], "IPv6Data": []}
        for subnet in subnets:
            base, _, prefix = subnet.partition("/")
            gateway = f"{base}1/{prefix}" if ":" in base else f"{base.rpartition('.')[0]}.1/{prefix}"
            family = "IPv6Data" if ":" in base else "IPv4Data"
            data[family].append({"AddressSpace": space, "Pool": subnet, "Gateway": gateway})
        asked: dict[str, Any] = {GENERIC: options or {}, "com.docker.network.enable_ipv6": bool(data["IPv6Data"])}
        if internal:
            asked["com.docker.network.internal"] = True
        self.call("CreateNetwork", NetworkID=key, Options=asked, **data)
        return key

    def run(self, network: str, container: Namespace, *addresses: str, mac: str = "", ports: Any = ()) -> Endpoint:
        """What dockerd does for ``docker run``: the calls, and the link moved into the container and configured."""
        given = {"Address": "", "AddressIPv6": "", "MacAddress": mac}
        for address in addresses:
            given["AddressIPv6" if ":" in address else "Address"] = address
        endpoint = Endpoint(self, network, self.key(), container)
        options = {PORTMAP: list(ports)}
        about = {"NetworkID": network, "EndpointID": endpoint.key}
        told = self.call("CreateEndpoint", **about, Interface=given, Options=options).get("Interface") or {}
        assert not [key for key, value in told.items() if value and given[key]], "Docker refuses what it gave itself"
        endpoint.join = self.call("Join", **about, SandboxKey="/run/docker/netns/0123456789ab", Options=options)
        endpoint.enter({**given, **told})
        if endpoint.join.get("Gateway") or endpoint.join.get("GatewayIPv6"):
            self.call("ProgramExternalConnectivity", **about, Options=options)
        return endpoint


class Endpoint:
    """A container's place on a network."""

    def __init__(self, docker: Docker, network: str, key: str, container: Namespace) -> None:
        self.docker, self.network, self.key, self.container = docker, network, key, container
        self.join: dict[str, Any] = {}
        self.name = ""

    def call(self, method: str, **body: Any) -> dict[str, Any]:
        """A call about this endpoint."""
        return self.docker.call(method, NetworkID=self.network, EndpointID=self.key, **body)

    def program(self, *ports: dict[str, Any]) -> None:
        """Publish."""
        self.call("ProgramExternalConnectivity", Options={PORTMAP: list(ports)})

    def published(self) -> list[tuple[int, int]]:
        """(host port, container port) of what is published, as the driver says."""
        value = self.call("EndpointOperInfo")["Value"]
        return sorted((item["HostPort"], item["Port"]) for item in value[PORTMAP])

    def enter(self, interface: dict[str, str]) -> None:
        """Move the link into the container, and give it what it is to have."""
        source, prefix = self.join["InterfaceName"]["SrcName"], self.join["InterfaceName"]["DstPrefix"]
        taken = self.container.links()
        self.name = next(f"{prefix}{i}" for i in range(9) if f"{prefix}{i}" not in taken)
        self.docker.host.run("ip", "link", "set", source, "netns", self.container.path)
        inside = self.container.run
        inside("ip", "link", "set", source, "name", self.name)
        if interface["MacAddress"]:
            inside("ip", "link", "set", self.name, "address", interface["MacAddress"])
        for key in ("Address", "AddressIPv6"):
            if interface[key]:
                nodad = ["nodad"] if ":" in interface[key] else []
                inside("ip", "address", "add", interface[key], "dev", self.name, *nodad)
        inside("ip", "link", "set", self.name, "up")
        for key, family in (("Gateway", "-4"), ("GatewayIPv6", "-6")):
            if self.join.get(key):
                inside("ip", family, "route", "add", "default", "via", self.join[key])

    def stop(self) -> None:
        """What dockerd does when a container ends: the calls, and the link moved back in between."""
        self.call("RevokeExternalConnectivity")
        self.call("Leave")
        source = self.join["InterfaceName"]["SrcName"]
        self.container.run("ip", "link", "set", self.name, "down")
        self.container.run("ip", "link", "set", self.name, "name", source)
        self.container.run("ip", "link", "set", source, "netns", self.docker.host.path)
        self.call("DeleteEndpoint")


def served(container: Namespace, name: str = "web") -> None:
    """TCP and UDP servers in a container, on port 80, for both families."""
    container.run("ip", "link", "set", "lo", "up")
    for protocol in ("tcp", "udp"):
        Echo(container, 80, name, protocol)
        Echo(container, 80, name, protocol, 6)
