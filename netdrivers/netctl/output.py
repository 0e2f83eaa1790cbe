"""What netctl prints: tables and lines for people, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
import msgspec

Function = TypeVar("Function", bound=Callable[..., Any])
_PIPE_WIDTH = 4096


def json_option(function: Function) -> Function:
    """The option --json, which every command that prints has."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(function)


def show_json(value: Any) -> None:
    """A value as indented JSON."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2)
    sys.stdout.write(text.decode() + "\n")


def show_lines(lines: Sequence[str]) -> None:
    """Lines as they are."""
    sys.stdout.writelines(f"{line}\n" for line in lines)


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows below headings; fitted to a terminal, whole where a program reads."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column.upper(), overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    if sys.stdout.isatty():
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    show_lines([line.rstrip() for line in captured.get().splitlines()])


def age(seconds: int) -> str:
    """A time span in its largest unit: 45s, 12m, 3h, 9d."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def plain(value: Any) -> Any:
    """A Struct as dictionaries and lists, for JSON."""
    return msgspec.to_builtins(value)
