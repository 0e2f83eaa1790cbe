"""The cluster room without a server: slices, views, options, and what is found near a place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netaddr import IPNetwork

from netdrivers.cluster import elsewhere, keyring, layout, slices
from netdrivers.cluster.join import Identity, State
from netdrivers.cluster.layout import AttachmentEntry, HostEntry, Keys, Secret, Settings
from netdrivers.cluster.messages import Event, Header, KeyValue, Range
from netdrivers.cluster.options import HIDDEN, checked, options_of, plain_without_secrets, without_secrets
from netdrivers.cluster.rotation import due, unneeded
from netdrivers.cluster.view import View, peers_of
from netdrivers.drivers.spanning import Peer, Place, packed, unpacked
from netdrivers.errors import ConfigError, NetdriversError
from netdrivers.model import Network

KEYS = Keys("shop")
A, B = "192.0.2.1", "192.0.2.2"


@given(st.integers(8, 28), st.integers(1, 8), st.data())
def test_free_slices_are_apart_and_all_of_them_come(prefix: int, bits: int, data: st.DataObject) -> None:
    length = min(prefix + bits, 30)
    subnet = str(IPNetwork(f"10.0.0.0/{prefix}").cidr)
    every = list(slices.free(subnet, length, (), "192.0.2.7"))
    assert len(set(every)) == slices.amount(subnet, length) == 1 << (length - prefix)
    for text in (every[0], every[-1]):
        part = IPNetwork(text)
        assert part.prefixlen == length
        assert part.ip == part.network
        assert part in IPNetwork(subnet)
    taken = set(data.draw(st.lists(st.sampled_from(every), max_size=8)))
    left = list(slices.free(subnet, length, taken, "192.0.2.7"))
    assert left == [text for text in every if text not in taken]


def test_hosts_begin_at_different_slices() -> None:
    first = {next(slices.free("10.0.0.0/8", 24, (), f"192.0.2.{n}")) for n in range(1, 255)}
    assert len(first) > 250
    for text in (next(slices.free("fd00::/48", 64, (), host)) for host in (A, B)):
        assert str(IPNetwork(text).cidr) == text
        assert slices.is_slice(text, "fd00::/48", 64)
        assert not slices.is_slice(text, "fd00:1::/48", 64)


def _host(host: str, revision: int, deleted: bool = False, part: str = "10.0.1.0/24") -> Event:
    value = b"" if deleted else layout.encode(HostEntry(part))
    return Event(KeyValue(KEYS.host(host), value, mod_revision=revision), "DELETE" if deleted else "PUT")


def _attachment(host: str, container: str, revision: int, deleted: bool = False) -> Event:
    value = b"" if deleted else layout.encode(AttachmentEntry(("10.0.1.2/24",), container))
    key = KEYS.attachment(host, container, "eth0")
    return Event(KeyValue(key, value, mod_revision=revision), "DELETE" if deleted else "PUT")


def _peers(view: View) -> list[Peer]:
    """As a host sees them that has neither address nor slice of theirs."""
    who = Identity(Network("shop", "overlay"), "192.0.2.99", Settings("10.0.0.0/16", 24, 7, 4789))
    return list(peers_of(view.hosts, who, "10.0.99.0/24"))


def _known(view: View) -> list[tuple[str, bytes]]:
    return sorted((host, rest) for host, found in view.attachments.items() for rest in found)


def test_a_view_takes_no_event_that_its_state_knew() -> None:
    view = View(KEYS)
    view.restart(State(1, 10, hosts={A: HostEntry("10.0.1.0/24"), B: HostEntry("10.0.2.0/24")}))
    assert view.apply([_host(A, 9, deleted=True)]) == (False, False)
    assert [peer.host for peer in _peers(view)] == [A, B]
    assert view.apply([_host(A, 11, deleted=True)]) == (True, False)
    assert [peer.host for peer in _peers(view)] == [B]
    assert set(view.gone) == {A}
    assert view.apply([_host(A, 12)]) == (True, False)
    assert view.gone == {}
    assert view.apply([_host(A, 13)]) == (False, False), "the same again is no change"


def test_attachments_that_change_while_they_are_read_are_not_lost() -> None:
    view = View(KEYS)
    view.restart(State(1, 10))
    view.apply([_attachment(A, "late", 14), _attachment(A, "old", 15, deleted=True), _attachment(A, "gone", 11, True)])
    page = Range(Header(1, 12), tuple(_attachment(A, name, 5).kv for name in ("old", "kept")))
    view.take([page])
    assert _known(view) == [(A, b"kept/eth0"), (A, b"late/eth0")]
    assert view.apply([_attachment(B, "new", 16)]) == (False, True)
    assert _known(view)[-1] == (B, b"new/eth0")
    view.restart(State(1, 20, hosts={A: HostEntry("10.0.1.0/24")}))
    assert len(_known(view)) == 3, "a look at the hosts forgets no attachment"


@given(st.permutations(range(6)), st.integers(0, 6))
def test_a_view_is_the_same_from_wherever_it_is_followed(order: Sequence[int], cut: int) -> None:
    """Followed from the beginning, or from a state in the middle with all events replayed."""
    events = [_host((A, B)[n % 2], 20 + i, deleted=n >= 4, part=f"10.0.{n}.0/24") for i, n in enumerate(order)]
    whole = View(KEYS)
    whole.restart(State(1, 10))
    whole.apply(events)
    until = View(KEYS)
    until.restart(State(1, 10))
    until.apply(events[:cut])
    resumed = View(KEYS)
    resumed.restart(State(1, 20 + cut - 1, hosts=dict(until.hosts)))
    resumed.apply(events)
    assert _peers(resumed) == _peers(whole)


def test_a_value_that_is_not_ours_changes_nothing() -> None:
    view = View(KEYS)
    view.restart(State(1, 10, hosts={A: HostEntry("10.0.1.0/24")}))
    for value in (b"", b"{", b'{"slice": 7}', b"\xff"):
        view.apply([Event(KeyValue(KEYS.host(B), value, mod_revision=11))])
    assert [peer.host for peer in _peers(view)] == [A]


@pytest.mark.parametrize(("host", "part"), [
    ("192.0.2.3", "10.1.0.0/24"), ("192.0.2.3", "10.0.3.0/25"), ("192.0.2.3", "10.0.3.1/24"), ("192.0.2.3", "10.0.3.0"),
    ("192.0.2.3", "8.8.8.0/24"), ("192.0.2.3", "fd00::/24"), ("192.0.2.3", ""), ("192.0.2.3", "10.0.99.0/24"),
    ("192.0.2.3", "10.0.1.0/24"), ("2001:db8::3", "10.0.3.0/24"), ("192.0.2.03", "10.0.3.0/24"), ("web", "10.0.3.0/24"),
])  # fmt: skip
def test_a_host_that_cannot_be_is_left_out(host: str, part: str) -> None:
    view = View(KEYS)
    view.restart(State(1, 10, hosts={A: HostEntry("10.0.1.0/24"), host: HostEntry(part)}))
    assert [peer.host for peer in _peers(view)] == [A]


@given(st.lists(st.builds(Peer, st.sampled_from([A, B, "2001:db8::1"]), st.just("10.0.1.0/24"), st.integers(0, 9))))
def test_a_place_is_read_as_it_was_packed(hosts: list[Peer]) -> None:
    place = Place("10.0.1.0/24", tuple(hosts), ((1, "/a file"), (2, "/b")), 1 << 63, "why not")
    assert unpacked(packed(place)) == place
    assert unpacked({}) is None


@pytest.mark.parametrize("endpoint", [
    "192.0.2.1:2379", "http://192.0.2.1", "ftp://192.0.2.1:1", "http://192.0.2.1:2379/v3", "http://:2379", "http://x:y",
    "http://[::1:2379",
])  # fmt: skip
def test_an_endpoint_is_a_url_with_a_port(endpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"etcd\.endpoints\[1\]"):
        checked({"endpoints": ["http://[::1]:2379", endpoint]})


def test_the_file_gives_what_the_network_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cluster.toml"
    monkeypatch.setenv("NETDRIVERS_CLUSTER_CONFIG", str(file))
    network = Network("shop", "overlay", {"etcd": {"lease": 7}})
    with pytest.raises(ConfigError, match=r"etcd\.endpoints: missing: .*cluster\.toml"):
        options_of(network)
    file.write_text(
        '[etcd]\nendpoints = ["http://192.0.2.1:2379"]\nlease = 9\nusername = "u"\npassword = "tell-nobody"\n'
    )
    found = options_of(network)
    assert (found.endpoints, found.lease, found.password) == (("http://192.0.2.1:2379",), 7, "tell-nobody")
    assert "tell-nobody" not in repr(found) + str(found)
    for content, words in (
        ('[etcd]\npasword = "tell-nobody"\n', "did you mean password"),
        ("[etcd]\npassword = tell-nobody\n", "it is not TOML"),
        ("[etcd]\nlease = 1\n", r"cluster\.toml: etcd\.lease: 1 "),
    ):
        file.write_text(content)
        with pytest.raises(NetdriversError, match=words) as failed:
            options_of(network)
        assert "tell-nobody" not in str(failed.value)


def test_what_is_shown_of_a_network_has_no_password() -> None:
    network = Network("shop", "overlay", {"vni": 7, "etcd": {"username": "u", "password": "tell-nobody"}})
    assert without_secrets(network).options == {"vni": 7, "etcd": {"username": "u", "password": HIDDEN}}
    assert plain_without_secrets({"etcd": "http://u:tell-nobody@x"}) == {"etcd": HIDDEN}
    assert plain_without_secrets({"etcd": None}) == {"etcd": None}
    assert network.options["etcd"]["password"] == "tell-nobody"


def test_a_secret_is_made_when_the_newest_is_old_and_dropped_when_nobody_needs_it() -> None:
    fresh, old = Secret("aa"), Secret("bb", 0)
    assert due({})
    assert due({1: old})
    assert not due({1: old, 2: fresh})
    hosts = {A: HostEntry("", keys=2), B: HostEntry("", keys=3)}
    assert unneeded({1: old, 2: old, 3: fresh}, hosts) == [1]
    assert unneeded({1: old, 2: old}, {}) == [1]
    assert "aa" not in repr(fresh)


def test_secrets_are_in_files_for_root_alone(tmp_path: Path) -> None:
    found = keyring.keep(str(tmp_path), "shop", {2: Secret("cc"), 1: Secret("aa")})
    assert [(number, Path(path).read_text()) for number, path in found] == [(1, "aa\n"), (2, "cc\n")]
    assert {Path(path).stat().st_mode & 0o777 for _, path in found} == {0o600}
    keyring.keep(str(tmp_path), "shop2", {1: Secret("dd")})
    keyring.drop(str(tmp_path), "shop", {2: Secret("cc")})
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == ["shop.2", "shop2.1"]


def test_what_is_elsewhere_is_written_once(tmp_path: Path) -> None:
    assert elsewhere.read(str(tmp_path), "shop") == ()
    view = View(KEYS)
    view.restart(State(1, 10))
    view.take([Range(Header(1, 10), (_attachment(A, "own", 5).kv, _attachment(B, "web", 6).kv))])
    assert elsewhere.write(str(tmp_path), "shop", view.attachments, A)
    assert not elsewhere.write(str(tmp_path), "shop", view.attachments, A)
    ((attachment, lease),) = elsewhere.read(str(tmp_path), "shop")
    assert (attachment.container, attachment.label, lease.addresses[0].ip) == ("web", "web", "10.0.1.2")
    for rest, addresses in ((b"a b/eth0", ("10.0.1.2/24",)), (b"c/eth0", ("10.0.1.2\nx/24",)), (b"\xff/eth0", ())):
        value = layout.encode(AttachmentEntry(addresses, "web"))
        elsewhere.write(str(tmp_path), "shop", {B: {rest: value}}, A)
        assert all(not lease.addresses for _, lease in elsewhere.read(str(tmp_path), "shop"))
    elsewhere.drop(str(tmp_path), "shop")
    assert elsewhere.read(str(tmp_path), "shop") == ()
