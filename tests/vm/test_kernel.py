"""What the node itself is: Debian's kernel with the features that the other tests count on, the wheel installed."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sysconfig
from pathlib import Path

import pytest

import netdrivers
from netdrivers.kernel.probe import probe


def test_every_feature_that_doctor_knows_is_here() -> None:
    assert {feature: why for feature, why in probe().items() if why} == {}


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(module, marks=pytest.mark.feature(feature))
        for module, feature in {
            "vrf": "vrf",
            "wireguard": "wireguard",
            "esp4": "esp",
            "esp6": "esp",
            "dummy": "dummy",
            "8021q": "802.1q",
            "sch_netem": "netem",
        }.items()
    ],
)
def test_module_loads(module: str) -> None:
    subprocess.run(["modprobe", module], check=True)


def test_product_is_the_wheel() -> None:
    """Not a source tree, and not an editable install of one."""
    where = Path(netdrivers.__file__).resolve()
    assert where.is_relative_to(sysconfig.get_paths()["purelib"])
    distribution = importlib.metadata.distribution("netdrivers")
    assert "editable" not in (distribution.read_text("direct_url.json") or "")
    assert not Path("/srv/job/netdrivers").exists()
