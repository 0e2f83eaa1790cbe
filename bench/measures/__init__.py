"""The measurements by name, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable

from bench.measures import growth, latency, memory, parallel, ports, scale, traffic
from bench.measures.common import Run
from bench.stats import Table

MEASURES: dict[str, Callable[[Run], list[Table]]] = {
    "latency": latency.measure,
    "parallel": parallel.measure,
    "scale": scale.measure,
    "ports": ports.measure,
    "memory": memory.measure,
    "growth": growth.measure,
    "traffic": traffic.measure,
}
