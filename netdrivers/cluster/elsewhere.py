"""What is attached on a network's other hosts, in a file: so that names resolve, also while etcd is not to be had."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from netdrivers.cluster import layout
from netdrivers.cluster.layout import AttachmentEntry
from netdrivers.cluster.slices import number
from netdrivers.model import Attachment, Lease, LeasedAddress

_CONTAINER = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]{0,254}")


class _Container(Struct, frozen=True, omit_defaults=True):
    container: str
    addresses: tuple[str, ...] = ()
    name: str = ""
    aliases: tuple[str, ...] = ()


_decoder = msgspec.json.Decoder(list[_Container])


def _path(directory: str, network: str) -> str:
    return os.path.join(directory, "cluster", network)


def write(directory: str, network: str, attachments: Mapping[str, Mapping[bytes, bytes]], own: str) -> bool:
    """Write down the attachments of all hosts (as cluster.view has them) but this one; whether that is news."""
    found = []
    for host in sorted(attachments):
        for rest, value in sorted(attachments[host].items()) if host != own else ():
            entry = layout.decoded(value, AttachmentEntry)
            container = rest.decode(errors="replace").partition("/")[0]
            if entry is not None and _CONTAINER.fullmatch(container):  # others' words go into a file of a name server
                addresses = tuple(item for item in entry.addresses if number(item.partition("/")[0]))
                found.append(_Container(container, addresses, entry.name, entry.aliases))
    wanted, path = msgspec.json.encode(found), _path(directory, network)
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        if file.read() == wanted:
            return False
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with open(f"{path}.new", "wb") as file:
        file.write(wanted)
    os.replace(f"{path}.new", path)
    return True


def read(directory: str, network: str) -> Sequence[tuple[Attachment, Lease]]:
    """What was written down; nothing where nothing was."""
    try:
        with open(_path(directory, network), "rb") as file:
            found = _decoder.decode(file.read())
    except FileNotFoundError:
        return ()
    return [
        (
            Attachment(network, "", item.container, "", label=item.name, aliases=item.aliases),
            Lease(tuple(LeasedAddress(address) for address in item.addresses)),
        )
        for item in found
    ]


def drop(directory: str, network: str) -> None:
    """Forget it."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_path(directory, network))
