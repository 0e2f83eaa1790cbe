"""netctl ls and ports: the attachments and the published ports of this host."""

from __future__ import annotations

import click

from netdrivers.netctl import output


@click.command("ls")
@click.option("--network", metavar="NAME", help="Only those of one network.")
@click.option("--container", metavar="ID", help="Only those of one container.")
@output.json_option
def ls(network: str | None, container: str | None, as_json: bool) -> None:
    """List the attachments of this host, whatever engine made them, oldest first."""
    from netdrivers.netctl import listing

    rows = listing.attachments(network, container)
    if as_json:
        output.show_json([output.plain(row) for row in rows])
        return
    output.show_table(
        ("network", "driver", "engine", "container", "name", "ifname", "addresses", "ports", "state", "age"),
        [
            (row.network, row.driver, row.engine, row.container[:12], row.label, row.ifname,
             ", ".join(row.addresses), ", ".join(row.ports), row.state, output.age(row.age))
            for row in rows
        ],
    )  # fmt: skip


@click.command("ports")
@output.json_option
def ports(as_json: bool) -> None:
    """List published ports, who holds each, and whether the kernel has it."""
    from netdrivers.netctl import listing

    found = listing.ports()
    if as_json:
        output.show_json([output.plain(port) for port in found])
        return
    output.show_table(
        ("host", "protocol", "to", "network", "container", "name", "state"),
        [
            (_place(port.host_ip or ("::" if ":" in port.target_ip else "0.0.0.0"), port.host_port, port.count),
             port.protocol, _place(port.target_ip or "host", port.target_port, port.count),
             port.network, port.container[:12], port.label, port.state)
            for port in found
        ],
    )  # fmt: skip


def _place(address: str, port: int, count: int) -> str:
    last = f"-{port + count - 1}" if count > 1 else ""
    return f"[{address}]:{port}{last}" if ":" in address else f"{address}:{port}{last}"
