"""Every sample of cni-configs: found clean, it attaches containers, passes packets, is checked, and leaves no trace."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from netdrivers.cluster.peers import Clustered
from netdrivers.lifecycle import Lifecycle
from netdrivers.model import Network
from tests.lab import PROJECT, Echo, Host, Namespace, ask, pings, wire
from tests.netctl.runner import Netctl
from tests.overlay_lab import Member, needs_etcd, until

SAMPLES = PROJECT / "cni-configs"
FILES = sorted(SAMPLES.glob("*.conflist"))


class Trial:
    """One sample on a host with an uplink, and containers that leave when the test ends."""

    def __init__(self, name: str, netctl: Netctl, lab: Callable[..., Namespace]) -> None:
        self.file = SAMPLES / f"{name}.conflist"
        self.netctl = netctl
        self.host = netctl.host
        self._lab = lab
        self._attached: list[Namespace] = []
        self._before = self.host.snapshot()

    def container(self, name: str, *options: str) -> tuple[Namespace, dict[str, str]]:
        """A new container on the sample's network, and its addresses by family ("4", "6")."""
        made = self._lab(name)
        return made, self.attach(made, *options)

    def attach(self, made: Namespace, *options: str) -> dict[str, str]:
        """Add, then check; the addresses by family."""
        found = self.netctl.json("add", self.file, made.path, "--id", made.name, *options)
        self._attached.append(made)
        checked = self.netctl.json("check", self.file, made.path, "--id", made.name)
        assert [item["differences"] for item in checked] == [[]]
        ips = [item["address"].partition("/")[0] for item in found["result"].get("ips", [])]
        return {"6" if ":" in ip else "4": ip for ip in ips}

    def leave(self) -> None:
        """Detach everything; the host is as it was before the first container."""
        for made in self._attached:
            assert self.netctl.json("del", self.file, made.path, "--id", made.name)["removed"]
        self.netctl.ok("gc")
        assert self.host.snapshot() == self._before
        assert self.netctl.json("ls") == []


@pytest.fixture
def trial(host: Host, outside: Namespace, tmp_path: Path, lab: Callable[..., Namespace]) -> Callable[[str], Trial]:
    """Begins the trial of a sample. Forwarding is on before, as a driver leaves it on."""
    host.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    return lambda name: Trial(name, Netctl(host, tmp_path), lab)


def reaches(client: Namespace, server: Namespace, address: str) -> bool:
    """Whether a TCP connection to an address of the server is answered."""
    echo = Echo(server, 7000, "server", family=6 if ":" in address else 4)
    try:
        return ask(client, address, 7000, timeout=1).startswith("server ")
    finally:
        echo.close()


def test_every_sample_has_a_test_and_a_line_in_the_readme() -> None:
    readme = (SAMPLES / "README.md").read_text()
    tested = {name.removeprefix("test_").replace("_", "-") for name in globals() if name.startswith("test_")}
    for file in FILES:
        assert f"| `{file.name}` |" in readme
        assert file.stem in tested


def test_the_samples_are_found_clean_together(host: Host, tmp_path: Path) -> None:
    assert Netctl(host, tmp_path).json("lint", "--strict", *FILES) == []


def test_bridge(trial: Callable[[str], Trial], outside: Namespace) -> None:
    sample = trial("bridge")
    one, address = sample.container("one")
    two, other = sample.container("two")
    assert reaches(one, two, other["4"])
    assert reaches(sample.host, one, address["4"])
    echo = Echo(outside, 7000, "outside")
    assert ask(one, "192.0.2.2", 7000) == "outside 192.0.2.1", "what leaves has the host's address"
    echo.close()
    sample.leave()


