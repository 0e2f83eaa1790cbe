"""netctl exec: a command in a network namespace."""

from __future__ import annotations

import os
import sys

import click

from netdrivers.netctl.calls import netns_argument

NOT_EXECUTABLE, NOT_THERE = 126, 127
"""As shells say it (POSIX, "Exit Status for Commands")."""


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@netns_argument
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def enter(netns: str, command: tuple[str, ...]) -> int:
    """Run COMMAND in the network namespace NETNS: netctl exec web -- ip address.

    The exit status is the command's.
    """
    from netdrivers.kernel import namespaces
    from netdrivers.netctl import targets

    words = command[1:] if command[0] == "--" else command
    if not words:
        raise click.UsageError("COMMAND is missing", click.get_current_context())
    place = targets.existing(netns)
    sandbox = namespaces.open_sandbox(place.path)
    namespaces.enter(sandbox.fd)
    sandbox.close()
    sys.stdout.flush()
    try:
        os.execvp(words[0], words)
    except FileNotFoundError:
        status, reason = NOT_THERE, "no such command"
    except OSError as error:
        status, reason = NOT_EXECUTABLE, str(error.strerror)
    click.echo(f"netctl: {words[0]}: {reason}", err=True)
    return status
