"""Wait until the bridge passes what a new attachment sends: the kernel notices the carrier of a veth a little later.

Until then the port is disabled and the first packet is lost, and with an ARP request a whole second. Looking the one
link up makes the kernel notice at once (linkwatch_sync_dev in rtnl_getlink, Linux 6.8); earlier ones take a moment.
"""

from __future__ import annotations

import errno
import time

from netdrivers.kernel import rtnl
from netdrivers.kernel.codec import attributes, number
from netdrivers.kernel.session import Session
from netdrivers.kernel.socket import NetlinkError
from netdrivers.operations import BridgePort, LinkUp, Operations, Veth

IFLA_OPERSTATE, IF_OPER_UP = 16, 6
_LONGEST_SECONDS = 1.0


def settle(operations: Operations, session: Session) -> None:
    """For veth pairs of these operations that are ports of a bridge and up at both ends; waits a second at most."""
    ports = {operation.link for operation in operations if isinstance(operation, BridgePort)}
    up = {operation.link for operation in operations if isinstance(operation, LinkUp) and operation.where == "sandbox"}
    for operation in operations:
        if isinstance(operation, Veth) and operation.host_name in ports and operation.name in up:
            _settle(operation.host_name, session)


def _settle(link: str, session: Session) -> None:
    pause, deadline = 0.0005, time.monotonic() + _LONGEST_SECONDS
    while time.monotonic() < deadline:
        try:
            body = session.socket("host").ask(*rtnl.get_link(link))
        except NetlinkError as error:
            if error.errno == errno.ENODEV:  # somebody was faster
                return
            raise
        if number(attributes(body, rtnl.LINK_HEADER).get(IFLA_OPERSTATE, b"\0")) == IF_OPER_UP:
            return
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
