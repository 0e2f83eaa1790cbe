"""Docker's plugins in the service: a Unix socket for each, in the directory where Docker looks for them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from netdrivers.frontends import dispatch
from netdrivers.frontends.docker import kept
from netdrivers.frontends.docker.naming import name_endpoints
from netdrivers.frontends.docker.network_driver import sweep
from netdrivers.frontends.docker.plugin import CONTENT_TYPE, DRIVERS, Plugin
from netdrivers.service.background import BackgroundTask, Periodic, in_thread
from netdrivers.service.http import HttpServer

log = logging.getLogger(__name__)

DEFAULT_DIR = "/run/docker/plugins"
LOCK = ".netdrivers.lock"
WORKERS = 8
"""Calls of Docker at a time."""

SWEEP_INTERVAL = 30.0
"""Seconds after which it is looked for containers that died with their dockerd."""

GRACE = 20.0
"""Seconds that calls get at stop."""


def plugins_dir(state_dir: str, env: Mapping[str, str]) -> str:
    """Where the sockets go, "" for nowhere: NETDRIVERS_DOCKER_PLUGINS (a directory, or "off") of an environment.

    Unset, the default directory where Docker is installed; only for the default state directory, as
    there is one Docker and may be many services.
    """
    given = env.get("NETDRIVERS_DOCKER_PLUGINS", "")
    if given:
        return "" if given == "off" else given
    if state_dir != dispatch.DEFAULT_STATE_DIR:
        return ""
    paths = env.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").split(":")
    here = os.path.isdir(os.path.dirname(DEFAULT_DIR)) or any(os.path.exists(f"{path}/dockerd") for path in paths)
    return DEFAULT_DIR if here else ""


class DockerPlugins:
    """The background task. served is called, in the loop, after each call of Docker."""

    name = "docker"

    def __init__(
        self,
        directory: str,
        state_dir: str,
        env: Mapping[str, str],
        names: Sequence[str] = tuple(DRIVERS),
        served: Callable[[], None] = lambda: None,
    ) -> None:
        self._directory = directory
        self._plugins = {name: Plugin(DRIVERS[name], env, lambda: dispatch.lifecycle(state_dir)) for name in names}
        self._served = served
        self._workers = ThreadPoolExecutor(WORKERS, "docker")
        self._servers: dict[str, HttpServer] = {}
        self._lock = -1
        self._calls = 0
        self._error = ""

    async def start(self) -> None:
        """Opens the sockets, in place of those that a dead service left; another service's stay, and it is logged."""
        try:
            os.makedirs(self._directory, mode=0o755, exist_ok=True)
            self._claim()
            for name, plugin in self._plugins.items():
                path = f"{self._directory}/{name}.sock"
                server = HttpServer(_listener(path), self._handler(plugin), CONTENT_TYPE)
                await server.start()
                self._servers[path] = server
            self._error = ""
        except OSError as error:
            self._error = f"{self._directory}: {error.strerror or error}"
            log.error("Docker's plugins are not served: %s", self._error)
        else:
            log.info("serving Docker's plugins in %s", self._directory)

    def _claim(self) -> None:
        """Only one service for a directory."""
        self._lock = os.open(f"{self._directory}/{LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock = -1
            raise OSError("another service has them") from None

    def _handler(self, plugin: Plugin) -> Callable[[str, bytes], Any]:
        async def handle(path: str, body: bytes) -> tuple[int, bytes]:
            loop = asyncio.get_running_loop()
            answer = await loop.run_in_executor(self._workers, plugin.answer, path, body)
            self._calls += 1
            self._served()
            return answer

        return handle

    async def stop(self) -> None:
        """Removes the sockets, lets calls finish."""
        for path in self._servers:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        await asyncio.gather(*(server.stop(GRACE) for server in self._servers.values()))
        self._servers.clear()
        self._workers.shutdown(wait=False)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def nudge(self) -> None:
        """Calls of others are nothing to Docker."""

    def report(self) -> dict[str, Any]:
        """The sockets, and the calls so far."""
        return {"sockets": list(self._servers), "calls": self._calls, "error": self._error}


def _listener(path: str) -> socket.socket:
    """A listening socket at a path, for its owner alone."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(path)
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


def beside(
    tasks: Sequence[BackgroundTask], state_dir: str, env: Mapping[str, str], names: Sequence[str] = tuple(DRIVERS)
) -> Sequence[BackgroundTask]:
    """A service's tasks with Docker's plugins, if they are served here; each call of Docker nudges the others."""
    directory = plugins_dir(state_dir, env)
    if not directory:
        return tasks
    nudged = [*tasks, _namer(state_dir, env)]
    return [*nudged, _sweeper(state_dir), DockerPlugins(directory, state_dir, env, names, _nudging(nudged))]


def _namer(state_dir: str, env: Mapping[str, str]) -> BackgroundTask:
    work = in_thread(lambda: name_endpoints(dispatch.lifecycle(state_dir), kept.networks(env), env))
    return Periodic("docker's names", work, SWEEP_INTERVAL)


def _sweeper(state_dir: str) -> BackgroundTask:
    work = in_thread(lambda: sweep(dispatch.lifecycle(state_dir)))
    return Periodic("docker's dead", work, SWEEP_INTERVAL, SWEEP_INTERVAL)


def _nudging(tasks: Sequence[BackgroundTask]) -> Callable[[], None]:
    def served() -> None:
        for task in tasks:
            task.nudge()

    return served
