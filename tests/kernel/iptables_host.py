"""A host with three bridges, four containers and a neighbour outside, and the iptables backend at work on it."""

from __future__ import annotations

import re
import socket
from contextlib import AbstractContextManager

from netdrivers.kernel.iptables import IptablesFirewall
from netdrivers.operations import AnyOperation, BridgePolicy, FirewallTable, Hairpin, Masquerade, Publish
from tests.kernel.wires import any_address, server, talk
from tests.lab import Namespace

TABLE = FirewallTable("iptables")
HOST = {4: "192.0.2.1", 6: "2001:db8::1"}
HOST_TOO = {4: "192.0.2.9", 6: "2001:db8::9"}
OUTSIDE = {4: "192.0.2.2", 6: "2001:db8::2"}
NET = {name: {4: f"10.{n}.0.", 6: f"fd0{n}::"} for n, name in enumerate("abc", 1)}
SUBNET = {name: {4: f"{net[4]}0/24", 6: f"{net[6]}/64"} for name, net in NET.items()}
PORT = 80


class World:
    """The host, its neighbour outside, and containers a1, a2, b1, c1 on bridges br-a, br-b, br-c."""

    def __init__(self) -> None:
        names = ("host", "outside", "a1", "a2", "b1", "c1")
        self.places = {name: Namespace(name, loopback=False) for name in names}
        self.host, self.outside = self.places["host"], self.places["outside"]
        self.firewall = IptablesFirewall()
        self._wire()
        self._settle()

    def _wire(self) -> None:
        self.sysctl("host", "ipv4/ip_forward", "1")
        self.sysctl("host", "ipv6/conf/all/forwarding", "1")
        host = ["link set lo up", f"link add wire type veth peer name eth0 netns {self.outside.path}"]
        host += [f"address add {ip}/24 dev wire" for ip in (HOST[4], HOST_TOO[4])]
        host += [f"address add {ip}/64 dev wire nodad" for ip in (HOST[6], HOST_TOO[6])]
        host.append("link set wire up")
        for name, net in NET.items():
            host += [f"link add br-{name} type bridge", f"link set br-{name} up"]
            host += [f"address add {net[4]}1/24 dev br-{name}", f"address add {net[6]}1/64 dev br-{name} nodad"]
        containers = [name for name in self.places if name not in ("host", "outside")]
        for name in containers:
            host.append(f"link add v{name} type veth peer name eth0 netns {self.places[name].path}")
            host.append(f"link set v{name} master br-{name[0]} up")
            host.append(f"link set v{name} type bridge_slave hairpin on")
        self.ip("host", *host)
        for name in ("outside", *containers):
            own = {family: self.address(name, family) for family in (4, 6)}
            via = {family: self.gateway(name, family) for family in (4, 6)}
            self.ip(
                name,
                "link set eth0 up",
                f"address add {own[4]}/24 dev eth0",
                f"address add {own[6]}/64 dev eth0 nodad",
                f"route add default via {via[4]}",
                f"route add ::/0 via {via[6]}",
            )

    def _settle(self) -> None:
        """Return when every neighbour answers in both families: a new bridge is deaf to IPv6 for a moment."""
        for name in [name for name in self.places if name != "host"]:
            for family in (4, 6):
                to = (self.gateway(name, family), PORT)
                with server(self.host, *to) as at:
                    talk(self.places[name], to, at)

    def ip(self, name: str, *lines: str) -> None:
        """Run lines of ip(8) in a namespace."""
        self.places[name].run("ip", "-batch", "-", input="\n".join(lines))

    def sysctl(self, name: str, key: str, value: str) -> None:
        """Write a value below /proc/sys/net of a namespace."""
        with self.places[name].entered(), open(f"/proc/sys/net/{key}", "w", encoding="ascii") as file:
            file.write(value)

    def serving(
        self, name: str, family: int = 4, protocol: str = "tcp", port: int = PORT
    ) -> AbstractContextManager[socket.socket]:
        """A server in a namespace."""
        return server(self.places[name], any_address(family), port, protocol)

    def address(self, name: str, family: int) -> str:
        """A container's address, or the outside's."""
        return OUTSIDE[family] if name == "outside" else f"{NET[name[0]][family]}1{name[1]}"

    def gateway(self, name: str, family: int) -> str:
        """The host's address on a container's bridge, or on the wire."""
        return HOST[family] if name == "outside" else f"{NET[name[0]][family]}1"

    def close(self) -> None:
        """Drop every namespace."""
        for place in self.places.values():
            place.close()

    def apply(self, *operations: AnyOperation) -> None:
        """Apply on the host."""
        with self.host.entered():
            for operation in operations:
                self.firewall.apply(operation)

    def undo(self, *operations: AnyOperation) -> None:
        """Undo on the host."""
        with self.host.entered():
            for operation in operations:
                self.firewall.undo(operation)

    def drift(self, operation: AnyOperation) -> str | None:
        """The drift on the host."""
        with self.host.entered():
            return self.firewall.drift(operation)

    def publish(
        self, name: str, family: int, protocol: str = "tcp", host_port: int = 8080, **fields: object
    ) -> Publish:
        """Publish a container's port 80, and give the operation."""
        operation = Publish(protocol, host_port, self.address(name, family), PORT, backend="iptables", **fields)  # type: ignore[arg-type]
        self.apply(TABLE, operation)
        return operation

    def network(self, *names: str, masquerade: bool = True) -> list[AnyOperation]:
        """What a bridge driver plans for networks: membership, masquerade, hairpin; applied."""
        found: list[AnyOperation] = [TABLE]
        for name in names:
            found.append(BridgePolicy("bridges", f"br-{name}", "iptables"))
            for subnet in SUBNET[name].values():
                found += [Masquerade(subnet, "iptables")] if masquerade else []
                found.append(Hairpin(subnet, "iptables"))
        self.apply(*found)
        return found

    def rules(self) -> dict[str, list[str]]:
        """Each family's tables as iptables-legacy-save says them, without counters and dates."""
        found = {}
        for program in ("iptables-legacy", "ip6tables-legacy"):
            found[program] = []
            for table in ("filter", "nat", "raw", "mangle"):
                lines = self.host.run(f"{program}-save", "-t", table).stdout.splitlines()
                kept = [re.sub(r"\[\d+:\d+\]", "", line) for line in lines if not line.startswith("#")]
                found[program] += [f"{table} {line}" for line in kept]
        return found
