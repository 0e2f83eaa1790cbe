"""What add, del and gc do with a chain: run it, keep what is needed to undo it, undo it."""

from __future__ import annotations

import os
from typing import Any

from netdrivers import errors
from netdrivers.netctl import chain, conflists, kept
from netdrivers.netctl.calls import lifecycle, state_dir
from netdrivers.state.store import AttachmentRecord


def attach(conflist: conflists.Conflist, call: chain.Call, wanted: dict[str, Any], label: str) -> dict[str, Any]:
    """Run a chain's ADD and keep it; the chain's result. AlreadyAttached; whatever its plugins say."""
    plugins, args = chain.configured(conflist.name, conflist.version, conflist.plugins, wanted)
    if label:
        args["K8S_POD_NAME"] = label  # what engines call a container's name in CNI_ARGS
    call = chain.Call(call.container, call.netns, call.ifname, args, call.path)
    where = state_dir()
    with kept.locked(where, conflist.name, call.container, call.ifname):
        _refuse_second(where, conflist.name, call)
        inode = os.stat(call.netns).st_ino
        result = chain.add(plugins, call)
        kept.keep(
            where,
            kept.Kept(
                conflist.name, call.container, call.ifname, call.netns, inode, conflist.version,
                plugins, args, call.path, result, kept.boot_id(), conflist.disable_check,
            ),
        )  # fmt: skip
    return result


def _refuse_second(where: str, network: str, call: chain.Call) -> None:
    """A chain that stands is refused; what a dead namespace or somebody else's gc left of one is cleared."""
    old = kept.find(where, network, call.container, call.ifname)
    if old is None:
        return
    ours = [item for item in old.plugins if chain.records(item)]
    if kept.same_namespace(old) and (not ours or records(network, call.container, call.ifname)):
        raise errors.AlreadyAttached(
            f"container {call.container} has {call.ifname} on network {network} already", "delete it first"
        )
    undo(where, old)


def records(network: str, container: str, ifname: str) -> list[AttachmentRecord]:
    """The store's records of an attachment, whoever made it; one for each of our plugins in the chain.

    A chained plugin's part is recorded under NETWORK+PLUGIN, and a configuration may stand for a named network.
    """
    found = lifecycle().store.attachments(container=container)
    return [
        record
        for record in found
        if record.attachment.ifname == ifname
        and network in (record.attachment.network.partition("+")[0], record.attachment.origin)
    ]


def detach(word: str, container: str, ifname: str, netns: str, path: str) -> bool:
    """Undo what was kept or recorded, else what the configuration says; whether anything was known.

    netns: the namespace as named now, "" when it is gone. NotFound for a network that nobody knows;
    UndoFailed names what stayed.
    """
    where = state_dir()
    name = word if not conflists.is_file(word) else conflists.load(word).name
    with kept.locked(where, name, container, ifname):
        old = kept.find(where, name, container, ifname)
        if old is not None:
            undo(where, old)
        recorded = records(name, container, ifname)
        if old is None:
            _undo_by_configuration(word, bool(recorded), chain.Call(container, netns, ifname, {}, path))
        for record in recorded:
            lifecycle().delete(record.attachment.key)
    return bool(old or recorded)


def _undo_by_configuration(word: str, recorded: bool, call: chain.Call) -> None:
    """As a runtime without a cache does; an engine's attachment needs no configuration, its records tell."""
    try:
        conflist = conflists.load(word)
    except errors.NotFound:
        if recorded:
            return
        raise
    plugins, _ = chain.configured(conflist.name, conflist.version, conflist.plugins, {})
    _raise_failures(chain.delete(plugins, call, None))


def undo(where: str, old: kept.Kept) -> None:
    """DEL of a kept chain; it is forgotten when nothing stayed. UndoFailed."""
    netns = old.netns if kept.same_namespace(old) else ""
    call = chain.Call(old.container, netns, old.ifname, old.args, old.path)
    _raise_failures(chain.delete(old.plugins, call, old.result))
    kept.forget(where, old.network, old.container, old.ifname)


def collect(linger_seconds: float) -> list[str]:
    """Undo the chains of dead namespaces, then what else the store knows to be dead; what was removed. UndoFailed."""
    where = state_dir()
    removed: list[str] = []
    failures: list[str] = []
    for old in kept.everything(where):
        with kept.locked(where, old.network, old.container, old.ifname):
            latest = kept.find(where, old.network, old.container, old.ifname)
            if latest is None or kept.same_namespace(latest):
                continue
            try:
                undo(where, latest)
                removed.append(f"{old.network}/{old.container}/{old.ifname}")
            except errors.UndoFailed as error:
                failures += error.failures
    removed += lifecycle().gc_dead(linger_seconds)
    _raise_failures(failures)
    return removed


def _raise_failures(failures: list[str]) -> None:
    if failures:
        raise errors.UndoFailed(failures)
