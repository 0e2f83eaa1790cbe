"""Latency: ADD and DEL bare, with NAT, and with NAT and a published port."""

from __future__ import annotations

from bench.agent import Pair
from bench.measures.common import ALONE, BARE, NAT, PORT, PROOF_PORT, Run, alternate, put
from bench.peers.base import Attachment
from bench.process import PeerError
from bench.remote import Key, Remote, worlds
from bench.stats import Cell, Table

CASES = {
    "bare": Attachment(BARE, 1),
    "NAT": Attachment(NAT, 1),
    "NAT + port": Attachment(NAT, 2, ((PORT, 80),)),
    "NAT + port, alone": Attachment(ALONE, 3, ((PORT + 1, 80),)),
}
INNER = "floor-inner"


def measure(run: Run) -> list[Table]:
    """Two tables, ADD and DEL, in milliseconds."""
    columns = list(CASES)
    adding = run.table("latency-add", "ADD latency, process start to exit", "ms", columns, base=run.base)
    deleting = run.table("latency-del", "DEL latency, process start to exit", "ms", columns, base=run.base)
    with worlds(run.able("latency")) as (remotes, failed):
        _prove(run, remotes, failed, adding)
        _inner(run, remotes, adding, deleting)
        for case, attachment in CASES.items():
            run.say(f"  {case}: {run.rounds} rounds of {len(remotes)} peers")
            broken = dict(failed)
            pairs = alternate(remotes, run.rounds, lambda _, remote, a=attachment: remote("pair", a), broken)  # type: ignore[misc]
            for key in [*pairs, *failed]:
                samples: list[Pair] = pairs.get(key, [])
                reason = broken.get(key)
                put(adding, key[0], case, [pair.add * 1e3 for pair in samples], reason)
                put(deleting, key[0], case, [pair.delete * 1e3 for pair in samples], reason)
    adding.notes.append(
        "Another attachment of the network is there all the time, except in the last column, "
        "where peers that remove an empty network pay for making it again."
    )
    deleting.notes.append("The service answers when the attachment is cut off; it unlinks the device after that.")
    return [adding, deleting]


def _prove(run: Run, remotes: dict[Key, Remote], failed: dict[Key, str], table: Table) -> None:
    """A keeper in the networks that are in use; its published port must answer the outside host."""
    for key, remote in remotes.items():
        try:
            remote("hold", Attachment(BARE, 50))
            remote("prove", Attachment(NAT, 50, ((PROOF_PORT, 80),)))
        except PeerError as error:
            failed[key] = str(error)
            table.notes.append(f"{key[0]}: {error}")
    proved = [key[0] for key in remotes if key not in failed]
    table.notes.append(f"A published port answered an outside host before the rounds: {', '.join(proved)}.")


def _inner(run: Run, remotes: dict[Key, Remote], adding: Table, deleting: Table) -> None:
    """The floor without its process: the kernel's share alone."""
    floor = remotes.get(("floor", ""))
    if floor is None:
        return
    for case, attachment in CASES.items():
        other = Attachment(attachment.net, attachment.number + 10, attachment.ports)
        try:
            pairs = floor("inner", other, run.rounds)
        except PeerError as error:
            adding.put(INNER, case, Cell(note=str(error)))
            continue
        adding.put(INNER, case, Cell(tuple(add / 1e3 for add, _ in pairs)))
        deleting.put(INNER, case, Cell(tuple(delete / 1e3 for _, delete in pairs)))
    for table in (adding, deleting):
        table.labels[INNER] = "floor, calls alone"
