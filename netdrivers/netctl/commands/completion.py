"""netctl completion: the script that a shell reads to complete our words."""

from __future__ import annotations

import sys

import click

SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the completion script of SHELL: eval "$(netctl completion bash)"."""
    from click.shell_completion import get_completion_class

    from netdrivers.netctl.main import cli

    kind = get_completion_class(shell)
    assert kind is not None
    sys.stdout.write(kind(cli, {}, "netctl", "_NETCTL_COMPLETE").source() + "\n")
