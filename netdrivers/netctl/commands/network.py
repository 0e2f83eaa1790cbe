"""netctl network: the networks that have a name, in files and in the kernel."""

from __future__ import annotations

from typing import Any

import click

from netdrivers.netctl import output


@click.group("network")
def network() -> None:
    """Named networks, which every engine can attach to by name."""


@network.command("ls")
@output.json_option
def ls(as_json: bool) -> None:
    """List the networks that have a file, and those that containers are attached to."""
    from netdrivers import networks_file
    from netdrivers.netctl import creating

    good, bad = networks_file.readable(creating.directory())
    for error in bad:
        click.echo(f"netctl: {error}", err=True)
    rows = _rows({item.name: item for item in good})
    if as_json:
        output.show_json(rows)
        return
    output.show_table(
        ("network", "driver", "subnets", "attachments", "state", "file"),
        [
            (row["name"], row["driver"], ", ".join(row["subnets"]), str(row["attachments"]), row["state"],
             row["file"] or "")
            for row in rows
        ],
    )  # fmt: skip


def _rows(files: dict[str, Any]) -> list[dict[str, Any]]:
    from netdrivers.errors import NetdriversError
    from netdrivers.frontends.cni.config import network_of
    from netdrivers.netctl.calls import lifecycle

    store = lifecycle().store
    records = {record.network.name: record for record in store.networks()}
    rows = []
    for name in sorted({*files, *records}):
        record, file = records.get(name), files.get(name)
        driver, known = file.driver if file else "", record.network if record else None
        try:
            known = known or (network_of(file.config, file.driver) if file else None)
        except NetdriversError as error:
            click.echo(f"netctl: {file.path if file else name}: {error}", err=True)
        pools = known.ipam.pools if known else ()
        rows.append(
            {
                "name": name,
                "driver": known.driver if known else driver,
                "subnets": [part.subnet for pool in pools for part in pool.ranges],
                "attachments": store.in_network(name),
                "state": ("ready" if record.ready else "changing") if record else "not made",
                "file": file.path if file else None,
            }
        )
    return rows


@network.command("inspect")
@click.argument("name")
@output.json_option
def inspect(name: str, as_json: bool) -> None:
    """Show a network: its file, its record, operations, leases, attachments, and where the kernel differs."""
    from netdrivers.errors import NotFound
    from netdrivers.near import near
    from netdrivers.netctl import details
    from netdrivers.netctl.commands.inspect import network_lines

    if not details.is_network(name):
        raise NotFound(f"no network {name!r}", near(name, details.network_names()))
    found = details.network(name)
    if as_json:
        output.show_json(found)
    else:
        output.show_lines(list(network_lines(found)))


@network.command("create")
@click.argument("name")
@click.option("--driver", default="bridge", show_default=True, help="See netctl drivers.")
@click.option("--subnet", multiple=True, metavar="CIDR", help="Once for each address family, or more often.")
@click.option("--gateway", multiple=True, metavar="ADDRESS", help="Of one of the subnets  [default: its first]")
@click.option("--range", "spans", multiple=True, metavar="FIRST-LAST", help="Lease only these addresses of a subnet.")
@click.option("--internal", is_flag=True, help="Bridge: no way out, and none in.")
@click.option("--opt", multiple=True, metavar="KEY=VALUE", help="A configuration key of the driver.")
@click.option("--no-names", is_flag=True, help="Containers shall not find each other by name.")
@output.json_option
def create(
    name: str, driver: str, subnet: tuple[str, ...], gateway: tuple[str, ...], spans: tuple[str, ...],
    internal: bool, opt: tuple[str, ...], no_names: bool, as_json: bool,
) -> None:  # fmt: skip
    """Write the file of a new network; the first attachment makes it in the kernel.

    A bridge network gets a bridge of its own, is its containers' default gateway, masquerades what
    leaves, and publishes ports, unless --opt or --internal say otherwise. On a bridge or overlay network
    containers find each other by name, if aardvark-dns is installed.
    """
    from netdrivers.netctl import creating

    wishes = creating.Wishes(name, driver, subnet, gateway, spans, internal, opt, not no_names)
    path, config = creating.create(wishes)
    if as_json:
        output.show_json({"name": name, "file": path, "config": config})
    else:
        output.show_lines([f"network {name}: {path}"])


@network.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--force", is_flag=True, help="Remove the file even while containers are attached.")
@output.json_option
def rm(names: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Remove networks: the file, and the bridge and rules that no container uses any more."""
    from netdrivers.netctl import creating

    removed = [{"name": name, "removed": creating.remove(name, force)} for name in names]
    if as_json:
        output.show_json(removed)
    else:
        output.show_lines([f"network {item['name']}: removed {' and '.join(item['removed'])}" for item in removed])
