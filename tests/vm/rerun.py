"""Tests of the host's own suite that wanted a kernel feature or a program which a test machine may lack."""

from __future__ import annotations

from typing import NamedTuple


class Rerun(NamedTuple):
    """path: a file or test for pytest; features: what it wanted; ci: in the CI's set."""

    path: str
    features: tuple[str, ...]
    ci: bool


TESTS = (
    Rerun("tests/test_faults.py::test_failing_operation_leaves_the_host_as_it_was[vlan]", ("vlan filtering",), True),
    Rerun("tests/kernel/test_iptables.py", ("legacy iptables",), False),
    Rerun("tests/test_bridge_traffic.py", ("legacy iptables",), False),
)


def paths(whole: bool) -> list[str]:
    """What to give to pytest."""
    return [test.path for test in TESTS if whole or test.ci]


def features(nodeid: str) -> tuple[str, ...]:
    """What the test of an id wanted."""
    return next((test.features for test in TESTS if nodeid.startswith(test.path)), ())
