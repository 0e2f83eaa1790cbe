"""A Docker plugin as Docker calls it: a path and a JSON body in, a status and a JSON body out.

Source: docs of Docker Engine, "Docker Plugin API"; moby, pkg/plugins/client.go.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from netdrivers import errors
from netdrivers.frontends.docker import ipam_driver, kept, network_driver
from netdrivers.frontends.reading import Document, decode
from netdrivers.lifecycle import Lifecycle

log = logging.getLogger(__name__)

DRIVERS = {"netdrivers-bridge": "bridge", "netdrivers-macvlan": "macvlan", "netdrivers-overlay": "overlay"}
"""Docker's name of a plugin, and the driver that it is. Each is an IPAM driver as well, all of them the same one."""

CONTENT_TYPE = "application/vnd.docker.plugins.v1.2+json"

_encode = msgspec.json.Encoder().encode


class Plugin:
    """One plugin. open_lifecycle: the lifecycle of the calling thread; env: says where files are kept."""

    def __init__(self, driver: str, env: Mapping[str, str], open_lifecycle: Callable[[], Lifecycle]) -> None:
        self._driver = driver
        self._env = env
        self._open = open_lifecycle
        self._networks, self._pools = kept.networks(env), kept.pools(env)

    def answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Do what a call asks. Blocking; any thread. 404 is how Docker learns that a method is not there."""
        interface, _, method = path.strip("/").partition(".")
        try:
            if (interface, method) == ("Plugin", "Activate"):
                return 200, _encode({"Implements": ["NetworkDriver", "IpamDriver"]})
            if interface == "NetworkDriver" and method in network_driver.METHODS:
                return self._call(method, body, "Err", self._network)
            if interface == "IpamDriver" and method in ipam_driver.METHODS:
                return self._call(method, body, "Error", self._ipam)
            return 404, _encode({"Err": f"no method {path}"})
        except errors.DecodeError as error:
            return 400, _encode({"Err": str(error)})

    def _network(self, method: str, request: Document) -> dict[str, Any]:
        here = network_driver.Here(self._driver, self._env, self._open(), self._networks)
        return network_driver.METHODS[method](request, here)

    def _ipam(self, method: str, request: Document) -> dict[str, Any]:
        return ipam_driver.METHODS[method](request, ipam_driver.Here(self._env, self._open(), self._pools))

    def _call(
        self, method: str, body: bytes, word: str, work: Callable[[str, Document], dict[str, Any]]
    ) -> tuple[int, bytes]:
        """The answer, or the failure under the interface's own word for it."""
        request = decode(body, "the request") if body.strip() else {}
        try:
            return 200, _encode(work(method, request))
        except errors.NetdriversError as error:
            log.info("%s of %s: %s", method, self._driver, error)
            return 200, _encode({word: str(error)})
        except Exception as error:
            log.exception("%s of %s failed", method, self._driver)
            return 200, _encode({word: f"internal error: {type(error).__name__}: {error}"})
