"""netctl lint: mistakes in network configurations."""

from __future__ import annotations

import click

from netdrivers.netctl import failures, output


@click.command("lint")
@click.argument("files", nargs=-1, required=True, type=click.Path(), metavar="FILE...")
@click.option("--strict", is_flag=True, help="Warnings count as errors.")
@output.json_option
def lint(files: tuple[str, ...], strict: bool, as_json: bool) -> int:
    """Look for mistakes in configuration files, without a look at this host.

    Unknown keys (with the one that was probably meant), values that are not allowed, contradictions,
    subnets that overlap within and between the files. Exit status 2 when there is an error.
    """
    from netdrivers.netctl import linting

    found = linting.lint(files)
    if as_json:
        output.show_json([output.plain(finding) for finding in found])
    else:
        for item in found:
            plugin = f" ({item.plugin})" if item.plugin else ""
            hint = f"; {item.suggestion}" if item.suggestion else ""
            message = item.message.removeprefix(f"{item.file}: ")
            output.show_lines([f"{item.file}{plugin}: {item.level}: {message}{hint}"])
    return failures.USAGE if any(strict or item.level == "error" for item in found) else 0
