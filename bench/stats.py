"""Medians, ratios and tables of cells; pure, so that the arithmetic behind every figure is tested."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cell:
    """One figure: the samples it comes from, or a note that says why there is none.

    note beside samples qualifies them ("only 312 of 1000 ports").
    """

    samples: tuple[float, ...] = ()
    note: str = ""

    @property
    def value(self) -> float | None:
        """The median of the samples; None without samples."""
        return statistics.median(self.samples) if self.samples else None

    def spread(self) -> tuple[float, float] | None:
        """The 10th and 90th percentile (nearest rank); None without samples."""
        if not self.samples:
            return None
        return percentile(self.samples, 10), percentile(self.samples, 90)


def percentile(samples: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of at least one sample."""
    ordered = sorted(samples)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]


def ratio(value: float | None, base: float | None) -> float | None:
    """How many times base value is; None when either is missing or base is zero."""
    if value is None or not base:
        return None
    return value / base


@dataclass
class Table:
    """Cells by row (peer key) and column, with the unit of all of them.

    base: the row whose cell is 1.0 in every column; base_column: the column whose cell is 1.0 in
    every row, where growth is the question. plain: columns without ratios. notes: sentences that
    belong under the table.
    """

    key: str
    title: str
    unit: str
    columns: list[str]
    base: str = ""
    base_column: str = ""
    plain: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)

    def put(self, row: str, column: str, cell: Cell) -> None:
        """Set one cell; rows keep the order of their first cell."""
        if column not in self.columns:
            raise ValueError(f"no column {column!r} in {self.columns}")
        self.cells[row, column] = cell

    @property
    def rows(self) -> list[str]:
        """Row keys, in order."""
        return list(dict.fromkeys(row for row, _ in self.cells))

    def value(self, row: str, column: str) -> float | None:
        """The median of a cell; None when there is no cell, or it holds only a note."""
        cell = self.cells.get((row, column))
        return cell.value if cell else None

    def ratio(self, row: str, column: str) -> float | None:
        """The cell as a multiple of its base (the base column if the table has one, else the base row)."""
        if column in self.plain:
            return None
        if self.base_column:
            return ratio(self.value(row, column), self.value(row, self.base_column))
        return ratio(self.value(row, column), self.value(self.base, column))

    def text(self, row: str, column: str) -> str:
        """A cell for people: value, ratio, note."""
        cell = self.cells.get((row, column))
        if cell is None:
            return "-"
        if cell.value is None:
            return cell.note or "-"
        times = self.ratio(row, column)
        parts = [shown(cell.value), f"({shown(times)}x)" if times is not None else "", cell.note]
        return " ".join(part for part in parts if part)

    def as_json(self) -> dict[str, object]:
        """The table for programs: medians, percentiles, ratios and all samples."""
        found = []
        for (row, column), cell in self.cells.items():
            spread = cell.spread()
            found.append(
                {
                    "row": row,
                    "column": column,
                    "median": cell.value,
                    "p10": spread[0] if spread else None,
                    "p90": spread[1] if spread else None,
                    "ratio": self.ratio(row, column),
                    "note": cell.note,
                    "samples": list(cell.samples),
                }
            )
        return {
            "key": self.key,
            "title": self.title,
            "unit": self.unit,
            "columns": self.columns,
            "base": self.base,
            "base_column": self.base_column,
            "notes": self.notes,
            "labels": self.labels,
            "cells": found,
        }


def shown(value: float) -> str:
    """A number with three significant digits, or whole, without an exponent; thousands are grouped."""
    magnitude = abs(value)
    if value == int(value) and magnitude < 10_000_000:
        return f"{value:,.0f}"
    if magnitude >= 100:
        return f"{value:,.0f}"
    if magnitude >= 10:
        return f"{value:.1f}"
    if magnitude >= 1:
        return f"{value:.2f}"
    return f"{value:.3f}"
