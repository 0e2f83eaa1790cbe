"""netctl fdb: what in the kernel leads to other hosts."""

from __future__ import annotations

import click

from netdrivers.netctl import failures, output


@click.command("fdb")
@click.argument("network", required=False)
@click.option("--check", is_flag=True, help="Print only what differs from the record; exit status 6 if anything does.")
@output.json_option
def fdb(network: str | None, check: bool, as_json: bool) -> int:
    """List forwarding entries, neighbours and routes of overlay networks, held against the record."""
    from netdrivers.netctl import peering

    rows = [row for record in peering.spanning(network) for row in peering.entries(record)]
    wrong = [row for row in rows if row.state != "ok"]
    shown = wrong if check else rows
    if as_json:
        output.show_json([output.plain(row) for row in shown])
    elif check:
        output.show_lines([f"network {row.network}: {row.entry}: {row.state}" for row in wrong] or ["no difference"])
    else:
        output.show_table(("network", "entry", "state"), [(row.network, row.entry, row.state) for row in shown])
    return failures.DIFFERENCES if check and wrong else 0
