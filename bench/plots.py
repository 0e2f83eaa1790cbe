"""The tables as pictures (matplotlib): bars for latency and rates, lines for growth with load."""

from __future__ import annotations

import os

from bench.stats import Table, shown


def write_plots(tables: list[Table], directory: str) -> list[str]:
    """Write an SVG for each table with a unit of its own; the paths."""
    import matplotlib  # type: ignore[import-not-found]

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "bench"  # the same figures give the same file
    os.makedirs(directory, exist_ok=True)
    drawn = []
    for table in tables:
        if table.key in ("memory", "growth") or not any(cell.value for cell in table.cells.values()):
            continue
        path = os.path.join(directory, f"bench-{table.key}.svg")
        _lines(table, path) if table.base_column and len(table.columns) > 2 else _bars(table, path)
        drawn.append(path)
    return drawn


def _bars(table: Table, path: str) -> None:
    """Grouped horizontal bars, from zero unless the peers differ by more than a picture can show."""
    from matplotlib import pyplot

    columns = [column for column in table.columns if column not in ("distinct addresses", "failed calls")]
    rows = [row for row in table.rows if any(table.value(row, column) for column in columns)]
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.17 * len(rows) * (len(columns) + 1)))
    height = 0.8 / len(columns)
    for number, column in enumerate(columns):
        places = [index + number * height for index in range(len(rows))]
        values = [table.value(row, column) or 0 for row in rows]
        bars = axes.barh(places, values, height * 0.92, label=column)
        axes.bar_label(bars, [shown(value) if value else "" for value in values], padding=3, fontsize=7)
    axes.set_yticks([index + 0.4 - height / 2 for index in range(len(rows))], [table.labels.get(r, r) for r in rows])
    axes.invert_yaxis()
    known = [value for row in rows for column in columns if (value := table.value(row, column))]
    axes.set_xscale("log" if max(known) > 500 * min(known) else "linear")
    axes.margins(x=0.12)
    _finish(figure, axes, table, path)


def _lines(table: Table, path: str) -> None:
    """One line for each peer over the columns, as evenly spaced steps."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 4.5))
    for row in table.rows:
        points = [(index, table.value(row, column)) for index, column in enumerate(table.columns)]
        known = [(index, value) for index, value in points if value]
        if known:
            axes.plot(*zip(*known, strict=True), marker="o", label=table.labels.get(row, row))
    axes.set_xticks(range(len(table.columns)), table.columns)
    axes.set_yscale("log")
    axes.set_ylabel(table.unit)
    _finish(figure, axes, table, path)


def _finish(figure, axes, table: Table, path: str) -> None:  # type: ignore[no-untyped-def]
    from matplotlib import pyplot

    axes.set_title(f"{table.title} ({table.unit})", fontsize=10)
    axes.legend(fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
