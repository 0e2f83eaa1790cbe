"""Published ports on [::1]: the kernel cannot NAT that address, so the service listens there and forwards."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from netdrivers.service.background import Periodic
from netdrivers.service.forward_tcp import TcpPort
from netdrivers.service.forward_udp import UdpPort

log = logging.getLogger(__name__)

LISTENERS = 1024
"""Ports served at a time: each costs a descriptor and some kilobytes. Those beyond are reported."""

Wanted = Mapping[tuple[str, int], tuple[str, int]]
"""(protocol, host port) to (address, port) of the container."""

_KINDS: dict[str, type[TcpPort | UdpPort]] = {"tcp": TcpPort, "udp": UdpPort}


class Forwarder:
    """Keeps listeners on [::1] as wanted. Lives in the loop."""

    def __init__(self, limit: int = LISTENERS) -> None:
        self._limit = limit
        self._ports: dict[tuple[str, int], TcpPort | UdpPort] = {}

    def sync(self, wanted: Wanted) -> dict[tuple[str, int], str]:
        """Opens what is missing and closes what is no longer wanted, connections included.

        Returns what cannot be served, and why; the next call tries again.
        """
        for key, port in list(self._ports.items()):
            if wanted.get(key) != port.target:
                self._ports.pop(key).close()
        failed = {}
        for key, target in wanted.items():
            if key not in self._ports:
                try:
                    self._open(key, target)
                except (OSError, ValueError) as error:
                    failed[key] = str(error)
        return failed

    def serving(self) -> dict[tuple[str, int], tuple[str, int]]:
        """What is listened on, and where it leads."""
        return {key: port.target for key, port in self._ports.items()}

    def close(self) -> None:
        """Serves nothing any more."""
        self.sync({})

    def _open(self, key: tuple[str, int], target: tuple[str, int]) -> None:
        protocol, number = key
        if protocol not in _KINDS:
            raise ValueError(f"{protocol} is not forwarded, only {' and '.join(_KINDS)}")
        if len(self._ports) >= self._limit:
            raise ValueError(f"only {self._limit} ports are forwarded")
        self._ports[key] = _KINDS[protocol](number, target)


class Loopback6(Periodic):
    """The background task: asks ``wanted`` (blocking, in a thread) after calls and every ``interval`` seconds."""

    def __init__(self, wanted: Callable[[], Wanted], interval: float = 2.0, settle: float = 0.02) -> None:
        super().__init__("loopback6", self._sync, interval, settle)
        self._wanted = wanted
        self._forwarder = Forwarder()
        self._failed: dict[tuple[str, int], str] = {}

    async def stop(self) -> None:
        await super().stop()
        self._forwarder.close()

    def report(self) -> dict[str, Any]:
        """Adds what is served and what cannot be."""
        serving = {_shown(key): f"{target[0]} {target[1]}" for key, target in self._forwarder.serving().items()}
        return super().report() | {
            "serving": serving,
            "failed": {_shown(key): reason for key, reason in self._failed.items()},
        }

    async def _sync(self) -> None:
        failed = self._forwarder.sync(await asyncio.to_thread(self._wanted))
        for key, reason in failed.items():
            if self._failed.get(key) != reason:
                log.warning("[::1] %s is not served: %s", _shown(key), reason)
        self._failed = failed


def _shown(key: tuple[str, int]) -> str:
    return f"{key[0]} {key[1]}"
