"""Parallel: 64 ADDs at the same moment on one network, then 64 DELs."""

from __future__ import annotations

from bench.agent import Burst
from bench.measures.common import FULL, PORT, Run, alternate, put
from bench.peers.base import Attachment
from bench.remote import worlds
from bench.stats import Cell, Table

COUNT = 64
LIMIT_SECONDS = 120.0


def measure(run: Run) -> list[Table]:
    """One table: attachments each second, and distinct addresses."""
    count = 16 if run.quick else COUNT
    columns = ["ADD/s", "DEL/s", "distinct addresses", "failed calls"]
    title = f"{count} parallel ADDs with NAT and a port, then DELs"
    table = run.table("parallel", title, "per s", columns, base=run.base, plain=tuple(columns[2:]))
    attachments = [Attachment(FULL, number, ((PORT + number, 80),)) for number in range(count)]
    with worlds(run.able("parallel")) as (remotes, failed):
        for key, remote in remotes.items():
            alternate({key: remote}, 1, lambda _, r: r("hold", Attachment(FULL, 200)), failed, warm_up=0)
        bursts = alternate(
            remotes,
            max(1, min(5, run.rounds // 3)),
            lambda key, remote: _burst(run, key[0], remote("burst", attachments, LIMIT_SECONDS)),
            failed,
            warm_up=0,
        )
        for key in [*bursts, *failed]:
            samples: list[Burst] = bursts.get(key, [])
            reason = failed.get(key)
            done = [len(burst.addresses) for burst in samples]
            put(table, key[0], "ADD/s", [n / b.add_seconds for n, b in zip(done, samples, strict=True)], reason)
            put(table, key[0], "DEL/s", [n / b.delete_seconds for n, b in zip(done, samples, strict=True)], reason)
            distinct = [float(len(set(burst.addresses))) for burst in samples]
            put(table, key[0], "distinct addresses", [min(distinct)] if distinct else [], reason)
            failures = [text for burst in samples for text in burst.failures]
            table.put(
                key[0], "failed calls", Cell((float(len(failures)),), f"of {2 * len(attachments) * len(samples)}")
            )
            if failures:
                table.notes.append(f"{table.labels[key[0]]}: {failures[0]}")
    table.notes.append("Distinct addresses: the fewest of all bursts.")
    table.notes.append("Addresses of the floor and of netavark are chosen by the caller.")
    return [run.name_missing("parallel", table)]


def _burst(run: Run, name: str, burst: Burst) -> Burst:
    run.say(f"  {name}: {len(burst.addresses)} in {burst.add_seconds:.2f} s, {len(burst.failures)} failures")
    return burst
