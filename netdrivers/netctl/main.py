"""The program netctl: its commands, and the one place where errors become a line and an exit status."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from netdrivers import __version__
from netdrivers.netctl.lazy import LazyGroup

COMMANDS = {
    "add": ("attach:add", "Attach a container to a network."),
    "del": ("attach:delete", "Detach a container from a network."),
    "check": ("verify:check", "Compare what was recorded with what the kernel shows."),
    "plan": ("verify:plan", "Print what add would do, and do nothing."),
    "ls": ("listing:ls", "List the attachments of this host."),
    "inspect": ("inspect:inspect", "Show all that is known of a network or a container."),
    "ports": ("listing:ports", "List published ports and who holds them."),
    "peers": ("peers:peers", "List the hosts of overlay networks."),
    "fdb": ("fdb:fdb", "List what leads to other hosts, held against the record."),
    "gc": ("upkeep:gc", "Remove what dead containers left."),
    "reload": ("upkeep:reload", "Apply again whatever is missing from the kernel."),
    "exec": ("enter:enter", "Run a command in a network namespace."),
    "lint": ("lint:lint", "Look for mistakes in network configurations."),
    "network": ("network:network", "Named networks: ls, inspect, create, rm."),
    "drivers": ("drivers:drivers", "List the drivers and their options."),
    "install": ("install:install", "Write the executables that engines call."),
    "serve": ("service:serve", "Run the warm service in the foreground."),
    "service": ("service:service", "The running service: status, stop."),
    "doctor": ("doctor:doctor", "Probe what this host can do."),
    "completion": ("completion:completion", "Print the shell's completion script."),
}

INTERRUPTED = 130


@click.group(
    cls=LazyGroup,
    entries=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit status: 0 done, 1 other, 2 usage or configuration, 3 not found, 4 conflict, 5 the host lacks"
    " something, 6 check found differences, 7 the kernel refused, 8 busy, 9 a foreign plugin failed.",
)
@click.version_option(__version__, "-V", "--version", prog_name="netctl")
def cli() -> None:
    """Wire containers' network namespaces: one add, del and check for every driver."""


def main() -> NoReturn:
    """Run a command line. Never a traceback, unless NETDRIVERS_DEBUG=1."""
    try:
        status = cli.main(prog_name="netctl", standalone_mode=False)
        sys.stdout.flush()
    except (click.exceptions.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader of our output left; Python would complain once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except Exception as error:
        if os.environ.get("NETDRIVERS_DEBUG") == "1" and not isinstance(error, click.ClickException):
            raise
        from netdrivers.netctl import failures

        print(f"netctl: {failures.line(error)}", file=sys.stderr)
        sys.exit(failures.status(error))
    sys.exit(status if isinstance(status, int) else 0)
