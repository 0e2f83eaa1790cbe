"""The in-process path of an executable: read the call, do the work in this interpreter, answer."""

from __future__ import annotations

import os
import sys

# msgspec would rather have typing_extensions, which brings inspect along: a third of msgspec's import.
sys.modules["typing_extensions"] = None  # type: ignore[assignment]
import msgspec  # noqa: E402, F401

del sys.modules["typing_extensions"]

from netdrivers.frontends.dispatch import handle  # noqa: E402
from netdrivers.frontends.request import Request  # noqa: E402


def main(program: str, args: tuple[str, ...] | None = None) -> int:
    """Answer the call that this process is; its exit status."""
    stdin = b"" if os.isatty(0) else sys.stdin.buffer.read()
    request = Request(
        program=program,
        args=tuple(sys.argv[1:]) if args is None else args,
        env=dict(os.environ),
        stdin=stdin,
        host_inode=os.stat("/proc/self/ns/net").st_ino,
    )
    response = handle(request)
    sys.stdout.buffer.write(response.stdout)
    sys.stdout.buffer.flush()
    sys.stderr.buffer.write(response.stderr)
    return response.exit_code
