"""The methods of NetworkDriver (moby, libnetwork/docs/remote.md and drivers/remote/api).

Docker moves the container's link from the host into its sandbox, names it and gives it addresses and routes. So
CreateEndpoint attaches with handover, Join says what to move, and DeleteEndpoint detaches by the record.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from msgspec import Struct

from netdrivers import errors
from netdrivers.drivers.common import check_link_name, checked_mac
from netdrivers.frontends.docker import options, ports
from netdrivers.frontends.docker.kept import DockerNetwork, Folder
from netdrivers.frontends.docker.networks import current, id_of, network_of
from netdrivers.frontends.docker.pools import take_over
from netdrivers.frontends.reading import Document, check_name, get, need
from netdrivers.lifecycle import Lifecycle
from netdrivers.model import Attachment, Interface, Network
from netdrivers.state.store import AttachmentRecord

ENGINE = "docker"
IFNAME = "eth"
"""Docker numbers the interface when it moves it, and tells nobody."""

MAC = f"{options.PREFIX}endpoint.macaddress"
OWN_NAME = f"{options.PREFIX}endpoint.ifname"
PORT_TRIES = 8
"""Times that a free port is looked for, should somebody else be faster to take it."""

Answer = dict[str, Any]


class Here(Struct, frozen=True):
    """What a call works on. driver: which of ours the plugin is; env: the service's environment."""

    driver: str
    env: Mapping[str, str]
    lifecycle: Lifecycle
    networks: Folder[DockerNetwork]


def capabilities(_: Document, __: Here) -> Answer:
    """Networks of one host each."""
    return {"Scope": "local", "ConnectivityScope": "local", "GwAllocChecker": True}


def gateway_wanted(_: Document, __: Here) -> Answer:
    """Docker always reserves a gateway: it is the bridge's address, or kept free for a router."""
    return {"SkipIPv4": False, "SkipIPv6": False}


def allocate_network(request: Document, _: Here) -> Answer:
    """A swarm's manager asks; the options go on to the nodes as they are."""
    return {"Options": get(request, "Options", dict, {})}


def nothing(_: Document, __: Here) -> Answer:
    """FreeNetwork, DiscoverNew, DiscoverDelete: nothing is kept of a swarm or of Docker's nodes."""
    return {}


def create_network(request: Document, here: Here) -> Answer:
    """Made at once, so that what is wrong is told now; kept once it is made."""
    made = network_of(request, here.driver, here.env)
    here.lifecycle.networks.ensure(current(made, here.env))
    try:
        here.networks.put(made)
    except OSError:
        _remove(made, here)
        raise
    _hold(made, here)
    return {}


def delete_network(request: Document, here: Here) -> Answer:
    """With what a dead dockerd left on it. A named one is not Docker's to remove."""
    kept = here.networks.get(id_of(request))
    if kept is not None:
        _remove(kept, here)
        here.networks.drop(kept.id)
    return {}


def _hold(kept: DockerNetwork, here: Here) -> None:
    """Docker's network is there until Docker deletes it, idle or not: its subnet is taken, its gateway answers."""
    if not kept.named:
        with here.lifecycle.store.writing():
            here.lifecycle.store.touch_network(kept.network.name, idle=False)


def _remove(kept: DockerNetwork, here: Here) -> None:
    if kept.named:
        return
    for record in here.lifecycle.store.attachments(network=kept.network.name):
        here.lifecycle.delete(record.attachment.key)
    with suppress(errors.NotFound):  # after a reboot it is there only when something has come to it
        here.lifecycle.networks.remove(kept.network.name)


def _kept(request: Document, here: Here) -> DockerNetwork:
    key = id_of(request)
    found = here.networks.get(key)
    if found is None:
        raise errors.NotFound(f"network {key[:12]} of Docker is not known here", "remove it and create it again")
    return found


def _endpoint(request: Document) -> str:
    return check_name(need(request, "EndpointID", str), "EndpointID")


def _record(request: Document, here: Here) -> AttachmentRecord:
    endpoint = _endpoint(request)
    found = here.lifecycle.store.attachments(container=endpoint)
    if not found:
        raise errors.UnknownContainer(f"endpoint {endpoint[:12]} of Docker is not attached")
    return found[0]


def create_endpoint(request: Document, here: Here) -> Answer:
    """Attach, with the addresses and the MAC that Docker gives; what it does not give is told."""
    kept = _kept(request, here)
    network = current(kept, here.env)
    asked = get(request, "Options", dict, {})
    _refuse_unknown(asked)
    interface = get(request, "Interface", dict, {})
    given = {key: get(interface, key, str, "", "Interface.") for key in ("Address", "AddressIPv6", "MacAddress")}
    attachment = Attachment(
        network=network.name,
        driver=network.driver,
        container=_endpoint(request),
        ifname=IFNAME,
        mac=checked_mac(given["MacAddress"], "Interface.MacAddress") or _mac(asked),
        addresses=tuple(filter(None, (given["Address"], given["AddressIPv6"]))),
        engine=ENGINE,
        handover=True,
    )
    known = here.lifecycle.store.attachment(attachment.key)
    if known is None or known.state != "attached":  # else Docker had no answer, and asks again
        try:
            _add(network, attachment, here)
        except errors.Conflict:
            if not sweep(here.lifecycle):
                raise
            _add(network, attachment, here)
    record = _record(request, here)
    made = {"MacAddress": record.result.interfaces[-1].mac}
    for address in record.result.addresses:
        made["AddressIPv6" if ":" in address.address else "Address"] = address.address
    told = {key: value for key, value in made.items() if value and not given[key]}
    return {"Interface": told} if told else {}


