"""The hook: attach when a container is created, detach when it has stopped.

OCI runtimes call it with the container's state on standard input (runtime-spec, runtime.md "State", config.md
"POSIX-platform Hooks"): createRuntime, or prestart with old runtimes, and poststop. LXC calls it with variables
(lxc.container.conf(5), lxc.hook.version = 1): start-host and post-stop.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from msgspec import Struct

from netdrivers import errors
from netdrivers.frontends.oci import wishes
from netdrivers.frontends.reading import check_name, decode, get, need
from netdrivers.frontends.request import Request, Response
from netdrivers.frontends.stale import drop_stale
from netdrivers.lifecycle import Lifecycle

PHASES = ("createRuntime", "prestart", "poststop")
ENGINES = ("oci", "lxc")


class Call(Struct, frozen=True):
    """One call of the hook. netns "" is a container that has stopped."""

    engine: str
    container: str
    netns: str
    annotations: Mapping[str, object] = {}


def run(request: Request, lifecycle: Lifecycle) -> Response:
    """Do what a call asks for; a failure is one line on standard error, which runtimes show."""
    try:
        call = _lxc(request.env) if "LXC_HOOK_TYPE" in request.env else _state(request.stdin)
        wished, rest = wishes.read(request.args, call.annotations)
        if rest[:1] and rest[0] not in PHASES and call.engine == "oci":
            raise errors.RequestError("argument", rest[0], ", ".join(PHASES))
        if call.netns and wished.network:
            _attach(call, wished, request, lifecycle)
        elif not call.netns:
            _detach(call.container, lifecycle)
        return Response(0)
    except errors.NetdriversError as error:
        return failure(str(error))


def failure(message: str) -> Response:
    """What a runtime shows of a hook that failed."""
    return Response(1, stderr=f"netdrivers: {message}\n".encode("utf-8", "replace"))


def internal_failure(error: BaseException) -> Response:
    """The answer for a fault of ours, without a traceback."""
    return failure(f"internal error: {type(error).__name__}: {error}")


def _state(stdin: bytes) -> Call:
    """A runtime's state. What has stopped has no process, or none that still is the container's."""
    state = decode(stdin, "the container's state")
    container = check_name(need(state, "id", str), "id", errors.RequestError)
    pid = get(state, "pid", int, 0)
    stopped = need(state, "status", str) == "stopped"
    netns = "" if stopped or pid <= 0 else f"/proc/{pid}/ns/net"
    if not stopped and not netns:
        raise errors.RequestError("pid", pid, "the container's process, unless its status is stopped")
    return Call("oci", container, netns, get(state, "annotations", dict, {}))


def _lxc(env: Mapping[str, str]) -> Call:
    """LXC's variables."""
    phase = env["LXC_HOOK_TYPE"]
    container = check_name(env.get("LXC_NAME", ""), "LXC_NAME", errors.RequestError)
    if phase == "post-stop":
        return Call("lxc", container, "")
    if phase != "start-host":
        raise errors.RequestError("LXC_HOOK_TYPE", phase, "start-host or post-stop")
    pid = env.get("LXC_PID", "")
    if not pid.isdigit():
        raise errors.RequestError("LXC_PID", pid, "the container's process (lxc.hook.version = 1)")
    return Call("lxc", container, f"/proc/{pid}/ns/net")


def _attach(call: Call, wished: wishes.Wishes, request: Request, lifecycle: Lifecycle) -> None:
    """To every network, or to none."""
    asked = wishes.wanted(wished, call.container, call.netns, call.engine, request.env)
    _refuse_host(call, request, asked)
    done: list[str] = []
    try:
        for item in asked:
            drop_stale(lifecycle, item.attachment.key)
            lifecycle.add(item.network, item.attachment, netns_fd=request.netns_fd)
            done.append(item.attachment.key)
    except errors.NetdriversError as error:
        for key in reversed(done):
            try:
                lifecycle.delete(key)
            except errors.UndoFailed as left:
                error.hint = "; ".join(filter(None, (error.hint, str(left))))
        raise


def _refuse_host(call: Call, request: Request, asked: list[wishes.Wanted]) -> None:
    """A container without a network namespace of its own would have the host's wired."""
    try:
        where = os.stat(call.netns) if request.netns_fd < 0 else os.fstat(request.netns_fd)
    except OSError:
        return  # add says what is wrong with it
    if where.st_ino == request.host_inode and any(item.network.driver != "host" for item in asked):
        raise errors.RequestError("netns", call.netns, "a network namespace of the container's own, not the host's")


def _detach(container: str, lifecycle: Lifecycle) -> None:
    """By the record alone, going on past failures."""
    failures: list[str] = []
    for record in reversed(lifecycle.store.attachments(container=container)):
        if record.attachment.engine not in ENGINES:
            continue
        try:
            lifecycle.delete(record.attachment.key)
        except errors.UndoFailed as error:
            failures += error.failures
    if failures:
        raise errors.UndoFailed(failures)
