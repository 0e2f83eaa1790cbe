"""netctl add and del: a container onto a network, and off it again."""

from __future__ import annotations

from typing import Any

import click

from netdrivers.netctl import attaching, chain, conflists, mappings, output, targets
from netdrivers.netctl.calls import checked_container, container_options, netns_argument, network_argument
from netdrivers.portspec import mapping


def capability_options(function: Any) -> Any:
    """-p, --ip and --mac."""
    for option in (
        click.option("--mac", metavar="MAC", help="The interface's MAC."),
        click.option("--ip", multiple=True, metavar="ADDRESS", help="An address to have, one for each family."),
        click.option("-p", "--publish", multiple=True, metavar="PORTS",
                     help="Publish ports: 8080:80, 8080:80/udp, 127.0.0.1:8080:80, [::1]:8080:80, 8000-8010:80-90."),
    ):  # fmt: skip
        function = option(function)
    return function


def wanted(publish: tuple[str, ...], ip: tuple[str, ...], mac: str | None) -> dict[str, Any]:
    """The capability arguments that the options stand for. ConfigError for a bad one."""
    found: dict[str, Any] = {}
    if publish:
        found["portMappings"] = mappings.cni([mapping(text) for text in publish])
    if ip:
        found["ips"] = list(ip)
    if mac:
        from netdrivers.drivers.common import checked_mac

        found["mac"] = checked_mac(mac, "--mac")
    return found


@click.command("add")
@network_argument
@netns_argument
@capability_options
@container_options
@click.option("--name", "label", default="", help="The container's name, shown by ls, and found by other containers.")
@click.option("--alias", multiple=True, metavar="NAME", help="Another name to be found by, as often as needed.")
@output.json_option
def add(
    network: str, netns: str, publish: tuple[str, ...], ip: tuple[str, ...], mac: str | None, ifname: str,
    container: str | None, cni_path: str, label: str, alias: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Attach the namespace NETNS to NETWORK.

    NETWORK is a .conflist or .conf file, or the name of a network (netctl network ls).
    NETNS is a path, a name of "ip netns", a process id, or pid:N.
    """
    from netdrivers.frontends.cni.result import parse_result
    from netdrivers.frontends.reading import check_name

    conflist = conflists.load(network)
    place = targets.existing(netns)
    container = checked_container(container, place.container, ifname)
    if label:
        check_name(label, "--name")
    capabilities = wanted(publish, ip, mac)
    if alias:
        capabilities["aliases"] = {conflist.name: [check_name(name, "--alias") for name in alias]}
    call = chain.Call(container, place.path, ifname, {}, cni_path)
    result = attaching.attach(conflist, call, capabilities, label)
    ports = [str(mapping(text)) for text in publish]
    if as_json:
        output.show_json(
            {
                "network": conflist.name,
                "container": container,
                "ifname": ifname,
                "netns": place.path,
                "ports": ports,
                "result": result,
            }
        )
        return
    told = parse_result(result)
    addresses = ", ".join(item.address for item in told.addresses) or "no address"
    output.show_lines([f"{container}: {ifname} on {conflist.name}: {addresses}"])
    if told.dns.nameservers:
        search = f", search {' '.join(told.dns.search)}" if told.dns.search else ""
        output.show_lines([f"{container}: nameserver {', '.join(told.dns.nameservers)}{search}"])
    output.show_lines([f"{container}: published {port}" for port in ports])


@click.command("del")
@network_argument
@netns_argument
@container_options
@output.json_option
def delete(network: str, netns: str, ifname: str, container: str | None, cni_path: str, as_json: bool) -> None:
    """Detach the namespace NETNS from NETWORK.

    The namespace may be gone, and a second call is success. What was recorded decides, not the
    configuration as it is now. With --id, also what an engine attached.
    """
    place = targets.target(netns)
    container = checked_container(container, place.container, ifname)
    known = attaching.detach(network, container, ifname, place.path if place.exists else "", cni_path)
    if as_json:
        output.show_json({"container": container, "ifname": ifname, "removed": known})
    else:
        output.show_lines([f"{container}: {ifname} {'removed' if known else 'was not attached'}"])
