"""netctl doctor: what this host can do."""

from __future__ import annotations

import click

from netdrivers.netctl import failures, output


@click.command("doctor")
@output.json_option
def doctor(as_json: bool) -> int:
    """Probe what this host can do, in a network namespace made for it; nothing is changed.

    Exit status 5 when something is missing that everything needs.
    """
    from netdrivers.netctl import diagnosis

    found = list(diagnosis.answers())
    if as_json:
        output.show_json([output.plain(answer) for answer in found])
    else:
        rows = [(answer.state, answer.subject, answer.words, answer.needed_for) for answer in found]
        output.show_table(("state", "subject", "finding", "needed for"), rows)
    lacking = any(answer.state == "missing" and answer.required for answer in found)
    return failures.HOST_LACKS if lacking else 0
