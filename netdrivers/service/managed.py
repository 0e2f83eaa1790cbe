"""The process of Docker's managed plugin (``docker plugin create``): one plugin and nothing else.

Docker runs it in the host's network namespace, with a root of its own.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys

from netdrivers.frontends import dispatch
from netdrivers.frontends.docker.plugin import DRIVERS
from netdrivers.service import docker, housekeeping

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 2, 4, 8, 32, 4096  # mount(2), linux/mount.h


def main() -> None:
    """Serve the plugin that the one argument names."""
    if sys.argv[1:] not in [[name] for name in DRIVERS]:
        sys.exit(f"usage: python -m netdrivers.service.managed {'|'.join(DRIVERS)}")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    if not os.access("/proc/sys/net/ipv4/ip_forward", os.W_OK):
        _open_sysctls()
    dispatch.serve()
    asyncio.run(_serve(sys.argv[1]))


def _open_sysctls() -> None:
    """Docker gives its plugins a read-only /proc/sys. Ours is that of the host's network, which we are to set."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV | MS_NOEXEC
    if libc.mount(b"none", b"/proc/sys", None, flags, None):
        logging.warning("/proc/sys stays read-only: %s", os.strerror(ctypes.get_errno()))


async def _serve(name: str) -> None:
    """The plugin, and the tasks that its calls leave work to, until a signal."""
    state_dir = dispatch.state_dir(os.environ)
    # [::1] is the service's, which may run beside.
    tasks = docker.beside(housekeeping.tasks(state_dir, loopback6=False), state_dir, os.environ, [name])
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    for task in tasks:
        await task.start()
    await stop.wait()
    for task in reversed(tasks):
        await task.stop()


if __name__ == "__main__":
    main()
