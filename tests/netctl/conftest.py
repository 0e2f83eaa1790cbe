"""Fixtures of the netctl tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import Host
from tests.netctl.runner import Netctl


@pytest.fixture
def netctl(host: Host, tmp_path: Path) -> Netctl:
    """netctl on the test host."""
    return Netctl(host, tmp_path)
