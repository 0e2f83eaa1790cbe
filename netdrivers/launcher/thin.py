"""The Python launcher, for hosts without a C compiler: what launcher.c does, in the fewest imports.

Started with -I -S, where even ``os`` is not loaded yet. If the service does not do the work, this
very interpreter goes on to do it.
"""

from __future__ import annotations

import _socket
import posix
import sys
import time

from netdrivers import __version__
from netdrivers.launcher import wire

TRY_AGAIN_LATER = 11
NETAVARK_PREFIX = "netdrivers-"
OCI_HOOK = "netdrivers-oci-hook"


class Declined(Exception):
    """The service does not do it; says why."""


class StillAtWork(Exception):
    """The service is alive and has not finished in time: nobody else may start the same work."""


def main(program: str) -> int:
    """Does one call of ``program`` (arguments in sys.argv, input on fd 0) and returns its exit code."""
    _fill_standard_streams()
    mode = _variable("NETDRIVERS_SERVICE") or "auto"
    if mode not in ("auto", "off", "require"):
        _write(2, b"netdrivers: NETDRIVERS_SERVICE is none of auto, off, require; taken as auto\n")
    if mode != "off":
        stdin = _take_input(program)
        try:
            code, stdout, stderr = _ask(program, stdin or b"")
        except StillAtWork as reason:
            return _fail(program, f"the netdrivers service is still at work: {reason}")
        except (Declined, OSError, ValueError) as reason:
            if mode == "require":
                return _fail(program, f"the netdrivers service is not available: {reason}")
        else:
            _write(1, stdout)
            _write(2, stderr)
            return code & 0xFF
        if stdin is not None:
            _give_back(stdin)
    from netdrivers.frontends.executable import main as in_process

    return in_process(program)


def _variable(name: str) -> str:
    return posix.environ.get(name.encode(), b"").decode("utf-8", "surrogateescape")


def _fill_standard_streams() -> None:
    """A socket must not become standard output of an engine that closed its own."""
    for fd in range(3):
        try:
            posix.fstat(fd)
        except OSError:
            posix.open("/dev/null", posix.O_RDWR)


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[posix.write(fd, data) :]


def _fail(program: str, message: str) -> int:
    """An error in the front end's form, on standard output; the exit code."""
    plain = "".join("'" if character in '"\\' or character < " " else character for character in message)
    if program.startswith(NETAVARK_PREFIX):
        text = f'{{"error":"{plain}"}}\n'
    else:
        text = f'{{"cniVersion":"1.0.0","code":{TRY_AGAIN_LATER},"msg":"{plain}"}}\n'
    _write(1, text.encode("utf-8", "surrogateescape"))
    return 1


def _take_input(program: str) -> bytes | None:
    """Standard input to its end; None where it is not ours to read (a terminal, netavark's ``info``, LXC's hooks)."""
    if posix.isatty(0) or (program.startswith(NETAVARK_PREFIX) and sys.argv[1:2] == ["info"]):
        return None
    if program == OCI_HOOK and b"LXC_HOOK_TYPE" in posix.environ:
        return None
    parts = []
    while part := posix.read(0, 1 << 20):
        parts.append(part)
    return b"".join(parts)


def _give_back(stdin: bytes) -> None:
    """Makes fd 0 a file that holds what was read from it."""
    memory = posix.memfd_create("stdin", posix.MFD_CLOEXEC)
    _write(memory, stdin)
    posix.lseek(memory, 0, 0)
    posix.dup2(memory, 0)
    posix.close(memory)


def _namespaces(program: str, stdin: bytes) -> list[int]:
    """Our own network namespace and, where the call is about one that opens, the container's."""
    spaces = [posix.open("/proc/self/ns/net", posix.O_RDONLY | posix.O_CLOEXEC)]
    path = _container(program, stdin)
    if path:
        try:
            spaces.append(posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK))
        except OSError:
            return spaces  # the front end says what is wrong with the path
    return spaces


def _container(program: str, stdin: bytes) -> bytes | None:
    """The path of the namespace: CNI says it by environment, netavark by its second argument, a hook by a process."""
    if program == OCI_HOOK:
        pid = posix.environ.get(b"LXC_PID") or _state_pid(stdin)
        return b"/proc/" + pid + b"/ns/net" if pid.isdigit() else None
    path = posix.environ.get(b"CNI_NETNS")
    if path is None and sys.argv[1:2] in (["setup"], ["teardown"]) and len(sys.argv) > 2:
        return sys.argv[2].encode("utf-8", "surrogateescape")
    return path


def _state_pid(state: bytes) -> bytes:
    """The digits of the member "pid" in a container's state (see launcher.c)."""
    for part in state.split(b'"pid"')[1:]:
        rest = part.lstrip(b" \t\r\n:")
        digits = rest[: len(rest) - len(rest.lstrip(b"0123456789"))]
        if digits:
            return digits
    return b""


def _ask(program: str, stdin: bytes) -> tuple[int, bytes, bytes]:
    """Exit code and outputs from the service; Declined, OSError or ValueError when it will not do it."""
    path = (_variable("NETDRIVERS_STATE_DIR") or "/run/netdrivers") + "/" + wire.SOCKET
    service = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    service.settimeout(0)  # a full backlog is a busy service: do not wait for it
    service.connect(path)
    service.settimeout(wire.SILENCE)
    peer = service.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    if int.from_bytes(peer[4:8], sys.byteorder) not in (0, posix.geteuid()):
        raise Declined("it runs as another user")
    args = [argument.encode("utf-8", "surrogateescape") for argument in sys.argv[1:]]
    env = [name + b"=" + value for name, value in posix.environ.items()]
    body = wire.pack_run(__version__, program, args, env, stdin)
    if len(body) > wire.BODY_LIMIT:
        raise Declined("the request is too large for it")
    frame = wire.pack_frame(wire.RUN, body)
    rights = b"".join(space.to_bytes(4, sys.byteorder) for space in _namespaces(program, stdin))
    _send(service, frame, [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    return _await_answer(service)


def _send(service: _socket.socket, frame: bytes, rights: list[tuple[int, int, bytes]]) -> None:
    """Sends the whole request, unless the service hangs up: then it may have said why."""
    try:
        sent = service.sendmsg([frame], rights, _socket.MSG_NOSIGNAL)
        service.sendall(memoryview(frame)[sent:], _socket.MSG_NOSIGNAL)
    except (BrokenPipeError, ConnectionResetError):
        return


def _await_answer(service: _socket.socket) -> tuple[int, bytes, bytes]:
    limit = _variable("NETDRIVERS_SERVICE_TIMEOUT")
    deadline = time.monotonic() + (float(limit) if limit.isdigit() and int(limit) else wire.ANSWER_LIMIT)
    while True:
        _, kind, size = wire.unpack_header(_receive(service, wire.HEADER_SIZE))
        body = _receive(service, size)
        if kind == wire.ANSWER:
            return wire.unpack_answer(body)
        if kind != wire.WORKING:
            raise Declined(body.decode("utf-8", "replace"))
        if time.monotonic() >= deadline:
            raise StillAtWork("no answer in time (NETDRIVERS_SERVICE_TIMEOUT)")


def _receive(service: _socket.socket, size: int) -> bytes:
    """Exactly ``size`` bytes."""
    data = bytearray()
    while len(data) < size:
        part = service.recv(min(size - len(data), 1 << 20))
        if not part:
            raise Declined("it was lost before it answered")
        data += part
    return bytes(data)