def test_bridge_published(trial: Callable[[str], Trial], outside: Namespace) -> None:
    sample = trial("bridge-published")
    web, _ = sample.container("web", "-p", "8080:80", "-p", "5353:53/udp")
    other, _ = sample.container("other")
    tcp, udp = Echo(web, 80, "web"), Echo(web, 53, "dns", "udp")
    assert ask(outside, "192.0.2.1", 8080) == "web 192.0.2.2", "from outside, with its own address"
    assert ask(sample.host, "127.0.0.1", 8080).startswith("web ")
    assert ask(other, "192.0.2.1", 8080).startswith("web ")
    assert ask(web, "192.0.2.1", 8080).startswith("web ")
    assert ask(outside, "192.0.2.1", 5353, "udp") == "dns 192.0.2.2"
    sample.leave()
    assert ask(outside, "192.0.2.1", 8080, timeout=0.5) == "no answer"
    tcp.close()
    udp.close()


def test_bridge_dual_stack(trial: Callable[[str], Trial], outside: Namespace) -> None:
    sample = trial("bridge-dual-stack")
    web, address = sample.container("web", "-p", "8080:80")
    other, _ = sample.container("other")
    for family, public, seen in ((4, "192.0.2.1", "192.0.2.2"), (6, "2001:db8:1::1", "2001:db8:1::2")):
        echo = Echo(web, 80, "web", family=family)
        assert ask(other, address[str(family)], 80).startswith("web ")
        assert ask(outside, public, 8080) == f"web {seen}"
        echo.close()
    sample.leave()


def test_bridge_fixed_address(trial: Callable[[str], Trial], outside: Namespace) -> None:
    sample = trial("bridge-fixed-address")
    chosen, address = sample.container("chosen", "--ip", "10.60.4.7", "--mac", "02:00:00:00:00:07")
    assert address == {"4": "10.60.4.7"}
    assert "02:00:00:00:00:07" in chosen.run("ip", "link", "show", "eth0").stdout
    any_one, other = sample.container("any")
    assert other["4"] == "10.60.4.100"
    assert reaches(any_one, chosen, "10.60.4.7")
    assert pings(any_one, "192.0.2.2"), "out by a gateway that is not the first address"
    sample.leave()


def test_bridge_static(trial: Callable[[str], Trial]) -> None:
    sample = trial("bridge-static")
    one, address = sample.container("one")
    assert address == {"4": "10.60.5.10"}
    assert pings(one, "192.0.2.2")
    second = sample.netctl.run("add", sample.file, sample._lab("second").path)
    assert second.returncode == 4, "one address is for one container"
    sample.leave()


def test_bridge_internal(trial: Callable[[str], Trial], outside: Namespace) -> None:
    sample = trial("bridge-internal")
    one, _ = sample.container("one")
    two, other = sample.container("two")
    assert reaches(one, two, other["4"])
    one.run("ip", "route", "add", "default", "via", "10.60.6.1")
    assert not pings(one, "192.0.2.2")
    refused = sample.netctl.run("add", sample.file, sample._lab("web").path, "-p", "8080:80")
    assert refused.returncode == 2
    assert "internal" in refused.stderr
    sample.leave()


def test_bridge_chained(trial: Callable[[str], Trial], outside: Namespace) -> None:
    sample = trial("bridge-chained")
    web, _ = sample.container("web", "-p", "8080:80")
    echo = Echo(web, 80, "web")
    assert ask(outside, "192.0.2.1", 8080).startswith("web ")
    assert ask(sample.host, "127.0.0.1", 8080).startswith("web ")
    echo.close()
    assert web.run("sysctl", "-n", "net.ipv4.ip_unprivileged_port_start").stdout.strip() == "0"
    sample.leave()


@pytest.fixture
def lan(host: Host, lab: Callable[..., Namespace]) -> Namespace:
    """A machine with 192.168.1.2 on the LAN of the samples, which is the host's default route's."""
    peer = lab("peer")
    wire(host, "lan0", peer, "eth0")
    host.run("ip", "addr", "add", "192.168.1.1/24", "dev", "lan0")
    peer.run("ip", "addr", "add", "192.168.1.2/24", "dev", "eth0")
    host.run("ip", "route", "replace", "default", "via", "192.168.1.2")
    return peer


