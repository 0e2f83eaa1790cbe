"""What commands share: the state, the options that name a container, and words for completion."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from netdrivers.lifecycle import Lifecycle
    from netdrivers.model import Attachment

Function = TypeVar("Function", bound=Callable[..., Any])


def state_dir() -> str:
    """The state directory: NETDRIVERS_STATE_DIR, or the default."""
    from netdrivers.frontends import dispatch

    return dispatch.state_dir(os.environ)


def lifecycle() -> Lifecycle:
    """The lifecycle on this host's state."""
    from netdrivers.frontends import dispatch

    return dispatch.lifecycle(state_dir())


def network_argument(function: Function) -> Function:
    """NETWORK: a file or a name."""
    return click.argument("network", shell_complete=_networks)(function)


def netns_argument(function: Function) -> Function:
    """NETNS: a path, a name of ip-netns(8), a pid."""
    return click.argument("netns", shell_complete=_namespaces)(function)


def container_options(function: Function) -> Function:
    """--ifname, --id and --cni-path."""
    for option in (
        click.option("--cni-path", envvar="CNI_PATH", default="/opt/cni/bin:/usr/lib/cni", show_default=True,
                     metavar="DIRS", help="Where the executables of foreign plugins are."),
        click.option("--id", "container", metavar="ID", help="The container's id  [default: from NETNS]"),
        click.option("--ifname", default="eth0", show_default=True, help="The interface's name in the container."),
    ):  # fmt: skip
        function = option(function)
    return function


def checked_container(container: str | None, default: str, ifname: str) -> str:
    """The container's id, with the names of both checked. RequestError names the option."""
    from netdrivers.errors import RequestError
    from netdrivers.frontends.reading import check_ifname, check_name

    check_ifname(ifname, "--ifname")
    return default if container is None else check_name(container, "--id", RequestError)


def held_by(attachment: Attachment) -> str:
    """An attachment's container in words: the label where there is one, and the id."""
    short = attachment.container[:12]
    return f"{attachment.label} ({short})" if attachment.label and attachment.label != short else short


def _matching(words: list[str], incomplete: str) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]


def _networks(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    from click.shell_completion import CompletionItem

    from netdrivers.netctl import conflists

    found: list[Any] = [CompletionItem(word) for word in _matching(conflists.names(), incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def _namespaces(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    from click.shell_completion import CompletionItem

    from netdrivers.netctl import targets

    found: list[Any] = [CompletionItem(word) for word in _matching(targets.names(), incomplete)]
    return found or [CompletionItem(incomplete, type="file")]
