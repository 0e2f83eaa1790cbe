"""Read foreign JSON: typed look-ups with errors that name field, value and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from netdrivers.errors import ConfigError, DecodeError, MissingField, RequestError

Document = Mapping[str, Any]

_NAME = re.compile(r"^[a-zA-Z0-9][a-zA-Z0-9_.\-]{0,254}\Z")
_WORDS: dict[type, str] = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    dict: "an object",
    list: "an array",
}


def decode(text: bytes, what: str) -> dict[str, Any]:
    """A JSON object. DecodeError when it is malformed or something else."""
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"{what} is not well-formed JSON: {error}") from None
    if not isinstance(document, dict):
        raise DecodeError(f"{what} is not a JSON object")
    return document


def get(document: Document, key: str, kind: type, default: Any, where: str = "") -> Any:
    """The value of a key, of one type; JSON's null counts as absent. ConfigError when mistyped."""
    value = document.get(key)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{where}{key}", value, _WORDS[kind])
    return value


def need(document: Document, key: str, kind: type, where: str = "") -> Any:
    """The value of a key that must be there."""
    value = get(document, key, kind, None, where)
    if value is None:
        raise MissingField(f"{where}{key}", _WORDS[kind])
    return value


def strings(document: Document, key: str, where: str = "") -> tuple[str, ...]:
    """An array of strings, empty when absent."""
    values = get(document, key, list, [], where)
    for i, value in enumerate(values):
        if not isinstance(value, str):
            raise ConfigError(f"{where}{key}[{i}]", value, "a string")
    return tuple(values)


def objects(document: Document, key: str, where: str = "") -> list[dict[str, Any]]:
    """An array of objects, empty when absent."""
    values = get(document, key, list, [], where)
    for i, value in enumerate(values):
        if not isinstance(value, dict):
            raise ConfigError(f"{where}{key}[{i}]", value, "an object")
    return list(values)


def spelled(document: Document, *names: str) -> dict[str, Any]:
    """The values of these keys, whatever their case: containerd sends runtimeConfig's with a capital letter."""
    values = {key.lower(): value for key, value in document.items()}
    return {name: values[name.lower()] for name in names if name.lower() in values}


def check_name(value: str, field: str, error: type[ConfigError] = ConfigError) -> str:
    """A network's name or a container's id (CNI spec, sections 1 and 2)."""
    if not _NAME.match(value):
        raise error(field, value, "a letter or digit, then letters, digits, '_', '.' or '-' (255 at most)")
    return value


def check_ifname(value: str, field: str = "ifname") -> str:
    """An interface name that the kernel and the spec allow."""
    if not 1 <= len(value.encode()) <= 15 or value in (".", "..") or re.search(r"[\s/:%\x00]", value):
        raise RequestError(field, value, "1 to 15 characters without spaces, '/', ':' and '%', and not '.' or '..'")
    return value
