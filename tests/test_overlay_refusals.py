"""What an overlay network with etcd refuses: wrong credentials, certificates, clusters, settings; and what it hides."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.authority import Authority
from tests.lab import CniFailed, Host, Namespace
from tests.overlay_lab import Etcd, World, config, hosts_of, needs_etcd, until

pytestmark = needs_etcd
PASSWORD = "tell-nobody-7"
LIMIT_SECONDS = 3.0


class Refusal:
    """Adds that must fail, and leave nothing."""

    def __init__(self, host: Host, container: Namespace) -> None:
        self._host = host
        self._container = container
        self._before = host.snapshot()

    def __call__(self, words: str, given: dict[str, Any], *codes: int) -> None:
        began = time.monotonic()
        with pytest.raises(CniFailed, match=words) as failed:
            self._host.call("overlay", "ADD", given, self._container)
        assert time.monotonic() - began < LIMIT_SECONDS
        assert failed.value.code in (codes or (7,))
        assert PASSWORD not in str(failed.value)
        assert self._host.snapshot() == self._before
        assert not self._host.rows()


@pytest.fixture
def alone(world: Callable[..., World]) -> World:
    """An etcd and a host without a service."""
    made = world(hosts=0)
    made.hosts.append(made.switch.host(1))
    return made


@pytest.fixture
def refused(alone: World, lab: Callable[..., Namespace]) -> Refusal:
    """Adds on that host."""
    return Refusal(alone.hosts[0], lab("c"))


def _users(etcd: Etcd) -> None:
    member = etcd.members[0]
    for words in (
        "user add root:root", "role add root", "user grant-role root root", "role add net",
        "role grant-permission net readwrite --prefix=true /netdrivers/", f"user add net:{PASSWORD}",
        "user grant-role net net", f"user add other:{PASSWORD}", "auth enable",
    ):  # fmt: skip
        member.ctl(*words.split())
    member.credentials = ["--user", "root:root"]


def test_credentials(alone: World, refused: Refusal) -> None:
    _users(alone.etcd)
    refused("etcd.username: missing", alone.config())
    wrong = {"username": "net", "password": PASSWORD + "x"}
    refused("etcd.username: 'net' .*a user that etcd knows", alone.config(etcd=wrong))
    other = {"username": "other", "password": PASSWORD}
    refused("etcd.username: 'other' .*below /netdrivers/", alone.config(etcd=other))
    assert not alone.etcd.names()


def test_a_password_goes_with_a_user_and_into_no_url(alone: World, refused: Refusal) -> None:
    refused("etcd.username: missing", alone.config(etcd={"password": PASSWORD}))
    refused("etcd.password: missing", alone.config(etcd={"username": "net"}))
    url = f"http://net:{PASSWORD}@192.0.2.101:2379"
    refused("etcd.endpoints.0.: .*hidden.*a URL without a user", alone.config(etcd={"endpoints": [url]}))
    refused("etcd: .*hidden", {**alone.config(), "etcd": url})
    refused("etcd: 'pasword' .*did you mean password", alone.config(etcd={"pasword": PASSWORD}))
    refused("etcd.password: .*hidden.*a string", alone.config(etcd={"password": [PASSWORD]}))
    broken = {key: value for key, value in alone.config(etcd={"password": PASSWORD}).items() if key != "vni"}
    refused("vni", broken)


def test_unreachable(alone: World, refused: Refusal) -> None:
    refused("192.0.2.101:2380: .*no answer", config(["http://192.0.2.101:2380"]), 11)
    nobody = [f"http://192.0.2.{last}:2379" for last in (201, 202, 203)]
    refused("192.0.2.201:2379.*192.0.2.202:2379.*192.0.2.203:2379", config(nobody), 11)
    alone.etcd.stop()
    refused("192.0.2.101:2379: Connection refused", alone.config(), 11)


def test_foreign_schema(alone: World, refused: Refusal) -> None:
    alone.etcd.members[0].ctl("put", "/netdrivers/schema", "7")
    refused("/netdrivers/schema is '7'", alone.config())
    assert alone.etcd.names() == ["/netdrivers/schema"]


def test_other_settings(alone: World, lab: Callable[..., Namespace], refused: Refusal) -> None:
    other = alone.switch.host(2)
    other.call("overlay", "ADD", alone.config(), lab("first"))
    for change, words in (
        ({"subnet": "10.99.0.0/16"}, "subnet: '10.99.0.0/16' .*'10.210.0.0/16', as network shop has it in etcd"),
        ({"vni": 7}, "vni: 7 .*4242"),
        ({"slicePrefix": 26}, "slicePrefix: 26 .*24"),
    ):
        refused(words, alone.config(**change))


def test_endpoints_of_two_clusters(
    alone: World, refused: Refusal, lab: Callable[..., Namespace], tmp_path: Path
) -> None:
    second = Etcd(alone.switch, lab, tmp_path, first=111).start()
    try:
        refused("etcd.endpoints: .*192.0.2.111:2379 .*an etcd of cluster",
                config([*alone.etcd.endpoints, *second.endpoints]))  # fmt: skip
        container = lab("attached")
        alone.hosts[0].call("overlay", "ADD", alone.config(), container, "attached")
        with pytest.raises(CniFailed, match="an etcd of cluster"):
            alone.hosts[0].call("overlay", "ADD", config(second.endpoints), lab("next"), "next")
        assert not second.names()
    finally:
        second.stop()


def test_no_slice_left(alone: World, lab: Callable[..., Namespace], refused: Refusal) -> None:
    small = alone.config(subnet="10.210.0.0/25", slicePrefix=26)
    for number in (2, 3):
        alone.switch.host(number).call("overlay", "ADD", small, lab(f"c{number}"))
    refused("all 2 slices of 10.210.0.0/25 belong to hosts", small, 101)


def test_certificates(world: Callable[..., World], lab: Callable[..., Namespace], tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority", ["192.0.2.101"])
    stranger = Authority(tmp_path / "stranger", ["192.0.2.101"])
    here = world(hosts=0, tls=authority)
    refused = Refusal(here.switch.host(1), lab("c"))
    good, key = authority.issue("good")
    mine = {"ca": str(authority.ca), "cert": str(good), "key": str(key)}
    refused("etcd.ca: .*192.0.2.101", here.config(etcd={**mine, "ca": str(stranger.ca)}))
    refused("etcd.ca: '/no/file' .*No such file", here.config(etcd={**mine, "ca": "/no/file"}))
    refused("etcd.cert: '/no/file'", here.config(etcd={**mine, "cert": "/no/file"}))
    refused("etcd.key: missing", here.config(etcd={"ca": mine["ca"], "cert": mine["cert"]}))
    # Whether the server says why before it hangs up is a race.
    refused("etcd.cert", here.config(etcd={"ca": mine["ca"]}), 7, 11)
    bad, bad_key = stranger.issue("bad")
    refused("bad.pem", here.config(etcd={**mine, "cert": str(bad), "key": str(bad_key)}), 7, 11)


def test_an_expired_certificate_is_replaced(world: Callable[..., World], tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority", ["192.0.2.101"])
    valid = 8.0
    issued = time.monotonic()
    cert, key = authority.issue("client", seconds=valid)
    here = world(hosts=2, tls=authority, etcd={"ca": str(authority.ca), "cert": str(cert), "key": str(key)})
    here.everybody()
    time.sleep(max(0.0, valid + 1 - (time.monotonic() - issued)))
    here.etcd.members[0].end()  # what is connected stays so, whatever becomes of its certificate
    here.etcd.members[0].start()
    here.etcd.ready()
    until(lambda: "etcd.cert" in here.services[0].network().get("error", ""), what=str(here.services[0].network()))
    here.add(here.hosts[0], "meanwhile")
    assert not here.containers.silent()
    authority.issue("client")
    until(lambda: not any(service.network()["error"] for service in here.services))
    here.settled("the new certificate")


def test_a_password_is_nowhere_to_be_seen(world: Callable[..., World], tmp_path: Path) -> None:
    here = world(hosts=0, etcd_options=["--auth-token-ttl", "2"])
    _users(here.etcd)
    file = tmp_path / "cluster.toml"
    file.write_text(f'[etcd]\nusername = "net"\npassword = "{PASSWORD}"\n')
    # One host has the password from the network's configuration, the other from a file.
    first = here.new_host()
    here.more["etcd"] = {"username": "net", "password": PASSWORD}
    here.add(first, "c1")
    here.more["etcd"] = {}
    second = here.new_host(NETDRIVERS_CLUSTER_CONFIG=str(file))
    here.add(second, "c2")
    here.settled("joining")
    time.sleep(4)  # tokens expire
    here.add(second, "c3")
    until(lambda: len([name for name in here.etcd.names() if "/attachments/" in name]) == 3)
    assert hosts_of(first) == hosts_of(second) == ["192.0.2.1", "192.0.2.2"]

    env = first.env(NETDRIVERS_CLUSTER_CONFIG=str(file))
    for words in ("inspect shop", "inspect shop --json", "network inspect shop", "network inspect shop --json",
                  "network ls --json", "peers", "peers --json", "fdb --json", "ls --json", "service status --json",
                  "inspect c1 --json"):  # fmt: skip
        done = first.run(sys.executable, "-m", "netdrivers.netctl", *words.split(), env=env, check=False)
        assert done.stdout, done.stderr
        assert PASSWORD not in done.stdout + done.stderr, words
    here.etcd.members[0].ctl("user", "passwd", "net", "--interactive=false", given="changed\n")
    here.etcd.members[0].end()
    here.etcd.members[0].start()
    for service in here.services:
        until(lambda service=service: "etcd.username" in service.network().get("error", ""))
        assert PASSWORD not in service.log.read_text()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        words_of = subprocess.run(["cat", f"/proc/{pid}/cmdline"], capture_output=True).stdout
        assert PASSWORD.encode() not in words_of
