"""What the measurements share: the settings of a run, and the alternating rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.peers.base import Net, Peer
from bench.process import PeerError
from bench.remote import Key, Remote
from bench.stats import Cell, Table

BARE = Net("bare", 0, nat=False)
NAT = Net("nat", 1)
ALONE = Net("alone", 2)
FULL = Net("full", 3)
CROWD = Net("crowd", 4)

PROOF_PORT = 900
PORT = 1080
"""The published port that is measured; ports that only fill lie above FIRST_FILL_PORT."""
FIRST_FILL_PORT = 2000
SLOW_SECONDS = 20.0
"""A peer whose one round takes longer is not asked for another: its figure will not turn on it."""


@dataclass
class Run:
    """Settings. base: the peer that is 1.0 in ratios. say: prints one line of progress."""

    peers: list[Peer]
    base: str
    rounds: int
    quick: bool
    fill_seconds: float
    growth_pairs: int
    say: Callable[[str], None]

    def able(self, feature: str) -> list[Peer]:
        """The peers that take part in a measurement."""
        return [peer for peer in self.peers if feature in peer.features]

    def table(self, key: str, title: str, unit: str, columns: list[str], **more: Any) -> Table:
        """An empty table that knows the peers' labels; peers that do not take part are named below it."""
        return Table(key, title, unit, columns, labels={peer.key: peer.label for peer in self.peers}, **more)

    def name_missing(self, feature: str, table: Table) -> Table:
        """Add the note that names peers which do not take part."""
        missing = [peer.label for peer in self.peers if feature not in peer.features]
        if missing:
            table.notes.append(f"Not measured here: {', '.join(missing)}.")
        return table


def alternate(
    remotes: dict[Key, Remote],
    rounds: int,
    action: Callable[[Key, Remote], Any],
    failed: dict[Key, str],
    warm_up: int = 1,
) -> dict[Key, list[Any]]:
    """Each round every remote once, in turn (A, B, C, A, B, C ...); the first warm_up rounds do not count.

    A remote that fails is left out from then on, and its reason put into failed; one that took
    longer than SLOW_SECONDS is left out, too, but keeps its samples.
    """
    slow: set[Key] = set()
    found: dict[Key, list[Any]] = {key: [] for key in remotes}
    for number in range(rounds + warm_up):
        for key, remote in remotes.items():
            if key in failed or key in slow:
                continue
            start = time.monotonic()
            try:
                sample = action(key, remote)
            except PeerError as error:
                failed[key] = str(error)
                continue
            if time.monotonic() - start > SLOW_SECONDS:
                slow.add(key)
            if number >= warm_up or key in slow:
                found[key].append(sample)
    return found


def put(
    table: Table, row: str, column: str, samples: Iterable[float], reason: str | None = None, note: str = ""
) -> None:
    """Put a cell of samples; where the peer failed the cell says so, and the reason goes below the table."""
    values = tuple(samples)
    words = [note] if note else []
    if reason:
        words.append("then failed" if values else "failed")
        line = f"{table.labels.get(row, row)}, {column}: {reason[:200]}"
        if line not in table.notes:
            table.notes.append(line)
    elif not values:
        words.append("no sample")
    table.put(row, column, Cell(values, " ".join(words)))


def fill(
    remote: Remote, run: Run, nets: Sequence[Net], count: int, ports_each: int, key: Key, failed: dict[Key, str]
) -> int:
    """Hold count attachments, evenly on the networks, within the run's time; how many there are then.

    A failure goes to failed.
    """
    run.say(f"  {key[0]}: {count} attachments, {ports_each} ports each, {len(nets)} networks")
    end = time.monotonic() + run.fill_seconds
    each, reached = count // len(nets), 0
    for number, net in enumerate(nets):
        first_port = FIRST_FILL_PORT + number * each * ports_each
        left = max(0.0, end - time.monotonic())
        try:
            reached += int(remote("fill", net, each, ports_each, first_port, left, seconds=left + 300))
        except PeerError as error:
            failed[key] = f"while filling: {error}"
            break
    return reached
