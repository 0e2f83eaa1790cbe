"""The network that a person means: a file, a named network, or a conflist of /etc/cni/net.d by its name."""

from __future__ import annotations

import os
from typing import Any

from msgspec import Struct

from netdrivers import networks_file
from netdrivers.errors import ConfigError, NetdriversError, NotFound
from netdrivers.frontends.cni.result import VERSIONS
from netdrivers.frontends.reading import check_name, decode, get, need, objects, strings
from netdrivers.near import near

CNI_DIR = "/etc/cni/net.d"
DEFAULT_VERSION = "1.0.0"
"""For a file that names none; what every plugin in use speaks."""

SUFFIXES = (".conflist", ".conf", ".json")


class Conflist(Struct, frozen=True):
    """A network configuration as CNI runtimes read it: plugins in order, each with its own keys.

    document: the whole file; a file of one plugin is that plugin.
    """

    name: str
    version: str
    plugins: tuple[dict[str, Any], ...]
    path: str
    document: dict[str, Any]

    @property
    def disable_check(self) -> bool:
        """Whether foreign plugins are not to be asked for CHECK; some runtimes write it as a string."""
        return self.document.get("disableCheck") in (True, "true")


def cni_dir() -> str:
    """Where conflists are looked up by name; NETCONFPATH as for cnitool."""
    return os.environ.get("NETCONFPATH") or CNI_DIR


def is_file(word: str) -> bool:
    """Whether a word names a file and not a network."""
    return "/" in word or word.endswith(SUFFIXES)


def load(word: str) -> Conflist:
    """The network that a word on the command line means. NotFound names the near one."""
    if is_file(word):
        return read(word)
    check_name(word, "network")
    where = networks_file.directory(os.environ)
    if word in networks_file.names(where):
        named = networks_file.find(where, word)
        return parse(named.config, named.path)
    known = dict(_named_conflists())
    if word in known:
        return known[word]
    raise NotFound(f"no network {word!r}", near(word, names()) or f"none in {where} and {cni_dir()}")


def names() -> list[str]:
    """Every name that load() knows."""
    return sorted(
        {*networks_file.names(networks_file.directory(os.environ)), *(name for name, _ in _named_conflists())}
    )


def _named_conflists() -> list[tuple[str, Conflist]]:
    """The conflists of the CNI directory, later files first hidden by earlier ones, as runtimes sort them."""
    where = cni_dir()
    try:
        files = sorted(name for name in os.listdir(where) if name.endswith(SUFFIXES))
    except FileNotFoundError:
        return []
    found: dict[str, Conflist] = {}
    for file in files:
        try:
            conflist = read(os.path.join(where, file))
        except (NetdriversError, OSError):
            continue  # somebody else's file; lint says what is wrong with it
        found.setdefault(conflist.name, conflist)
    return list(found.items())


def read(path: str) -> Conflist:
    """A .conflist, or a .conf of one plugin. NotFound without the file."""
    try:
        with open(path, "rb") as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"no file {path}", _near_file(path)) from None
    except IsADirectoryError:
        raise NotFound(f"{path} is a directory, not a network configuration") from None
    try:
        return parse(decode(text, path), path)
    except ConfigError as error:
        error.message = f"{path}: {error.message}"
        raise


def parse(document: dict[str, Any], path: str) -> Conflist:
    """A decoded file. ConfigError names what is missing or wrong."""
    single = "plugins" not in document
    name = check_name(need(document, "name", str), "name")
    plugins = [document] if single else objects(document, "plugins")
    if not plugins:
        raise ConfigError("plugins", [], "at least one plugin")
    for i, plugin in enumerate(plugins):
        where = "" if single else f"plugins[{i}]."
        kind = need(plugin, "type", str, where)
        if not kind or "/" in kind:
            raise ConfigError(f"{where}type", kind, "the name of a plugin, without a path")
        for key in ("capabilities", "runtimeConfig", "ipam"):
            get(plugin, key, dict, {}, where)
    return Conflist(name, _version(document), tuple(plugins), path, document)


def _version(document: dict[str, Any]) -> str:
    """The version to speak: the highest that both know where several are named (spec 1.1.0, cniVersions)."""
    several = [version for version in strings(document, "cniVersions") if version in VERSIONS]
    if several:
        return max(several, key=VERSIONS.index)
    return get(document, "cniVersion", str, "") or DEFAULT_VERSION


def _near_file(path: str) -> str:
    folder = os.path.dirname(path) or "."
    try:
        known = [name for name in os.listdir(folder) if name.endswith(SUFFIXES)]
    except OSError:
        return ""
    return near(os.path.basename(path), known) if known else ""
