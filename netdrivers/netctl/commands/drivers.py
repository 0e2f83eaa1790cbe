"""netctl drivers: the drivers and the keys that each understands."""

from __future__ import annotations

from typing import Any

import click

from netdrivers.netctl import output


@click.command("drivers")
@output.json_option
def drivers(as_json: bool) -> None:
    """List the drivers, ours and those that other packages add, with their configuration keys."""
    found = [_driver(name) for name in _names()]
    if as_json:
        output.show_json(found)
        return
    output.show_table(
        ("driver", "from", "keys"),
        [
            (item["name"], item["module"], item["error"] or ", ".join(option["key"] for option in item["options"]))
            for item in found
        ],
    )


def _names() -> list[str]:
    from netdrivers.drivers import registry

    return registry.names()


def _driver(name: str) -> dict[str, Any]:
    """A driver; a package that cannot be loaded must not hide the others."""
    from msgspec.structs import fields

    from netdrivers.drivers import registry

    try:
        found = registry.driver(name)
    except Exception as error:
        return {"name": name, "module": "", "options": [], "error": f"cannot be loaded: {error}"}
    options = [
        {"key": field.encode_name, "type": _type(field.type), "default": _default(field)}
        for field in fields(found.options_type)
    ]
    return {"name": name, "module": type(found).__module__, "options": options, "error": ""}


def _default(field: Any) -> Any:
    """A key's default; null where it must be given."""
    from msgspec import NODEFAULT

    if field.default_factory is not NODEFAULT:
        return output.plain(field.default_factory())
    return None if field.default is NODEFAULT else output.plain(field.default)


def _type(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
