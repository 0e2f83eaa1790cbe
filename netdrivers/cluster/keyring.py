"""Secrets of encrypted networks, in files that only root may read: plans and records name the files alone."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping

from netdrivers.cluster.layout import Secret


def keep(directory: str, network: str, secrets: Mapping[int, Secret]) -> tuple[tuple[int, str], ...]:
    """Write each generation's file below a state directory; generations and their files, in order."""
    folder = os.path.join(directory, "keys")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    found = []
    for generation in sorted(secrets):
        path = os.path.join(folder, f"{network}.{generation}")
        if not os.path.exists(path):
            handle, scratch = tempfile.mkstemp(dir=folder)  # readable by root alone
            with open(handle, "w", encoding="ascii") as file:
                file.write(secrets[generation].secret + "\n")
            os.replace(scratch, path)
        found.append((generation, path))
    return tuple(found)


def drop(directory: str, network: str, kept: Mapping[int, Secret]) -> None:
    """Remove the files of generations that are not among the kept."""
    folder = os.path.join(directory, "keys")
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            of_network, _, generation = name.rpartition(".")
            if of_network == network and generation.isdigit() and int(generation) not in kept:
                os.unlink(os.path.join(folder, name))
