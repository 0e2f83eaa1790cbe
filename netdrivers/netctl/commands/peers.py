"""netctl peers: the hosts of a network that spans hosts."""

from __future__ import annotations

import click

from netdrivers.netctl import output


@click.command("peers")
@click.argument("network", required=False)
@click.option("-a", "--attachments", "each", is_flag=True, help="List each host's containers.")
@click.option("--forget", metavar="HOST", help="Free the slice of a host that will not come back.")
@output.json_option
def peers(network: str | None, each: bool, forget: str | None, as_json: bool) -> None:
    """List the hosts of overlay networks: address, slice, last sign of life, containers.

    Where etcd keeps a network, it is asked; if it is not to be had, what this host knows is shown.
    """
    from netdrivers.netctl import peering

    if forget is not None:
        if network is None:
            raise click.UsageError("--forget needs a NETWORK")
        freed = peering.forget_host(peering.spanning(network)[0], forget)
        if as_json:
            output.show_json({"network": network, "host": forget, "freed": freed})
        else:
            output.show_lines([f"network {network}: {freed} is free, {forget} forgotten"])
        return
    rows = []
    for record in peering.spanning(network):
        found, trouble = peering.hosts(record)
        rows += found
        if trouble:
            click.echo(f"netctl: {trouble}; shown is what this host knows", err=True)
    if as_json:
        output.show_json([output.plain(row) for row in rows])
        return
    output.show_table(
        ("network", "host", "name", "slice", "state", "seen", "containers"),
        [
            (row.network, row.host + (" (this host)" if row.own else ""), row.name, row.slice, row.state,
             "" if row.seen is None else f"{output.age(row.seen)} ago",
             "" if row.attachments is None else str(len(row.attachments)))
            for row in rows
        ],
    )  # fmt: skip
    if each:
        output.show_table(
            ("network", "host", "container", "name", "engine", "ifname", "addresses"),
            [
                (row.network, row.host, item["container"][:12], item["name"], item["engine"], item["ifname"],
                 ", ".join(item["addresses"]))
                for row in rows
                for item in row.attachments or []
            ],
        )  # fmt: skip
