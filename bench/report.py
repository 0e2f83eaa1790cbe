"""The tables as text: for a terminal (rich), as Markdown for docs/, and as JSON."""

from __future__ import annotations

import json
import os
import platform
import time
from typing import Any

from bench.stats import Table


def print_tables(tables: list[Table]) -> None:
    """Print to the terminal."""
    from rich.console import Console
    from rich.table import Table as Grid

    console = Console()
    if not console.is_terminal:
        console = Console(width=150)
    for table in tables:
        grid = Grid(title=f"{table.title} ({table.unit}{_base(table)})", title_justify="left")
        grid.add_column("", no_wrap=True)
        for column in table.columns:
            grid.add_column(column, justify="right")
        for row in table.rows:
            grid.add_row(table.labels.get(row, row), *(table.text(row, column) for column in table.columns))
        console.print(grid)
        for note in table.notes:
            console.print(note, highlight=False, markup=False)
        console.print()


def _base(table: Table) -> str:
    if table.base_column:
        return f"; ratios to column {table.base_column}"
    return f"; ratios to {table.labels.get(table.base, table.base)}" if table.base else ""


def markdown(tables: list[Table], facts: dict[str, Any], absent: dict[str, str]) -> str:
    """The run as Markdown."""
    where = f"{facts['cpus']} CPUs ({facts['cpu']}), kernel {facts['kernel']}, {facts['system']}"
    lines = [f"{facts['date']}: {where}.", ""]
    for label, reason in absent.items():
        lines += [f"Absent: {label}: {reason}.", ""]
    for table in tables:
        lines += [f"### {table.title}", "", f"In {table.unit}{_base(table)}; medians.", ""]
        lines.append("| | " + " | ".join(table.columns) + " |")
        lines.append("|---|" + "---:|" * len(table.columns))
        for row in table.rows:
            cells = (table.text(row, column).replace("|", "/") for column in table.columns)
            lines.append(f"| {table.labels.get(row, row)} | " + " | ".join(cells) + " |")
        lines.append("")
        for note in table.notes:
            lines += [note, ""]
    return "\n".join(lines)


def as_json(tables: list[Table], facts: dict[str, Any], absent: dict[str, str]) -> str:
    """The run for programs."""
    whole = {"machine": facts, "absent": absent, "tables": [table.as_json() for table in tables]}
    return json.dumps(whole, indent=1) + "\n"


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "cpu": _first("/proc/cpuinfo", "model name"),
        "system": _first("/etc/os-release", "PRETTY_NAME").strip('"'),
        "python": platform.python_version(),
    }


def _first(path: str, name: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                key, _, value = line.replace("=", ":", 1).partition(":")
                if key.strip() == name:
                    return value.strip()
    except OSError:
        pass
    return "unknown"
