"""Memory: what stays resident, and the peak of one ADD's processes."""

from __future__ import annotations

from bench.measures.common import NAT, PORT, Run, put
from bench.peers.base import Attachment
from bench.process import PeerError
from bench.remote import worlds
from bench.stats import Cell, Table

COLUMNS = ["daemon RSS", "daemon PSS", "largest process of an ADD"]


def measure(run: Run) -> list[Table]:
    """One table, in MiB."""
    table = run.table("memory", "Memory", "MiB", COLUMNS)
    with worlds(run.able("memory")) as (remotes, failed):
        for key, remote in remotes.items():
            try:
                for _ in range(3 if run.quick else 20):
                    remote("pair", Attachment(NAT, 1, ((PORT, 80),)))
                resident = remote("resident")
                peak = remote("peak", Attachment(NAT, 400, ((PORT + 1, 80),)))
            except PeerError as error:
                failed[key] = str(error)
                continue
            for column, value in zip(COLUMNS[:2], resident or (None, None), strict=True):
                table.put(key[0], column, Cell((value / 1024,)) if value else Cell(note="no daemon"))
            table.put(key[0], COLUMNS[2], Cell((peak / 1024,)) if peak else Cell(note="in the daemon"))
        for key, reason in failed.items():
            put(table, key[0], COLUMNS[0], (), reason)
    table.notes.append("The daemon is idle after some ADD/DEL pairs. dockerd's containerd is not counted.")
    return [table]
