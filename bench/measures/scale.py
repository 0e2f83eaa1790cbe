"""Scale: ADD (NAT and one port) against hosts that are full already; each level is a world of its own."""

from __future__ import annotations

from bench.measures.common import CROWD, PORT, Run, alternate, fill, put
from bench.peers.base import Attachment
from bench.remote import Key, worlds
from bench.stats import Table

Level = tuple[str, int, int]
"""Column, attachments, ports of each."""


def measure(run: Run) -> list[Table]:
    """ADD and DEL against attachments; against attachments with ports; against 60,000 ports."""
    attachments: list[Level] = [("0", 0, 0), ("10", 10, 0), ("100", 100, 0), ("1,000", 1000, 0)]
    crowd: list[Level] = [("empty", 0, 0), ("1,000 attachments, 20,000 ports", 1000, 20)]
    ports: list[Level] = [("empty", 0, 0), ("60,000 ports", 60, 1000)]
    if run.quick:
        attachments = attachments[:3]
        crowd = [crowd[0], ("100 attachments, 2,000 ports", 100, 20)]
        ports = [ports[0], ("6,000 ports", 6, 1000)]
    tables: list[Table] = []
    for name, what, levels in (
        ("attachments", "attachments", attachments),
        ("crowd", "attachments with ports", crowd),
        ("ports", "published ports", ports),
    ):
        run.say(f"  against {what}")
        tables += _against(run, f"scale-{name}", what, levels)
    return tables


def _against(run: Run, name: str, what: str, levels: list[Level]) -> list[Table]:
    columns = [level[0] for level in levels]
    titles = {"add": f"ADD with NAT and a port, against {what} present", "del": f"DEL, against {what} present"}
    tables = {
        kind: run.table(f"{name}-{kind}", title, "ms", columns, base_column=columns[0])
        for kind, title in titles.items()
    }
    with worlds(run.able("scale"), columns) as (remotes, failed):
        notes: dict[Key, str] = {}
        for column, count, each in levels:
            for key, remote in remotes.items():
                if key[1] != column:
                    continue
                alternate({key: remote}, 1, lambda _, r: r("hold", Attachment(CROWD, 3000)), failed, warm_up=0)
                if count and key not in failed:
                    reached = fill(remote, run, CROWD, count, each, key, failed)
                    if reached < count:
                        notes[key] = f"[{reached} of {count} in {run.fill_seconds:.0f} s]"
        # On the crowd's own network, so that its bridge and its leases count; it is never without an attachment.
        pairs = alternate(
            remotes,
            run.rounds,
            lambda key, remote: remote("pair", Attachment(CROWD, 3001, ((PORT, 80),))),
            failed,
        )
        for key in [*pairs, *failed]:
            samples = pairs.get(key, [])
            for kind, values in (("add", [p.add for p in samples]), ("del", [p.delete for p in samples])):
                milliseconds = [value * 1e3 for value in values]
                put(tables[kind], key[0], key[1], milliseconds, failed.get(key), notes.get(key, ""))
    tables["add"].notes.append("Ratios are to the same peer on the empty host, measured in the same rounds.")
    return [run.name_missing("scale", tables["add"]), tables["del"]]
