"""Delegation to a foreign IPAM executable, found on CNI_PATH (spec, section 4)."""

from __future__ import annotations

import os

from netdrivers.errors import DelegateError, HostLacks
from netdrivers.frontends.cni.result import parse_result
from netdrivers.frontends.reading import decode
from netdrivers.model import Lease, LeasedAddress

TIMEOUT_SECONDS = 120


class ExecutableIpam:
    """The executable of an IPAM type, called with our own environment and configuration."""

    def __init__(self, plugin: str, path: str, env: dict[str, str], config: bytes) -> None:
        self._plugin = plugin
        self._path = path
        self._env = env
        self._config = config

    def _find(self) -> str:
        for directory in filter(None, self._path.split(":")):
            candidate = os.path.join(directory, self._plugin)
            if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
                return candidate
        raise HostLacks(f"ipam.type: no executable {self._plugin} in CNI_PATH ({self._path})")

    def _run(self, command: str) -> bytes:
        import subprocess

        executable = self._find()
        try:
            done = subprocess.run(
                [executable],
                input=self._config,
                env={**self._env, "CNI_COMMAND": command},
                capture_output=True,
                timeout=TIMEOUT_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DelegateError(f"ipam {self._plugin} {command}: {error}") from None
        if done.returncode:
            raise DelegateError(f"ipam {self._plugin} {command}: {_words(done.stdout, done.stderr)}")
        return done.stdout

    def add(self) -> Lease:
        """Ask for addresses."""
        result = parse_result(decode(self._run("ADD"), f"the answer of ipam {self._plugin}"), "ipam result: ")
        addresses = tuple(LeasedAddress(item.address, item.gateway) for item in result.addresses)
        return Lease(addresses, result.routes, result.dns)

    def delete(self) -> None:
        """Give them back."""
        self._run("DEL")

    def check(self) -> None:
        """Ask whether they are still held."""
        self._run("CHECK")

    def collect(self) -> None:
        """Let it free what belongs to no valid attachment."""
        self._run("GC")

    def status(self) -> list[str]:
        """Why it could not serve an add now; empty when it could."""
        try:
            self._run("STATUS")
        except (DelegateError, HostLacks) as error:
            return [str(error)]
        return []


def _words(stdout: bytes, stderr: bytes) -> str:
    """What a failed executable said, in one line."""
    try:
        error = decode(stdout, "error")
        return f"{error.get('msg', '')} {error.get('details', '')}".strip()
    except Exception:
        return (stderr or stdout).decode(errors="replace").strip().replace("\n", "; ")[:400] or "no reason given"