def _add(network: Network, attachment: Attachment, here: Here) -> None:
    with take_over(attachment, here.lifecycle.store):
        here.lifecycle.add(network, attachment)


def sweep(lifecycle: Lifecycle) -> list[str]:
    """Detach containers that died with a dockerd, whose next one may forget them without a word. Their keys."""
    records = [record for record in lifecycle.store.attachments() if record.attachment.engine == ENGINE]
    dead = [record.attachment.key for record in records if record.state == "attached" and not lifecycle.alive(record)]
    return [key for key in dead if lifecycle.delete(key)]


def _refuse_unknown(asked: Document) -> None:
    """Docker's own words are about what Docker does; other options of an endpoint we have none."""
    for key, value in asked.items():
        if not key.startswith(options.PREFIX):
            raise errors.ConfigError(f"Options.{key}", value, "not an option of a container")


def _mac(asked: Document) -> str:
    """The option's six bytes, in base64 as Go writes bytes."""
    text = get(asked, MAC, str, "", "Options.")
    try:
        return checked_mac(base64.b64decode(text, validate=True).hex(":"), f"Options.{MAC}")
    except binascii.Error:
        raise errors.ConfigError(f"Options.{MAC}", text, "six bytes in base64") from None


def operational_info(request: Document, here: Here) -> Answer:
    """The host's links and what is published, for ``docker network inspect``'s sake and for people."""
    record = _record(request, here)
    links = [item.name for item in record.result.interfaces[:-1]]
    return {"Value": {"netdrivers.links": links, ports.PORTMAP: [ports.shown(m) for m in record.attachment.ports]}}


def delete_endpoint(request: Document, here: Here) -> Answer:
    """Detach by the record, as often as asked."""
    for record in here.lifecycle.store.attachments(container=_endpoint(request)):
        here.lifecycle.delete(record.attachment.key)
    kept = here.networks.get(id_of(request))
    if kept is not None:
        _hold(kept, here)
    return {}


def join(request: Document, here: Here) -> Answer:
    """The link to move, and the routes. A gateway of Docker's own (docker_gwbridge) is never wanted."""
    kept, record = _kept(request, here), _record(request, here)
    own: Interface = record.result.interfaces[-1]
    name = {"SrcName": own.name, "DstPrefix": kept.prefix}
    wanted = get(get(request, "Options", dict, {}), OWN_NAME, str, "", "Options.")
    if wanted:
        check_link_name(wanted, f"Options.{OWN_NAME}")
        name["DstName"] = wanted
    answer: Answer = {"InterfaceName": name}
    static = []
    for route in record.result.routes:
        family = 6 if ":" in route.dst else 4
        via = route.via or next((a.gateway for a in record.lease.addresses if a.family == family), "")
        if route.dst.endswith("/0") and via:
            answer.setdefault("GatewayIPv6" if family == 6 else "Gateway", via)
        elif via:
            static.append({"Destination": route.dst, "RouteType": 0, "NextHop": via})
        else:
            static.append({"Destination": route.dst, "RouteType": 1, "NextHop": ""})
    if static:
        answer["StaticRoutes"] = static
    if "Gateway" not in answer and "GatewayIPv6" not in answer:
        answer["DisableGatewayService"] = True
    return answer


def leave(request: Document, here: Here) -> Answer:
    """What is published goes; the link stays until DeleteEndpoint."""
    return revoke(request, here)


def program(request: Document, here: Here) -> Answer:
    """Publish what Docker says: all of it, and nothing else."""
    kept, record = _kept(request, here), _record(request, here)
    wanted = ports.bindings(get(request, "Options", dict, {}), kept.host_ip)
    if not kept.publish:
        return {}
    key = record.attachment.key
    for attempt in range(PORT_TRIES):
        mappings = ports.chosen(wanted, record.attachment.ports, here.lifecycle, key)
        try:
            here.lifecycle.publishing.publish(key, mappings)
            break
        except errors.PortTaken:
            fixed = all(binding.mapping.host_port == binding.last for binding in wanted)
            if attempt + 1 == PORT_TRIES or (not sweep(here.lifecycle) and fixed):
                raise
    return {}


def revoke(request: Document, here: Here) -> Answer:
    """Publish nothing any more; an endpoint that is gone has nothing published."""
    for record in here.lifecycle.store.attachments(container=_endpoint(request)):
        if record.state == "attached":
            here.lifecycle.publishing.publish(record.attachment.key, ())
    return {}


METHODS: dict[str, Callable[[Document, Here], Answer]] = {
    "GetCapabilities": capabilities,
    "GwAllocCheck": gateway_wanted,
    "AllocateNetwork": allocate_network,
    "FreeNetwork": nothing,
    "CreateNetwork": create_network,
    "DeleteNetwork": delete_network,
    "CreateEndpoint": create_endpoint,
    "EndpointOperInfo": operational_info,
    "DeleteEndpoint": delete_endpoint,
    "Join": join,
    "Leave": leave,
    "DiscoverNew": nothing,
    "DiscoverDelete": nothing,
    "ProgramExternalConnectivity": program,
    "RevokeExternalConnectivity": revoke,
}
