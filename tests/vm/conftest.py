"""Tests that run in a node only (scripts/vm-test): elsewhere this directory is left out, and the summary says so.

In a node it is a plugin as well, for the host's own tests that run there again (rerun.py).

Marks: feature(NAME...) what a kernel or a host must have, for the summary; whole: not in the CI's set;
nodes(COUNT): wants so many machines; boot(NUMBER): runs in that boot of the node, not in the first; last: at the end
of its boot, as it leaves things behind. A test that wants a reboot after its boot's tests makes the file STATE/reboot.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.vm import rerun

IN_NODE = os.environ.get("NETDRIVERS_VM") == "yes"
BOOT = int(os.environ.get("NETDRIVERS_VM_BOOT", "1"))
WHOLE = os.environ.get("NETDRIVERS_VM_WHOLE") == "yes"
NODES = int(os.environ.get("NETDRIVERS_VM_NODES", "1"))
STATE = Path(os.environ.get("NETDRIVERS_VM_STATE", "/srv/state"))
RESULTS = Path("/srv/results")

collect_ignore_glob = [] if IN_NODE else ["test_*.py"]

MARKS = (
    "feature(names): what the test needs of kernel and host",
    "whole: not in the CI's set",
    "nodes(count): wants so many machines",
    "boot(number): runs in that boot of the node",
    "last: at the end of its boot",
)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks."""
    for mark in MARKS:
        config.addinivalue_line("markers", mark)


def _left_out(item: pytest.Item) -> str:
    """Why a test is not for this set and boot, "" when it is."""
    boot = item.get_closest_marker("boot")
    if (boot.args[0] if boot else 1) != BOOT:
        return "another boot"
    if item.get_closest_marker("whole") and not WHOLE:
        return "whole set"
    nodes = item.get_closest_marker("nodes")
    return "more nodes" if nodes and nodes.args[0] > NODES else ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep what is for this set and boot, in order; write down what was left out."""
    for item in items:
        marks = [name for mark in item.iter_markers("feature") for name in mark.args]
        for name in dict.fromkeys([*marks, *rerun.features(item.nodeid)]):
            item.user_properties.append(("feature", name))
    out = {item: _left_out(item) for item in items}
    dropped = [item for item in items if out[item]]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
    items[:] = sorted((item for item in items if not out[item]), key=lambda item: bool(item.get_closest_marker("last")))
    names = sorted({f"{item.nodeid.partition('[')[0]}: {out[item]}" for item in dropped if out[item] != "another boot"})
    if IN_NODE and names:
        with (RESULTS / "left-out").open("a") as file:
            file.writelines(f"{name}\n" for name in names)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """On a host, say by name what was not run."""
    if not IN_NODE:
        names = ", ".join(sorted(path.name for path in Path(__file__).parent.glob("test_*.py")))
        terminalreporter.write_line(f"left out: tests/vm ({names}); scripts/vm-test runs it in virtual machines")


if IN_NODE:

    @pytest.fixture(scope="session", autouse=True)
    def machine_unchanged() -> None:
        """Nothing to watch: here the machine is the tests' own to change."""
