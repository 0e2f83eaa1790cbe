"""What this kernel can do, tried in a network namespace that exists only for the trial."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError as PyrouteError

from netdrivers import errors
from netdrivers.kernel import nftables
from netdrivers.kernel.namespaces import CLONE_NEWNET, inside

_BASE = "probe0"


@contextmanager
def scratch() -> Iterator[int]:
    """A descriptor of a fresh namespace, which goes with the block. PermissionError without the right to make one."""
    made: list[int] = []
    failed: list[OSError] = []

    def make() -> None:
        try:
            _unshare()
            made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    try:
        yield made[0]
    finally:
        os.close(made[0])


def _unshare() -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def probe() -> dict[str, str]:
    """Feature to what is wrong with it, "" for nothing. OSError when no namespace can be made."""
    found: dict[str, str] = {}
    with scratch() as fd, inside(fd), IPRoute() as ipr:
        for feature, attempt in _ATTEMPTS.items():
            found[feature] = _reason(attempt, ipr)
            with suppress(PyrouteError):
                ipr.link("del", ifname=_BASE)
    return found


def _reason(attempt: Callable[[Any], None], ipr: Any) -> str:
    try:
        attempt(ipr)
    except PyrouteError as error:
        return os.strerror(error.code)
    except errors.NetdriversError as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _link(**settings: Any) -> Callable[[Any], None]:
    """A link of a kind can be made."""
    return lambda ipr: ipr.link("add", ifname=_BASE, **settings) and None


def _on_parent(**settings: Any) -> Callable[[Any], None]:
    """A link of a kind can be made on another."""

    def attempt(ipr: Any) -> None:
        ipr.link("add", ifname=_BASE, kind="veth", peer={"ifname": "probe1"})
        index = ipr.link_lookup(ifname=_BASE)[0]
        ipr.link("add", ifname="probe2", link=index, **settings)

    return attempt


def _token_bucket(ipr: Any) -> None:
    ipr.link("add", ifname=_BASE, kind="veth", peer={"ifname": "probe1"})
    index = ipr.link_lookup(ifname=_BASE)[0]
    ipr.tc("add", "tbf", index, handle=0x10000, rate=1 << 20, burst=1 << 16, latency="50ms")


def _ruleset(_: Any) -> None:
    nftables.load(nftables.ruleset())


def _source_guard(_: Any) -> None:
    nftables.load(nftables.SOURCE_GUARD)


_ATTEMPTS: dict[str, Callable[[Any], None]] = {
    "veth": _link(kind="veth", peer={"ifname": "probe1"}),
    "bridge": _link(kind="bridge"),
    "vlan_filtering": _link(kind="bridge", br_vlan_filtering=1),
    "macvlan": _on_parent(kind="macvlan", macvlan_mode="bridge"),
    "ipvlan": _on_parent(kind="ipvlan", ipvlan_mode=0),
    "vxlan": _link(kind="vxlan", vxlan_id=42, vxlan_port=4789),
    "tbf": _token_bucket,
    "nft": _ruleset,
    "nft bridge": _source_guard,
}
