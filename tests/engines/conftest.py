"""Fixtures for the engine tests: the image, hosts with our executables, and the guard over the machine's network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from . import image, snapshot
from .harness import BIN_DIR, EngineHost
from .needs import Missing, needs, program
from .rootfs import rootfs

MakeHost = Callable[..., EngineHost]


@pytest.fixture(scope="session", autouse=True)
def machine_untouched() -> Iterator[None]:
    """No engine test changes the links, addresses, routes, rules or forwarding of the machine itself."""
    if os.geteuid():
        needs("root", "engines run in namespaces that only root may make")
    for name, package in (("unshare", "util-linux"), ("ip", "iproute2"), ("nft", "nftables")):
        program(name, package)
    before = snapshot.own()
    yield
    assert snapshot.difference(before, snapshot.own()) == []


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Archives of the web server's image and of one that only sleeps, by the name they load under."""
    folder = tmp_path_factory.mktemp("images")
    return {
        image.WEB: image.archive(folder / "web.tar", image.WEB, ["httpd", "-f", "-p", "80", "-h", "/www"]),
        image.PAUSE: image.archive(folder / "pause.tar", image.PAUSE, ["sleep", "1000000"]),
    }


def engine_root(name: str, version: str, root: str) -> Path | None:
    """Where an engine is: None for the machine's own root, else the cached root of another release.

    name, version: program, and a pattern that ``name --version`` must match; root: as rootfs.ROOTS calls it.
    NETDRIVERS_ENGINE_ROOTS=always takes the cached root even where this machine has the engine.
    """
    if os.environ.get("NETDRIVERS_ENGINE_ROOTS") != "always" and shutil.which(name):
        said = subprocess.run([name, "--version"], capture_output=True, text=True, check=True).stdout
        if re.search(version, said):
            return None
    try:
        return rootfs(root)
    except Missing as missing:
        needs(missing.thing, f"{name} matching {version}: {missing.reason}")


@pytest.fixture(scope="module")
def engine_host(images: dict[str, Path]) -> Iterator[MakeHost]:
    """Makes hosts for an engine, with the images in /run and our executables in BIN_DIR; closed after the module.

    others: more engines that the host shall have, as (name, version).
    """
    made: list[EngineHost] = []

    def make(name: str, version: str, root: str, *others: tuple[str, str]) -> EngineHost:
        found = [engine_root(*engine, root) for engine in ((name, version), *others)]
        host = EngineHost(next(filter(None, found), None))
        made.append(host)
        for archive in images.values():
            shutil.copy(archive, host.path(f"/run/{archive.name}"))
        install(host)
        return host

    yield make
    for host in made:
        host.close()


def install(host: EngineHost) -> None:
    """Put our executables into BIN_DIR, as a person would."""
    host.machine("netctl", "install", "--bin-dir", BIN_DIR)
    host.publish_executables(BIN_DIR)
