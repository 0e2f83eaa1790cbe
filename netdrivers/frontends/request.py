"""One call of an executable front end as a value: what was asked, and what is answered.

The same values serve both paths: in-process (the executable's own interpreter) and the warm
service. Nothing here is heavy to import.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct


class Request(Struct, frozen=True):
    """A call as the executable received it.

    program: the front end's name ("bridge"). args: without the program's own name. env: the
    caller's environment, whole. Undecodable bytes of args and env are surrogate escapes.
    netns_fd: the container's network namespace, opened by the caller's side (checked to be one),
    -1 when there was none to open; it belongs to whoever made the request and is closed after
    the handler returns. host_inode: inode of the caller's own network namespace.
    """

    program: str
    args: tuple[str, ...]
    env: dict[str, str]
    stdin: bytes
    netns_fd: int = -1
    host_inode: int = 0


class Response(Struct, frozen=True):
    """What the executable writes and exits with (0 to 255)."""

    exit_code: int
    stdout: bytes = b""
    stderr: bytes = b""


Handler = Callable[[Request], Response]
"""Does the work of a request. Blocking; called from many threads at once. It answers failures in
its front end's own form; an exception means that nobody knows, and sends the caller in-process."""
