"""The tuning driver: sysctls and link settings for an interface that another plugin made."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from netdrivers.drivers import common
from netdrivers.drivers.chained import ChainedDriver, previous_of
from netdrivers.drivers.options import decode_options
from netdrivers.errors import ConfigError
from netdrivers.model import Attachment, Facts, FactsQuery, Interface, Lease, Network
from netdrivers.operations import AnyOperation, LinkSettings, Operations, Plan, Sysctl


class TuningOptions(Struct, frozen=True, rename="camel"):
    """The reference plugin's keys."""

    sysctl: dict[str, str] = {}
    mac: str = ""
    mtu: int = 0
    promisc: bool | None = None
    allmulti: bool | None = None
    tx_queue_length: int = field(default=0, name="txQLen")


class TuningDriver(ChainedDriver):
    """See drivers.base.Driver."""

    name = "tuning"
    options_type = TuningOptions

    def needs(self, network: Network, attachment: Attachment | None) -> FactsQuery | None:
        """Nothing."""
        return None

    def settle(self, network: Network, facts: Facts) -> Network:
        """Only sysctls of a network namespace, and values that a link takes."""
        options = decode_options(network.options, TuningOptions)
        for key in options.sysctl:
            path = _path(key)
            if not path.startswith("net/") or ".." in path:
                raise ConfigError("sysctl", key, 'a key that begins with "net.", as the rest is not the namespace\'s')
        common.check_mtu(options.mtu)
        common.checked_mac(options.mac)
        return super().settle(network, replace(facts, firewall="nft"))

    def plan_shared(self, network: Network, attachment: Attachment, lease: Lease) -> Operations:
        """Nothing."""
        return ()

    def plan(self, network: Network, attachment: Attachment, lease: Lease, facts: Facts) -> Plan:
        """Sysctls, then one message with the link's settings; the result shows the new MAC and MTU."""
        options = decode_options(network.options, TuningOptions)
        previous = previous_of(attachment)
        mac = attachment.mac or common.checked_mac(options.mac)
        found: list[AnyOperation] = [
            Sysctl("sandbox", _path(key), value) for key, value in sorted(options.sysctl.items())
        ]
        settings = LinkSettings(
            attachment.ifname, mac, options.mtu, options.tx_queue_length, options.promisc, options.allmulti
        )
        if settings != LinkSettings(attachment.ifname):
            found.append(settings)
        changes: dict[str, Any] = {**({"mac": mac} if mac else {}), **({"mtu": options.mtu} if options.mtu else {})}

        def shown(item: Interface) -> Interface:
            return replace(item, **changes) if item.sandbox and item.name == attachment.ifname else item

        return Plan(tuple(found), replace(previous, interfaces=tuple(map(shown, previous.interfaces))))


def _path(key: str) -> str:
    """A sysctl key below /proc/sys: dots are slashes, unless the key is written with slashes."""
    return key if "/" in key else key.replace(".", "/")
