"""The published ports that the kernel holds, whoever asked for them."""

from __future__ import annotations

import errno

from netdrivers.kernel import nftables
from netdrivers.kernel.session import Session
from netdrivers.kernel.socket import NetlinkError
from netdrivers.model import PortMapping

Published = tuple[PortMapping, str]
"""A mapping of one port, and the address that it leads to."""


def published() -> list[Published]:
    """Every element of our publish maps; none without our nft table."""
    with Session() as session:
        try:
            found = nftables.published(session.socket("nft"))
        except NetlinkError as error:
            if error.errno in (errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP):
                return []
            raise
    return [(PortMapping(protocol, port, target_port, host), ip) for protocol, port, host, ip, target_port in found]
