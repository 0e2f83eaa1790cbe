"""What a dead container left, when one of the same id comes: engines that let people choose ids use them again."""

from __future__ import annotations

from netdrivers.lifecycle import Lifecycle


def drop_stale(lifecycle: Lifecycle, key: str) -> None:
    """Remove an attachment whose namespace died without anybody telling us; one that lives is left alone."""
    record = lifecycle.store.attachment(key)
    if record is not None and record.state == "attached" and not lifecycle.alive(record):
        lifecycle.delete(key)
