"""Names of Docker's containers. Its network plugins are told of endpoints alone, so Docker itself is asked.

Source: Docker Engine API, /networks/{id} and /containers/{id}/json.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from contextlib import suppress

from msgspec.structs import replace

from netdrivers.errors import NetdriversError
from netdrivers.frontends.docker.kept import DockerNetwork, Folder
from netdrivers.frontends.docker.network_driver import ENGINE
from netdrivers.frontends.reading import Document, decode, get, strings
from netdrivers.lifecycle import Lifecycle
from netdrivers.state import locks
from netdrivers.state.store import AttachmentRecord

DEFAULT_SOCKET = "/run/docker.sock"
TIMEOUT_SECONDS = 5.0
TRIES, PAUSE_SECONDS = 12, 0.25
"""Docker knows an endpoint's container only some time after it has asked for the endpoint."""


def engine_socket(env: Mapping[str, str]) -> str:
    """Where Docker listens: DOCKER_HOST of an environment if it is a Unix socket, else the default."""
    host = env.get("DOCKER_HOST", "")
    return host.removeprefix("unix://") if host.startswith("unix://") else DEFAULT_SOCKET


def name_endpoints(lifecycle: Lifecycle, networks: Folder[DockerNetwork], env: Mapping[str, str]) -> None:
    """Give the attachments that have no name yet that of their container, its aliases and its short id."""
    for attempt in range(TRIES):
        nameless = [item for item in lifecycle.store.attachments() if _nameless(item)]
        if not nameless:
            return
        if attempt:
            time.sleep(PAUSE_SECONDS)
        for record in nameless:
            with suppress(OSError, NetdriversError):
                _name(record, lifecycle, networks, engine_socket(env))


def _nameless(record: AttachmentRecord) -> bool:
    own = record.attachment
    return own.engine == ENGINE and not own.label and record.state == "attached"


def _name(record: AttachmentRecord, lifecycle: Lifecycle, networks: Folder[DockerNetwork], path: str) -> None:
    own = record.attachment
    for kept in networks.all():
        if kept.network.name != own.network:
            continue
        for container, found in get(_ask(path, f"/networks/{kept.id}"), "Containers", dict, {}).items():
            if found.get("EndpointID") == own.container:
                aliases = _aliases(_ask(path, f"/containers/{container}/json"), own.container)
                _keep(own.key, found["Name"], (*aliases, container[:12]), lifecycle)
                return


def _aliases(container: Document, endpoint: str) -> tuple[str, ...]:
    settings = get(container, "NetworkSettings", dict, {})
    for network in get(settings, "Networks", dict, {}).values():
        if network.get("EndpointID") == endpoint:
            return strings(network, "Aliases")
    return ()


def _keep(key: str, name: str, aliases: tuple[str, ...], lifecycle: Lifecycle) -> None:
    store = lifecycle.store
    with locks.held(store.lock_path, key):
        record = store.attachment(key)
        if record is None or not _nameless(record):
            return
        named = replace(record.attachment, label=name, aliases=tuple(dict.fromkeys(aliases)))
        with store.writing():
            store.change_attachment(named, record.result, record.operations)
        network = store.network(named.network)
    lifecycle.names.changed(named.network, network.network if network else None)


def _ask(path: str, what: str) -> Document:
    """One GET. OSError, DecodeError."""
    from http.client import HTTPConnection, HTTPException  # it brings the whole of email along

    connection = HTTPConnection("docker", timeout=TIMEOUT_SECONDS)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.sock.settimeout(TIMEOUT_SECONDS)
        connection.sock.connect(path)
        connection.request("GET", what)
        return decode(connection.getresponse().read(), f"Docker's answer to {what}")
    except HTTPException as error:
        raise OSError(f"{what}: {error}") from None
    finally:
        connection.close()
