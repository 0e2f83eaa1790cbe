"""The verbs of a netavark plugin: create, setup, teardown and info (netavark, plugin-API.md)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from netdrivers import __version__, errors
from netdrivers.drivers.common import check_link_name, checked_mac
from netdrivers.frontends.cni.config import port_mappings
from netdrivers.frontends.netavark import network as networks
from netdrivers.frontends.netavark.create import ENGINE, create, refuse_other
from netdrivers.frontends.netavark.options import ON_PARENT
from netdrivers.frontends.reading import Document, check_ifname, check_name, decode, get, need, objects, strings
from netdrivers.frontends.request import Request, Response
from netdrivers.frontends.stale import drop_stale
from netdrivers.lifecycle import Lifecycle
from netdrivers.model import Attachment, Network, PortMapping, Result
from netdrivers.near import near

API_VERSION = "1.0.0"
KEEPERS = ("podman", "conmon")
"""Podman holds the ports of a container open while it is wired, its conmon from then on."""

CONTAINER_OPTIONS = {"host_interface_name": "hostInterfaceName"}
"""Options of one container on one network (podman run --network NAME:KEY=VALUE), as an attachment's."""

_encode = msgspec.json.Encoder().encode


def run(request: Request, driver: str, open_lifecycle: Callable[[], Lifecycle]) -> Response:
    """Do what a request asks of a driver; errors in netavark's form."""
    try:
        verb = request.args[0] if request.args else ""
        if verb == "info":
            return _answer({"version": __version__, "api_version": API_VERSION, "driver": driver})
        if verb not in ("create", "setup", "teardown"):
            raise errors.RequestError("argument", verb, "create, setup NETNS, teardown NETNS or info")
        document = decode(request.stdin, "the request")
        lifecycle = open_lifecycle()
        if verb == "create":
            return _answer(create(document, driver, lifecycle, request.env))
        if len(request.args) < 2:
            raise errors.RequestError("argument", verb, f"{verb} and the path of a network namespace")
        if verb == "setup":
            return _answer(_setup(document, driver, request, lifecycle))
        _teardown(document, driver, request, lifecycle)
        return Response(0)
    except errors.NetdriversError as error:
        return failure(str(error))


def failure(message: str) -> Response:
    """netavark's error."""
    return Response(1, _encode({"error": message}))


def internal_failure(error: BaseException) -> Response:
    """The answer for a fault of ours, without a traceback."""
    return failure(f"internal error: {type(error).__name__}: {error}")


def _answer(document: dict[str, Any]) -> Response:
    return Response(0, _encode(document))


def _setup(document: Document, driver: str, request: Request, lifecycle: Lifecycle) -> dict[str, Any]:
    network = networks.network_of(need(document, "network", dict), driver, request.env)
    attachment = attachment_of(document, network, request.args[1])
    refuse_other(network.name, network, lifecycle)
    drop_stale(lifecycle, attachment.key)
    return status(lifecycle.add(network, attachment, netns_fd=request.netns_fd), attachment.ifname)


def _teardown(document: Document, driver: str, request: Request, lifecycle: Lifecycle) -> None:
    """By the record. Podman's ``network rm`` calls nobody, so the network goes with its last attachment."""
    options = need(document, "network_options", dict)
    attachment = Attachment(
        networks.name_of(need(document, "network", dict)),
        driver,
        check_name(need(document, "container_id", str), "container_id"),
        check_ifname(need(options, "interface_name", str, "network_options."), "network_options.interface_name"),
    )
    lifecycle.delete(attachment.key, netns_fd=request.netns_fd)
    if not lifecycle.store.in_network(attachment.network):
        with suppress(errors.NotFound, errors.Conflict):  # somebody else was first, to remove it or to attach
            lifecycle.networks.remove(attachment.network)


def attachment_of(document: Document, network: Network, netns: str) -> Attachment:
    """The attachment that a setup asks for (netavark, types.rs, NetworkPluginExec)."""
    options = need(document, "network_options", dict)
    where = "network_options."
    return Attachment(
        network=network.name,
        driver=network.driver,
        container=check_name(need(document, "container_id", str), "container_id"),
        ifname=check_ifname(need(options, "interface_name", str, where), f"{where}interface_name"),
        netns=netns,
        mac=checked_mac(get(options, "static_mac", str, "", where), f"{where}static_mac"),
        addresses=strings(options, "static_ips", where),
        ports=_ports(document, network),
        engine=ENGINE,
        label=get(document, "container_name", str, ""),
        aliases=strings(options, "aliases", where),
        options=_container_options(get(options, "options", dict, {}, where), f"{where}options."),
        keepers=KEEPERS,
    )


def _container_options(given: Document, where: str) -> dict[str, Any]:
    found = {}
    for key, value in given.items():
        if key not in CONTAINER_OPTIONS:
            raise errors.ConfigError(
                f"{where}{key}", value, "not an option of a container", near(key, CONTAINER_OPTIONS)
            )
        if not isinstance(value, str):
            raise errors.ConfigError(f"{where}{key}", value, "a string")
        check_link_name(value, f"{where}{key}")
        found[CONTAINER_OPTIONS[key]] = value
    return found


def _publishes(network: Network) -> bool:
    options = network.options
    if network.driver in ON_PARENT or network.ipam.kind == "none":
        return False
    return not options.get("internal") and not options.get("unmanaged")


def _ports(document: Document, network: Network) -> tuple[PortMapping, ...]:
    """What to publish here. Podman hands all of a container's ports to each of its networks, and those
    that cannot publish (internal, macvlan, ipvlan, unmanaged, without addresses) leave it to the others."""
    if not _publishes(network):
        return ()
    asked = []
    for i, item in enumerate(objects(document, "port_mappings")):
        plain = {key.replace("_", ""): value for key, value in item.items()}
        for protocol in get(item, "protocol", str, "tcp", f"port_mappings[{i}].").split(","):
            asked.append({**plain, "protocol": protocol})
    return port_mappings(asked, "port_mappings")


def status(result: Result, ifname: str) -> dict[str, Any]:
    """A result as netavark's status block (types.rs, StatusBlock)."""
    index, interface = next(
        (i, item) for i, item in enumerate(result.interfaces) if item.name == ifname and item.sandbox
    )
    subnets = [
        {"ipnet": item.address, **({"gateway": item.gateway} if item.gateway else {})}
        for item in result.addresses
        if item.interface == index
    ]
    return {
        "interfaces": {ifname: {"mac_address": interface.mac, "subnets": subnets}},
        "dns_server_ips": list(result.dns.nameservers),
        "dns_search_domains": list(result.dns.search),
    }
