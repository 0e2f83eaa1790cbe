"""netctl serve and service: the warm service, run and asked."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from netdrivers.netctl import failures, output
from netdrivers.netctl.calls import state_dir

if TYPE_CHECKING:
    from netdrivers.service.background import BackgroundTask

PRELOAD = (
    "netdrivers.drivers.bridge", "netdrivers.drivers.macvlan", "netdrivers.drivers.host", "netdrivers.drivers.none",
    "netdrivers.ipam.ranges", "netdrivers.kernel.drift",
)  # fmt: skip
"""What calls need beside the front ends, so that none of them pays for an import."""


@click.command("serve")
@click.option("--workers", type=click.IntRange(1, 256), default=16, show_default=True, help="Calls at a time.")
@click.option("-v", "--verbose", is_flag=True, help="Log every turn of the service's own tasks.")
def serve(workers: int, verbose: bool) -> None:
    """Run the warm service until SIGTERM, SIGINT or "netctl service stop".

    Executables of the same NETDRIVERS_STATE_DIR and network namespace then have it do their work.
    It logs to standard error.
    """
    from netdrivers.frontends import dispatch
    from netdrivers.service import main

    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    directory = state_dir()
    dispatch.serve()
    main.run(
        Path(directory),
        dispatch.handle,
        preload=PRELOAD,
        tasks=lambda: _tasks(directory),
        settings=main.Settings(workers=workers),
    )


def _tasks(directory: str) -> Sequence[BackgroundTask]:
    """What the service does beside calls; Docker's plugins where Docker is."""
    from netdrivers.service import housekeeping

    found = housekeeping.tasks(directory)
    try:
        from netdrivers.service import docker
    except ModuleNotFoundError as missing:
        if missing.name != "h11":
            raise
        logging.getLogger(__name__).info("without h11, Docker's plugins are not served")
        return found
    return docker.beside(found, directory, os.environ)


@click.group("service")
def service() -> None:
    """The running service."""


@service.command("status")
@output.json_option
def status(as_json: bool) -> int:
    """Say how the service is; exit status 3 when none runs."""
    from netdrivers.service import client

    found = client.status(Path(state_dir()))
    if as_json:
        output.show_json(output.plain(found))
    elif found is None:
        output.show_lines([f"no service runs for {state_dir()}"])
    else:
        output.show_lines(
            [
                f"running: pid {found.pid}, version {found.version}, up {output.age(int(found.uptime))}",
                f"memory: {found.rss / 2**20:.1f} MiB",
                f"calls: {found.served} served, {found.declined} declined, {found.running} running,"
                f" {found.waiting} waiting, {found.workers} workers",
            ]
        )
        for name, report in found.tasks.items():
            words = ", ".join(f"{key} {value}" for key, value in report.items() if value not in ("", {}, None))
            output.show_lines([f"task {name}: {words}"])
    return failures.NOT_FOUND if found is None else 0


@service.command("stop")
@output.json_option
def stop(as_json: bool) -> int:
    """Ask the service to stop; it finishes the calls that it has. Exit status 3 when none runs."""
    from netdrivers.service import client

    found = client.stop(Path(state_dir()))
    if as_json:
        output.show_json({"stopped": found.pid if found else None})
    else:
        output.show_lines([f"stopping: pid {found.pid}" if found else f"no service runs for {state_dir()}"])
    return failures.NOT_FOUND if found is None else 0
