"""netctl gc and reload: remove what is dead, put back what is missing."""

from __future__ import annotations

import click

from netdrivers.netctl import output
from netdrivers.netctl.calls import lifecycle


@click.command("gc")
@click.option("--linger", type=click.FloatRange(min=0), default=0.0, show_default=True, metavar="SECONDS",
              help="Keep networks whose last container left less than so long ago.")  # fmt: skip
@output.json_option
def gc(linger: float, as_json: bool) -> None:
    """Remove attachments whose namespace died, calls that died in the middle, and idle networks."""
    from netdrivers.netctl import attaching

    removed = attaching.collect(linger)
    if as_json:
        output.show_json({"removed": removed})
    else:
        output.show_lines([f"removed {what}" for what in removed] or ["nothing to remove"])


@click.command("reload")
@output.json_option
def reload(as_json: bool) -> None:
    """Apply again whatever differs between the records and the kernel, and print what was mended.

    For after a firewall's reload, a flushed ruleset, a deleted bridge.
    """
    mended = lifecycle().reload()
    if as_json:
        output.show_json([{"operation": item.operation.line(), "difference": item.difference} for item in mended])
    else:
        output.show_lines([f"mended {item.line()}" for item in mended] or ["nothing to mend"])
