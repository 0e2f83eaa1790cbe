"""netctl install: the executables for engines, and the service's units."""

from __future__ import annotations

from pathlib import Path

import click

from netdrivers.netctl import output
from netdrivers.netctl.calls import state_dir


@click.command("install")
@click.option(
    "--bin-dir",
    type=click.Path(path_type=Path),
    default="/opt/netdrivers/bin",
    show_default=True,
    metavar="DIR",
    help="Where the executables go: one of the engine's plugin directories.",
)
@click.option("--systemd", is_flag=True, help="Write the units of the service too.")
@click.option(
    "--unit-dir",
    type=click.Path(path_type=Path),
    default="/etc/systemd/system",
    show_default=True,
    metavar="DIR",
    help="Where the units go.",
)
@output.json_option
def install(bin_dir: Path, systemd: bool, unit_dir: Path, as_json: bool) -> None:  # fmt: skip
    """Write the executables that engines call, one for each plugin type.

    Files of an earlier install are replaced; a file that is not ours is never touched, and then
    nothing is written. With a C compiler the launcher is compiled, else it is of Python and some
    milliseconds slower.
    """
    from netdrivers import install as installing
    from netdrivers.frontends import dispatch

    written = installing.executables(bin_dir.absolute(), dispatch.PROGRAMS)
    units = installing.systemd(unit_dir.absolute(), Path(state_dir())) if systemd else []
    if as_json:
        output.show_json([output.plain(item) for item in (*written, *units)])
        return
    output.show_lines([f"{item.path} ({item.kind} launcher)" for item in written])
    output.show_lines([item.path for item in units])
    if units:
        output.show_lines(["now: systemctl daemon-reload && systemctl enable --now netdrivers.socket"])
