"""Decode a driver's configuration keys into its options type, with errors that name key and value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from netdrivers.errors import ConfigError

Options = TypeVar("Options", bound=Struct)

_AT = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?$")


def decode_options(options: Mapping[str, Any], kind: type[Options]) -> Options:
    """The options as their type; unknown keys are left to lint. ConfigError names key, value and type."""
    try:
        return msgspec.convert(dict(options), kind)
    except msgspec.ValidationError as error:
        raise wrong_type(str(error), options) from None


def wrong_type(message: str, document: Any) -> ConfigError:
    """msgspec's words ("Expected `int`, got `str` - at `$.mtu`") as our error."""
    match = _AT.match(message)
    what, path = (match["what"], match["path"] or "") if match else (message, "")
    expected = re.match(r"Expected (.*?)(?:, got .*)?$", what)
    return ConfigError(path or "configuration", _at(document, path), expected[1].replace("`", "") if expected else what)


def _at(document: Any, path: str) -> Any:
    for step in re.findall(r"[^.\[\]]+", path):
        try:
            document = document[int(step)] if step.isdigit() else document[step]
        except (KeyError, IndexError, TypeError):
            return None
    return document


def keys_of(kind: type[Struct]) -> tuple[str, ...]:
    """The configuration keys of an options type."""
    return tuple(field.encode_name for field in msgspec.structs.fields(kind))
