"""Tests of the host's own suite that wanted a kernel feature or a program which a test machine may lack.

Run as a program it prints what to give to pytest, and adds what it leaves out to the file that it is given.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple


class Rerun(NamedTuple):
    """path: a file or test for pytest; features: what it wanted; ci: in the CI's set."""

    path: str
    features: tuple[str, ...]
    ci: bool


TESTS = (
    Rerun("tests/test_faults.py::test_failing_operation_leaves_the_host_as_it_was[vlan]", ("vlan filtering",), False),
    Rerun("tests/test_overlay_encrypted.py::test_only_esp_is_seen_between_the_hosts", ("esp",), True),
    Rerun("tests/test_overlay_encrypted.py::test_another_secret_on_one_host_cuts_it_off", ("esp",), False),
    Rerun("tests/test_overlay_encrypted.py::test_secrets_are_renewed_while_everybody_talks", ("esp",), False),
    Rerun("tests/kernel/test_iptables.py", ("legacy iptables",), False),
    Rerun("tests/test_bridge_traffic.py", ("legacy iptables",), False),
)


def features(nodeid: str) -> tuple[str, ...]:
    """What the test of an id wanted."""
    return next((test.features for test in TESTS if nodeid.startswith(test.path)), ())


if __name__ == "__main__":
    whole = os.environ.get("NETDRIVERS_VM_WHOLE") == "yes"
    print(*(test.path for test in TESTS if whole or test.ci))
    with Path(sys.argv[1]).open("a") as file:
        file.writelines(f"{test.path}: whole set\n" for test in TESTS if not whole and not test.ci)
