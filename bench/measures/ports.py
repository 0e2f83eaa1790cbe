"""Ports: 1, 100 and 1,000 ports published by one ADD."""

from __future__ import annotations

from bench.measures.common import FIRST_FILL_PORT, NAT, Run, alternate, put
from bench.peers.base import Attachment
from bench.remote import worlds
from bench.stats import Table

COUNTS = (1, 100, 1000)


def measure(run: Run) -> list[Table]:
    """Two tables, ADD and DEL, in milliseconds."""
    counts = COUNTS[:2] if run.quick else COUNTS
    columns = [f"{count:,}" for count in counts]
    adding = run.table("ports-add", "ADD publishing so many ports at once", "ms", columns, base_column=columns[0])
    deleting = run.table("ports-del", "DEL of so many ports at once", "ms", columns, base_column=columns[0])
    with worlds(run.able("ports")) as (remotes, failed):
        for key, remote in remotes.items():
            alternate({key: remote}, 1, lambda _, r: r("hold", Attachment(NAT, 200)), failed, warm_up=0)
        for column, count in zip(columns, counts, strict=True):
            run.say(f"  {count} ports")
            mapping = tuple((FIRST_FILL_PORT + step, 80 + step) for step in range(count))
            rounds = max(2, run.rounds // 5) if count == 1000 else run.rounds
            broken = dict(failed)
            warm_up = 0 if count == 1000 else 1
            attachment = Attachment(NAT, count, mapping)
            pairs = alternate(remotes, rounds, lambda _, remote, a=attachment: remote("pair", a), broken, warm_up)  # type: ignore[misc]
            for key in [*pairs, *failed]:
                samples = pairs.get(key, [])
                note = f"[{len(samples)} of {rounds} rounds]" if 0 < len(samples) < rounds else ""
                put(adding, key[0], column, [pair.add * 1e3 for pair in samples], broken.get(key), note)
                put(deleting, key[0], column, [pair.delete * 1e3 for pair in samples], broken.get(key), note)
    return [run.name_missing("ports", adding), deleting]
