"""Run a conflist's plugins one after the other as libcni does: ours in this process, foreign ones as executables.

Source: CNI spec, section 3 (execution protocol) and the runtime's duties in sections 1 and 4.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from netdrivers.errors import ConfigError, DelegateError, HostLacks, NetdriversError
from netdrivers.frontends import dispatch
from netdrivers.frontends.cni import plugin as cni
from netdrivers.frontends.reading import decode
from netdrivers.frontends.request import Request
from netdrivers.near import near

DEFAULT_PATH = "/opt/cni/bin:/usr/lib/cni"
TIMEOUT_SECONDS = 120
LEGACY_ARGS = {"ips": "IP", "mac": "MAC"}
"""Capabilities that a plugin can be told by CNI_ARGS as well (CNI conventions)."""


class PluginFailed(NetdriversError):
    """A plugin answered with an error; code is that of our tree, or "delegate" for a foreign plugin."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.code = code


class Call(Struct, frozen=True):
    """Whom a chain is run for. args: CNI_ARGS; path: CNI_PATH; netns "" when it is gone."""

    container: str
    netns: str
    ifname: str
    args: dict[str, str] = {}
    path: str = DEFAULT_PATH


def is_ours(kind: str) -> bool:
    """Whether a plugin type is one of ours, and so done in this process."""
    return kind in dispatch.CNI_TYPES


def records(config: dict[str, Any]) -> bool:
    """Whether a plugin is a driver of ours, which keeps a record of what it did."""
    return is_ours(config["type"]) and config["type"] != "loopback"


def configured(
    name: str, version: str, plugins: Sequence[dict[str, Any]], wanted: dict[str, Any]
) -> tuple[tuple[dict[str, Any], ...], dict[str, str]]:
    """The plugins' configurations with name, version and capability arguments, and the CNI_ARGS to go with them.

    A capability goes to the plugins that declare it; where none does, to the first if it is ours.
    ConfigError when nobody takes a published port.
    """
    args: dict[str, str] = {}
    given: list[dict[str, Any]] = [dict(item.get("runtimeConfig") or {}) for item in plugins]
    for capability, value in wanted.items():
        takers = [i for i, item in enumerate(plugins) if (item.get("capabilities") or {}).get(capability)]
        if not takers and is_ours(plugins[0]["type"]):
            takers = [0]
        if not takers and capability in LEGACY_ARGS:
            args[LEGACY_ARGS[capability]] = ",".join(value) if isinstance(value, list) else value
        elif not takers:
            hint = f'"capabilities": {{"{capability}": true}} in the plugin that shall do it'
            raise ConfigError("capabilities", {}, f"{capability} in a plugin of network {name}", hint)
        for i in takers:
            given[i][capability] = value
    made = []
    for item, runtime in zip(plugins, given, strict=True):
        config = {**item, "name": name, "cniVersion": version}
        if runtime:
            config["runtimeConfig"] = runtime
        made.append(config)
    return tuple(made), args


def add(plugins: Sequence[dict[str, Any]], call: Call) -> dict[str, Any]:
    """ADD in order, each plugin told the result before it; the last result.

    When one fails, those that had succeeded are undone, and a foreign one that failed is too.
    """
    result: dict[str, Any] | None = None
    for position, config in enumerate(plugins):
        try:
            answer = _run("ADD", _after(config, result), call)
        except NetdriversError as error:
            touched = position + (not is_ours(config["type"]))
            left = delete(plugins[:touched], call, None)
            if left:
                error.hint = "; ".join(filter(None, [error.hint, *left]))
            raise
        result = decode(answer, f"the result of plugin {config['type']}") if answer else result
    return result or {}


def delete(plugins: Sequence[dict[str, Any]], call: Call, result: dict[str, Any] | None) -> list[str]:
    """DEL in reverse order, going on past failures; each failure in one line."""
    failures = []
    for config in reversed(plugins):
        try:
            _run("DEL", _after(config, result), call)
        except NetdriversError as error:
            failures.append(f"{config['type']}: {error}")
    return failures


def check_foreign(config: dict[str, Any], call: Call, result: dict[str, Any]) -> str | None:
    """CHECK by an executable, or of loopback: what it complains of, None when all is well."""
    try:
        _run("CHECK", _after(config, result), call)
    except HostLacks:
        raise
    except NetdriversError as error:
        return error.message
    return None


def environment(command: str, call: Call) -> dict[str, str]:
    """The environment of a plugin (spec, section 2)."""
    args = ";".join(f"{key}={value}" for key, value in {"IgnoreUnknown": "1", **call.args}.items())
    return {
        **os.environ,
        "NETDRIVERS_ENGINE": "netctl",
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": call.container,
        "CNI_NETNS": call.netns,
        "CNI_IFNAME": call.ifname,
        "CNI_ARGS": args,
        "CNI_PATH": call.path,
    }


def executable(kind: str, path: str) -> str:
    """The executable of a foreign plugin. HostLacks names the near one."""
    folders = [folder for folder in path.split(":") if folder]
    for folder in folders:
        candidate = os.path.join(folder, kind)
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    known = [*dispatch.CNI_TYPES, *(name for folder in folders if os.path.isdir(folder) for name in os.listdir(folder))]
    raise HostLacks(f"type: plugin {kind!r} is neither ours nor an executable in {path}", near(kind, known))


def _after(config: dict[str, Any], result: dict[str, Any] | None) -> dict[str, Any]:
    return config if result is None else {**config, "prevResult": result}


def _run(command: str, config: dict[str, Any], call: Call) -> bytes:
    """One plugin; its output. PluginFailed with the words of its error."""
    kind, env, stdin = config["type"], environment(command, call), msgspec.json.encode(config)
    if is_ours(kind):
        inode = os.stat("/proc/self/ns/net").st_ino
        response = dispatch.handle(Request(kind, (), env, stdin, host_inode=inode))
        if response.exit_code:
            raise _failure(kind, response.stdout, b"", {number: code for code, number in cni.CODES.items()})
        return response.stdout
    import subprocess

    program = executable(kind, call.path)
    try:
        done = subprocess.run([program], input=stdin, env=env, capture_output=True, timeout=TIMEOUT_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DelegateError(f"plugin {kind} {command}: {error}") from None
    if done.returncode:
        raise _failure(f"{kind} {command}", done.stdout, done.stderr, {})
    return done.stdout


def _failure(who: str, stdout: bytes, stderr: bytes, codes: dict[int, str]) -> PluginFailed:
    """The error that a plugin printed (spec, section 5, "Error"), else what it said on standard error."""
    try:
        said = msgspec.json.decode(stdout, type=_Error)
    except msgspec.MsgspecError:
        words = (stderr or stdout).decode(errors="replace").strip()
        return PluginFailed("delegate", f"plugin {who}: {words or 'failed without a word'}")
    if codes:
        return PluginFailed(codes.get(said.code, "internal"), said.msg, said.details)
    return PluginFailed("delegate", f"plugin {who}: {said.msg}", said.details)


class _Error(Struct):
    code: int
    msg: str = ""
    details: str = ""
