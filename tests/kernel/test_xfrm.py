"""IPsec policies in a real kernel, read back by iproute2; keys; and what a kernel lacks, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netdrivers.errors import HostLacks
from netdrivers.kernel import xfrm
from netdrivers.kernel.host import Kernel
from netdrivers.kernel.session import ApplyFailed
from netdrivers.model import FactsQuery
from netdrivers.operations import IpsecGuard, IpsecPolicy, IpsecState, Operations
from tests.lab import Namespace

ADDRESSES = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}
SPI = 0x1234


@pytest.fixture
def here(lab: Callable[..., Namespace]) -> Iterator[Namespace]:
    """A namespace that this thread is in."""
    namespace = lab("here")
    with namespace.entered():
        yield namespace


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A secret's file."""
    path = tmp_path / "secret"
    path.write_text("5c" * 32 + "\n")
    return path


def _policies(family: int) -> Operations:
    local, peer = ADDRESSES[family]
    return (IpsecGuard(local, 4789), IpsecPolicy(local, peer, 4789, SPI, 42))


@pytest.mark.parametrize("family", [4, 6])
def test_policies_are_as_iproute2_reads_them(here: Namespace, family: int) -> None:
    kernel, (local, peer) = Kernel(), ADDRESSES[family]
    operations = _policies(family)
    kernel.apply(operations)
    bits, anybody = (32, "0.0.0.0/0") if family == 4 else (128, "::/0")
    listed = " ".join(here.run("ip", "xfrm", "policy").stdout.split())
    port = "proto udp dport 4789"
    for words in (
        f"src {local}/{bits} dst {peer}/{bits} {port} dir out priority 1000 ptype main tmpl src {local} dst {peer}"
        f" proto esp spi 0x00001234 reqid 42 mode transport",
        f"src {peer}/{bits} dst {local}/{bits} {port} dir in priority 1000 ptype main tmpl src {peer} dst {local}"
        f" proto esp reqid 42 mode transport",
        f"src {local}/{bits} dst {anybody} {port} dir out action block priority 2000",
        f"src {anybody} dst {local}/{bits} {port} dir in action block priority 2000",
    ):
        assert words in listed
    assert kernel.drift(operations) == []
    assert kernel.undo(operations) == []
    assert here.run("ip", "xfrm", "policy").stdout == ""
    assert [item.difference for item in kernel.drift(operations)] == ["policy missing", "inward policy missing"]
    assert kernel.undo(operations) == []


def test_a_policy_is_replaced_by_one_with_another_state(here: Namespace) -> None:
    kernel = Kernel()
    guard, before = _policies(4)
    after = IpsecPolicy("192.0.2.1", "192.0.2.2", 4789, 0x99, 42)
    kernel.apply((guard, before))
    kernel.apply((after,))
    assert kernel.drift((guard, after)) == []
    assert [item.difference for item in kernel.drift((before,))] == ["outward policy missing"]


def test_unencrypted_packets_are_dropped_both_ways(lab: Callable[..., Namespace], here: Namespace) -> None:
    other = lab("other")
    here.run("ip", "link", "add", "w", "type", "veth", "peer", "name", "w", "netns", other.path)
    for namespace, last in ((here, 1), (other, 2)):
        namespace.run("ip", "addr", "add", f"192.0.2.{last}/24", "dev", "w")
        namespace.run("ip", "link", "set", "w", "up")
    from tests.lab import Echo, ask

    def talk(server: Namespace, address: str, client: Namespace, port: int) -> str:
        echo = Echo(server, port, "there", "udp")
        try:
            return ask(client, address, port, "udp", 0.5)
        finally:
            echo.close()

    assert talk(here, "192.0.2.1", other, 4789) == "there 192.0.2.2"
    Kernel().apply((IpsecGuard("192.0.2.1", 4789),))
    assert talk(here, "192.0.2.1", other, 4789) == "no answer"
    assert talk(other, "192.0.2.2", here, 4789) == "no answer"
    assert talk(here, "192.0.2.1", other, 4790) == "there 192.0.2.2"


def test_each_direction_has_a_key_of_its_own() -> None:
    secret = bytes(range(32))
    keys = {
        xfrm.key_of(secret, src, dst, spi) for src, dst in (ADDRESSES[4], ADDRESSES[4][::-1]) for spi in (SPI, SPI + 1)
    }
    assert len(keys) == 4
    assert {len(key) for key in keys} == {36}
    assert xfrm.key_of(secret, *ADDRESSES[4], SPI) in keys
    assert xfrm.key_of(secret[::-1], *ADDRESSES[4], SPI) not in keys


def test_a_secret_that_is_none_is_named(here: Namespace, tmp_path: Path) -> None:
    for content in ("", "xyz", "5c" * 16):
        path = tmp_path / "bad"
        path.write_text(content)
        with pytest.raises(ApplyFailed) as failed:
            Kernel().apply((IpsecState(*ADDRESSES[4], SPI, 42, str(path)),))
        assert isinstance(failed.value.error, HostLacks)
        assert str(path) in str(failed.value.error)
        assert content == "" or content not in str(failed.value.error)


@pytest.mark.parametrize("family", [4, 6])
def test_states_are_as_iproute2_reads_them(here: Namespace, secret: Path, family: int) -> None:
    kernel, (src, dst) = Kernel(), ADDRESSES[family]
    lacking = kernel.facts(FactsQuery(encryption=True)).no_encryption[family == 6]
    if lacking:
        pytest.skip(f"needs esp: this kernel lacks {lacking}")
    state = IpsecState(src, dst, SPI, 42, str(secret))
    kernel.apply((state,))
    listed = " ".join(here.run("ip", "xfrm", "state").stdout.split())
    key = xfrm.key_of(bytes.fromhex("5c" * 32), src, dst, SPI)
    for words in (
        f"src {src} dst {dst} proto esp spi 0x00001234 reqid 42 mode transport",
        f"aead rfc4106(gcm(aes)) 0x{key.hex()} 128",
        "flag esn",
        "replay_window 128",
    ):
        assert words in listed
    assert kernel.drift((state,)) == []
    secret.write_text("6d" * 32)
    assert [item.difference for item in kernel.drift((state,))] == ["has another key"]
    kernel.undo((state,))
    assert here.run("ip", "xfrm", "state").stdout == ""