def test_macvlan(trial: Callable[[str], Trial], lan: Namespace) -> None:
    sample = trial("macvlan")
    one, address = sample.container("one")
    two, other = sample.container("two")
    assert address == {"4": "192.168.1.200"}
    assert reaches(lan, one, address["4"])
    assert reaches(one, two, other["4"])
    assert not reaches(sample.host, one, address["4"]), "macvlan keeps host and container apart"
    sample.leave()


def test_macvlan_shim(trial: Callable[[str], Trial], lan: Namespace) -> None:
    sample = trial("macvlan-shim")
    one, address = sample.container("one")
    assert reaches(lan, one, address["4"])
    assert reaches(sample.host, one, address["4"])
    assert reaches(one, sample.host, "192.168.1.1")
    sample.leave()


def _far_end(name: str, outside: Namespace, lab: Callable[..., Namespace]) -> Namespace:
    """A container of an overlay sample on the other host."""
    assert isinstance(outside, Host)
    sample = json.loads((SAMPLES / f"{name}.conflist").read_text())
    made = lab("far")
    outside.call("overlay", "ADD", {"cniVersion": "1.0.0", "name": sample["name"], "underlay": "wire0",
                                    **sample["plugins"][0]}, made)  # fmt: skip
    return made


def test_overlay_static(trial: Callable[[str], Trial], outside: Namespace, lab: Callable[..., Namespace]) -> None:
    sample = trial("overlay-static")
    web, address = sample.container("web", "-p", "8080:80")
    far = _far_end("overlay-static", outside, lab)
    echo = Echo(web, 80, "web")
    assert ask(far, address["4"], 80) == "web 10.210.2.2"
    assert ask(outside, "192.0.2.1", 8080) == "web 192.0.2.2"
    echo.close()
    sample.leave()


@needs_etcd
def test_overlay_etcd(
    trial: Callable[[str], Trial], outside: Namespace, lab: Callable[..., Namespace], tmp_path: Path
) -> None:
    options = ["--listen-client-urls", "http://192.0.2.2:2379", "--advertise-client-urls", "http://192.0.2.2:2379"]
    etcd = Member(outside, "192.0.2.2", tmp_path / "etcd", options, None)
    etcd.start(first=True)
    try:
        until(etcd.answers)
        far = _far_end("overlay-etcd", outside, lab)
        sample = trial("overlay-etcd")
        web, address = sample.container("web")
        assert address["4"].startswith("10.220.")
        # No service runs here to tell the other host: its next container would.
        assert isinstance(outside, Host)
        with outside.lifecycle() as life:
            life.networks.change("overlay-etcd", Clustered(_settled(life), str(outside.state_dir)).claim(None))
        echo = Echo(web, 80, "web")
        assert ask(far, address["4"], 80).startswith("web 10.220.")
        echo.close()
        sample.leave()
    finally:
        etcd.end()


def _settled(life: Lifecycle) -> Network:
    record = life.store.network("overlay-etcd")
    assert record is not None
    return record.network


def test_host(trial: Callable[[str], Trial], outside: Namespace, lab: Callable[..., Namespace]) -> None:
    sample = trial("host")
    addresses = sample.attach(sample.host, "-p", "8080:8080")
    assert addresses["4"] in ("127.0.0.1", "192.0.2.1")
    echo = Echo(sample.host, 8080, "host")
    assert ask(outside, "192.0.2.1", 8080) == "host 192.0.2.2"
    echo.close()
    assert sample.netctl.run("add", sample.file, lab("other").path).returncode == 2, "only the host's own namespace"
    sample.leave()


def test_none(trial: Callable[[str], Trial]) -> None:
    sample = trial("none")
    alone, _ = sample.container("alone")
    assert alone.links() == {"lo"}
    assert pings(alone, "127.0.0.1")
    sample.leave()
