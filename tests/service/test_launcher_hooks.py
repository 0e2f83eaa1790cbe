"""The launchers as OCI and LXC hooks: whose namespace goes along, and what is read."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from service_harness import ServiceProcess, call, facts

NAME = "netdrivers-oci-hook"


def of(namespace: Path) -> str:
    """The process that a namespace's path names."""
    return namespace.parts[2]


@pytest.mark.parametrize(
    "form", ['{"pid":PID,"id":"x"}', '{"annotations":{"pid":"7","x":"\\"pid\\":7"},\n "pid" : PID}', '{"pid": PID']
)
def test_the_states_process_is_in_the_namespace(
    hook: Path, service: ServiceProcess, state_dir: Path, namespace: Path, form: str
) -> None:
    state = form.replace("PID", of(namespace)).encode()
    got = facts(call(hook, "createRuntime", state_dir=state_dir, stdin=state, CNI_NETNS="/nonexistent"))
    assert got["netns"] == os.stat(namespace).st_ino
    assert (got["program"], got["size"]) == (NAME, len(state))


@pytest.mark.parametrize(
    "state", ["", '{"pid":0}', '{"pid":"1"}', '{"id":"pid"}', '{"pid"', '{"pid":', f'{{"pid":{"9" * 40}}}']
)
def test_no_process_no_namespace(hook: Path, service: ServiceProcess, state_dir: Path, state: str) -> None:
    assert facts(call(hook, state_dir=state_dir, stdin=state.encode()))["netns"] == 0


def test_lxc_says_it_by_variables_and_has_no_input(
    hook: Path, service: ServiceProcess, state_dir: Path, namespace: Path
) -> None:
    reader, writer = os.pipe()  # nobody ever writes
    env = {"NETDRIVERS_STATE_DIR": str(state_dir), "LXC_HOOK_TYPE": "start-host", "LXC_PID": of(namespace)}
    done = subprocess.run([hook, "--network=x"], stdin=reader, env=env, capture_output=True, timeout=30, check=False)
    os.close(writer)
    os.close(reader)
    got = facts(done)
    assert (got["via"], got["args"], got["netns"]) == ("service", ["--network=x"], os.stat(namespace).st_ino)
