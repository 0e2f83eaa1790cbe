"""Traffic: new connections and throughput through a published port, with few and with many ports present."""

from __future__ import annotations

from bench.measures.common import CROWD, NAT, PORT, Run, alternate, fill, put
from bench.peers.base import Attachment
from bench.remote import Key, worlds
from bench.stats import Table

PER_ATTACHMENT = 100


def measure(run: Run) -> list[Table]:
    """Two tables: connections each second, and Gbit/s."""
    many = 1000 if run.quick else 10_000
    seconds = 1.0 if run.quick else 2.0
    columns = ["1 port", f"{many:,} ports"]
    rates = run.table("traffic-rate", "New TCP connections through a published port", "per s", columns, base=run.base)
    bulk = run.table("traffic-bulk", "TCP throughput through a published port", "Gbit/s", columns, base=run.base)
    attachment = Attachment(NAT, 1, ((PORT, 80),))
    with worlds(run.able("traffic"), columns) as (remotes, failed):
        notes: dict[Key, str] = {}
        for key, remote in remotes.items():
            if key[1] == columns[1]:
                reached = (
                    fill(remote, run, [CROWD], many // PER_ATTACHMENT, PER_ATTACHMENT, key, failed) * PER_ATTACHMENT
                )
                if reached < many:
                    notes[key] = f"[{reached:,} ports in {run.fill_seconds:.0f} s]"
        rounds = 1 if run.quick else max(3, run.rounds // 3)
        found = alternate(remotes, rounds, lambda _, remote: remote("load", attachment, seconds), failed, warm_up=0)
        for key in [*found, *failed]:
            for table, position in ((rates, 0), (bulk, 1)):
                samples = [sample[position] for sample in found.get(key, [])]
                put(table, key[0], key[1], samples, failed.get(key), notes.get(key, ""))
    rates.notes.append("One client, one connection after another; the measured port is published last.")
    return [run.name_missing("traffic", rates), bulk]
