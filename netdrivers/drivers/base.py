"""The driver protocol: a driver turns a network, an attachment, a lease and facts into a plan."""

from __future__ import annotations

from typing import Any, Protocol

from msgspec import Struct

from netdrivers.model import Attachment, Facts, FactsQuery, Lease, Network
from netdrivers.operations import Operations, Plan


class Driver(Protocol):
    """What every driver is. No method may do I/O; the same arguments give the same answer.

    name: the word in a configuration's ``type``. options_type: a Struct whose fields are the
    driver's configuration keys (used to decode, to lint and to suggest).
    """

    name: str
    options_type: type[Struct]

    def validate(self, network: Network) -> None:
        """Refuse a bad configuration with ConfigError, naming field, value and what is allowed."""

    def needs(self, network: Network, attachment: Attachment | None) -> FactsQuery:
        """The facts that planning wants: of the network (attachment None), or of an attachment."""

    def plan_network(self, network: Network, lease: Lease | None, facts: Facts) -> Operations:
        """What belongs to the network and not to one attachment, in order.

        lease is that of the first attachment where a foreign IPAM chooses gateways, else None.
        """

    def plan(self, network: Network, attachment: Attachment, lease: Lease, facts: Facts) -> Plan:
        """What one attachment needs, in order, and its result."""


def options_of(network: Network, kind: type[Any]) -> Any:
    """The network's options as the driver's own type; ConfigError names the offending key."""
    from netdrivers.drivers.options import decode_options

    return decode_options(network.options, kind)
