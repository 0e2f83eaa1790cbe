"""The in-process path of an executable: read the call, do the work in this interpreter, answer."""

from __future__ import annotations

import os
import sys

# msgspec would rather have typing_extensions, which brings inspect along: a third of msgspec's import.
sys.modules["typing_extensions"] = None  # type: ignore[assignment]
import msgspec  # noqa: E402, F401

del sys.modules["typing_extensions"]

from netdrivers.frontends.dispatch import OCI_HOOK, handle  # noqa: E402
from netdrivers.frontends.request import Request  # noqa: E402

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def main(program: str, args: tuple[str, ...] | None = None) -> int:
    """Answer the call that this process is; its exit status."""
    os.environ.setdefault("PATH", DEFAULT_PATH)  # a hook's environment is only what its bundle sets
    args = tuple(sys.argv[1:]) if args is None else args
    request = Request(
        program=program,
        args=args,
        env=dict(os.environ),
        stdin=sys.stdin.buffer.read() if _has_input(program, args) else b"",
        host_inode=os.stat("/proc/self/ns/net").st_ino,
    )
    response = handle(request)
    sys.stdout.buffer.write(response.stdout)
    sys.stdout.buffer.flush()
    sys.stderr.buffer.write(response.stderr)
    return response.exit_code


def _has_input(program: str, args: tuple[str, ...]) -> bool:
    """Whether standard input is ours to read: not a terminal, netavark's ``info``, or what LXC's hooks inherit."""
    if os.isatty(0) or (program.startswith("netdrivers-") and args[:1] == ("info",)):
        return False
    return program != OCI_HOOK or "LXC_HOOK_TYPE" not in os.environ
