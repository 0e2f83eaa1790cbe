"""Scale: ADD (NAT and one port) against hosts that are full already; each level is a world of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass

from bench.measures.common import CROWD, PORT, Run, alternate, fill, put
from bench.peers.base import Attachment, Net
from bench.remote import Key, worlds
from bench.stats import Table

SETTLE_SECONDS = 15.0
"""After filling: a thousand new sandboxes go on sending IPv6 solicitations to one another for some seconds."""


@dataclass(frozen=True)
class Level:
    """What is on a host before the rounds: attachments of some ports each, spread over some networks."""

    column: str
    attachments: int = 0
    ports_each: int = 0
    networks: int = 1

    def nets(self) -> list[Net]:
        """The networks; the first is the one that is measured."""
        return [CROWD, *(Net(f"crowd{number}", 20 + number) for number in range(1, self.networks))]


def measure(run: Run) -> list[Table]:
    """ADD and DEL against attachments; against attachments with ports; against 60,000 ports."""
    attachments = [
        Level("0"),
        Level("10", 10),
        Level("100", 100),
        Level("1,000 on 10 networks", 1000, networks=10),
        Level("1,000 on one", 1000),
    ]
    crowd = [
        Level("empty"),
        Level("1,000 with 20 ports each, 10 networks", 1000, 20, networks=10),
        Level("the same on one network", 1000, 20),
    ]
    ports = [Level("empty"), Level("60,000 ports", 60, 1000)]
    if run.quick:
        attachments, crowd = attachments[:3], [crowd[0], Level("100 with 20 ports each", 100, 20)]
        ports = [ports[0], Level("6,000 ports", 6, 1000)]
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
    columns = [level.column for level in levels]
    titles = {"add": f"ADD with NAT and a port, against {what} present", "del": f"DEL, against {what} present"}
    tables = {
        kind: run.table(f"{name}-{kind}", title, "ms", columns, base_column=columns[0])
        for kind, title in titles.items()
    }
    with worlds(run.able("scale"), columns) as (remotes, failed):
        notes: dict[Key, str] = {}
        for level in levels:
            for key, remote in remotes.items():
                if key[1] != level.column:
                    continue
                alternate({key: remote}, 1, lambda _, r: r("hold", Attachment(CROWD, 3000)), failed, warm_up=0)
                if level.attachments and key not in failed:
                    reached = fill(remote, run, level.nets(), level.attachments, level.ports_each, key, failed)
                    if reached < level.attachments:
                        notes[key] = f"[{reached} of {level.attachments} in {run.fill_seconds:.0f} s]"
        time.sleep(0 if run.quick else SETTLE_SECONDS)
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
    if any(level.networks == 1 and level.attachments >= 1000 for level in levels):
        tables["add"].notes.append("A bridge with 1,000 ports costs the kernel more for each new port: see the floor.")
    tables["add"].notes.append("Ratios are to the same peer on the empty host, measured in the same rounds.")
    return [run.name_missing("scale", tables["add"]), tables["del"]]
