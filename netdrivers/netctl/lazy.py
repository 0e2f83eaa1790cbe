"""A click group that imports a command's file only when that command is called, and suggests near names."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

import click

Entries = Mapping[str, tuple[str, str]]
"""Command name to (where: "file:function" below netctl.commands, its one line of help)."""


class LazyGroup(click.Group):
    """A group whose commands are named beforehand and loaded when needed."""

    def __init__(self, *, entries: Entries, **attributes: object) -> None:
        super().__init__(**attributes)  # type: ignore[arg-type]
        self._entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order that they are named in."""
        return list(self._entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one."""
        if cmd_name not in self._entries:
            return None
        module, _, name = self._entries[cmd_name][0].partition(":")
        command = getattr(import_module(f"netdrivers.netctl.commands.{module}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in self._entries.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but a wrong name is answered with the near one."""
        if args and args[0] not in self._entries and not args[0].startswith("-"):
            from netdrivers.near import near

            hint = near(args[0], self._entries)
            raise click.UsageError(f"no command {args[0]!r}" + (f" ({hint})" if hint else ""), ctx)
        return super().resolve_command(ctx, args)
