"""What stands in etcd: keys and values, and the version of both; pure.

    /netdrivers/schema                            "1"
    /netdrivers/v1/NETWORK/settings               what all hosts must agree on
    /netdrivers/v1/NETWORK/owners/HOST            the slice that a host owns; stays when its lease ends
    /netdrivers/v1/NETWORK/slices/SLICE           the host that owns it; the other side of owners
    /netdrivers/v1/NETWORK/hosts/HOST             a host that is alive; goes with its lease
    /netdrivers/v1/NETWORK/keys/GENERATION        a secret of an encrypted network
    /netdrivers/v1/NETWORK/attachments/HOST/...   a container; goes with its host's lease

HOST is an underlay address. attachments, hosts and keys are next to each other, so that one watch covers them and
nothing else: owners and slices are read only when a host joins.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
from msgspec import Struct, field

from netdrivers.errors import ConfigError
from netdrivers.model import Attachment, Lease, Network

ROOT = b"/netdrivers/"
SCHEMA = "1"
SCHEMA_KEY = ROOT + b"schema"


class Settings(Struct, frozen=True, rename="camel"):
    """What the hosts of a network must have alike."""

    subnet: str
    slice_prefix: int
    vni: int
    port: int
    encrypted: bool = False


class Owner(Struct, frozen=True):
    """A host's slice, and when the host was last known to be alive (seconds since the epoch)."""

    slice: str
    seen: int = 0


class HostEntry(Struct, frozen=True):
    """A host that is alive. keys: the newest generation of the network's secrets that it holds."""

    slice: str
    name: str = ""
    version: str = ""
    keys: int = 0


class AttachmentEntry(Struct, frozen=True, omit_defaults=True):
    """A container's interface, for people and for name resolution."""

    addresses: tuple[str, ...] = ()
    name: str = ""
    engine: str = ""
    aliases: tuple[str, ...] = ()


class Secret(Struct, frozen=True):
    """One generation of a network's secret (64 hexadecimal digits), and when it was made."""

    secret: str
    made: int = field(default_factory=lambda: int(time.time()))

    def __repr__(self) -> str:
        return "Secret(hidden)"


class Keys:
    """The keys of one network."""

    def __init__(self, network: str) -> None:
        self.base = ROOT + f"v{SCHEMA}/{network}/".encode()
        self.settings = self.base + b"settings"
        self.owners = self.base + b"owners/"
        self.slices = self.base + b"slices/"
        self.hosts = self.base + b"hosts/"
        self.keys = self.base + b"keys/"
        self.attachments = self.base + b"attachments/"
        self.topology = self.hosts, self.base + b"l"
        self.watched = self.attachments, self.base + b"l"

    def owner(self, host: str) -> bytes:
        """A host's claim."""
        return self.owners + host.encode()

    def slice(self, text: str) -> bytes:
        """A slice's claim."""
        return self.slices + text.encode()

    def host(self, host: str) -> bytes:
        """A host's sign of life."""
        return self.hosts + host.encode()

    def secret(self, generation: int) -> bytes:
        """A generation of the secret."""
        return self.keys + f"{generation:010}".encode()

    def attachments_of(self, host: str) -> bytes:
        """The beginning of a host's attachments."""
        return self.attachments + host.encode() + b"/"

    def attachment(self, host: str, container: str, ifname: str) -> bytes:
        """One attachment."""
        return self.attachments_of(host) + f"{container}/{ifname}".encode()


def settings_of(options: Any) -> Settings:
    """What a network's options (overlay's) say of what all hosts must agree on."""
    return Settings(options.subnet, options.slice_prefix, options.vni, options.port, options.encrypted)


def compare(network: Network, ours: Settings, theirs: Settings) -> None:
    """ConfigError for the first key in which this host's network is not the one in etcd."""
    for name in msgspec.structs.fields(Settings):
        own, known = getattr(ours, name.name), getattr(theirs, name.name)
        if own != known:
            words = f"{known!r}, as network {network.name} has it in etcd"
            raise ConfigError(name.encode_name, own, words, "a network is the same on all of its hosts")


def entry_of(attachment: Attachment, lease: Lease) -> AttachmentEntry:
    """What the others may know of an attachment."""
    addresses = tuple(item.address for item in lease.addresses)
    return AttachmentEntry(addresses, attachment.label, attachment.engine, attachment.aliases)


encode = msgspec.json.Encoder().encode


def decoded(value: bytes, kind: type[Any]) -> Any:
    """A value as its type; None for what is none of ours."""
    try:
        return msgspec.json.decode(value, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
