"""netctl check and plan: what differs from the record, and what an add would do."""

from __future__ import annotations

import click

from netdrivers.netctl import chain, conflists, failures, output, targets
from netdrivers.netctl.calls import checked_container, container_options, netns_argument, network_argument
from netdrivers.netctl.commands.attach import capability_options, wanted


@click.command("check")
@click.argument("network", required=False)
@click.argument("netns", required=False)
@container_options
@output.json_option
def check(
    network: str | None, netns: str | None, ifname: str, container: str | None, cni_path: str, as_json: bool
) -> int:
    """Compare the record of NETNS on NETWORK with the kernel; without arguments, everything on this host.

    Exit status 6 when something differs; every difference is named.
    """
    from netdrivers.netctl import checking

    if network is None:
        checked = checking.check_all()
    elif netns is None:
        raise click.UsageError("NETNS is missing", click.get_current_context())
    else:
        container = checked_container(container, targets.target(netns).container, ifname)
        name = conflists.load(network).name if conflists.is_file(network) else network
        checked = [checking.check(name, container, ifname)]
    if as_json:
        output.show_json([output.plain(item) for item in checked])
    else:
        for item in checked:
            who = f"{item.container} {item.ifname} on {item.network}" if item.container else f"network {item.network}"
            output.show_lines([f"{who}: {words}" for words in item.differences or ["as recorded"]])
    return failures.DIFFERENCES if any(item.differences for item in checked) else 0


@click.command("plan")
@network_argument
@netns_argument
@capability_options
@container_options
@output.json_option
def plan(
    network: str, netns: str, publish: tuple[str, ...], ip: tuple[str, ...], mac: str | None, ifname: str,
    container: str | None, cni_path: str, as_json: bool,
) -> None:  # fmt: skip
    """Print each operation that "netctl add" would do, one in a line, and do none of them."""
    from netdrivers.netctl import planning

    conflist = conflists.load(network)
    place = targets.existing(netns)
    container = checked_container(container, place.container, ifname)
    plugins, args = chain.configured(conflist.name, conflist.version, conflist.plugins, wanted(publish, ip, mac))
    steps = planning.plan(plugins, chain.Call(container, place.path, ifname, args, cni_path))
    if as_json:
        output.show_json([output.plain(step) for step in steps])
    else:
        output.show_lines([step.line for step in steps])
