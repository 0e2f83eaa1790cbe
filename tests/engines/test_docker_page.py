"""The page docs/engines/docker.md, followed with each release of Docker."""

from __future__ import annotations

import pytest

from . import docker
from .conftest import MakeHost
from .image import WEB
from .test_docker import VERSIONS
from .test_engine_pages import follow, nothing_left


@pytest.mark.parametrize("version", VERSIONS)
def test_docker_page(engine_host: MakeHost, version: tuple[str, str]) -> None:
    host = engine_host("dockerd", *version)
    docker.start(host)
    docker.load(host)
    host.engine("docker", "tag", WEB, "busybox")
    with nothing_left(host):
        follow(host, "docker.md")
    assert host.engine("docker", "ps", "--all", "--quiet") == ""
