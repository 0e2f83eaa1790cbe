"""Growth: many ADD/DEL pairs without a pause; time of a pair, and the daemon's memory on the way."""

from __future__ import annotations

from bench.measures.common import NAT, PORT, Run, put
from bench.peers.base import Attachment
from bench.process import PeerError
from bench.remote import Key, Remote, worlds
from bench.stats import Cell, Table

STEPS = 10
OTHERS = 50


def measure(run: Run) -> list[Table]:
    """One table: milliseconds of a pair for every peer, and MiB of RSS for those with a daemon."""
    columns = ["ms per pair", "RSS at start", "RSS halfway", "RSS at end"]
    table = run.table("growth", "ADD/DEL pairs without a pause, NAT and a port", "ms, MiB", columns)
    with worlds(run.able("growth")) as (remotes, failed):
        for key, remote in remotes.items():
            try:
                _pairs(run, table, key, remote)
            except PeerError as error:
                failed[key] = str(error)
        for key, reason in failed.items():
            put(table, key[0], columns[0], (), reason)
    table.notes.append(f"{run.growth_pairs} pairs for peers with a daemon, {OTHERS} for the others.")
    return [table]


def _pairs(run: Run, table: Table, key: Key, remote: Remote) -> None:
    remote("hold", Attachment(NAT, 200))
    attachment = Attachment(NAT, 1, ((PORT, 80),))
    remote("churn", attachment, 10 if run.quick else OTHERS)
    daemon = remote("resident") is not None
    count = run.growth_pairs if daemon else OTHERS
    step = max(1, count // STEPS)
    times, sizes = [], [remote("resident")]
    for _ in range(STEPS if daemon else 1):
        part = step if daemon else count
        times.append(remote("churn", attachment, part, seconds=60 + part) / part * 1e3)
        sizes.append(remote("resident"))
    run.say(f"  {key[0]}: {count} pairs, {sum(times) / len(times):.1f} ms each")
    table.put(key[0], "ms per pair", Cell(tuple(times)))
    if daemon:
        mebibytes = [rss / 1024 for rss, _ in sizes]
        for column, value in zip(table.columns[1:], (mebibytes[0], mebibytes[STEPS // 2], mebibytes[-1]), strict=True):
            table.put(key[0], column, Cell((value,)))
