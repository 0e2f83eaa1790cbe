"""Results of all phases as one JUnit file and as a summary, with what ran here that the host cannot run."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree as Xml

FEATURES: dict[str, str] = {
    "vlan filtering": "ip link add t0 type bridge vlan_filtering 1",
    "ipvlan": "ip link add t0 type veth peer t1 && ip link add link t0 t2 type ipvlan",
    "dummy": "ip link add t0 type dummy",
    "802.1q": "ip link add t0 type veth peer t1 && ip link add link t0 t2 type vlan id 5",
    "netem": "ip link add t0 type veth peer t1 && tc qdisc add dev t0 root netem delay 1ms",
    "vrf": "ip link add t0 type vrf table 10",
    "wireguard": "ip link add t0 type wireguard",
    "esp": "ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 1 mode transport"
    " aead 'rfc4106(gcm(aes))' 0x0102030405060708090a0b0c0d0e0f1011121314 128",
    "legacy iptables": "iptables-legacy -t nat -L -n && ip6tables-legacy -t nat -L -n",
    "systemd": "[ -d /run/systemd/system ]",
    "a reboot": "false",
    "several machines": "false",
}
"""Feature to a command that shows, in a namespace of its own, whether a kernel has it."""


def host_has() -> dict[str, bool]:
    """Which features the machine has; each is tried in a namespace that goes with the trial."""
    return {name: _works(command) for name, command in FEATURES.items()}


def _works(command: str) -> bool:
    return subprocess.run(["unshare", "--net", "sh", "-c", command], capture_output=True).returncode == 0


def merge(results: Path) -> list[Xml.Element]:
    """The test cases of every junit-*.xml, written together to junit.xml."""
    suites = Xml.Element("testsuites")
    for path in sorted(results.glob("junit-*.xml")):
        for suite in Xml.parse(path).getroot().iter("testsuite"):
            suite.set("name", path.stem)
            suites.append(suite)
        path.unlink()
    Xml.ElementTree(suites).write(results / "junit.xml", encoding="utf-8", xml_declaration=True)
    return list(suites.iter("testcase"))


def state(case: Xml.Element) -> str:
    """passed, failed or skipped."""
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "skipped" if case.find("skipped") is not None else "passed"


def features(case: Xml.Element) -> list[str]:
    """The features that a test says it needs (the marker of tests/vm)."""
    found = (item for item in case.iter("property") if item.get("name") == "feature")
    return [item.get("value", "") for item in found]


def left_out(results: Path) -> list[str]:
    """What is not in this set, by name and why."""
    path = results / "left-out"
    names = sorted(set(path.read_text().split("\n")) - {""}) if path.exists() else []
    return ["", "left out:", *(f"  {name}" for name in names)] if names else []


def summary(cases: Iterable[Xml.Element], has: dict[str, bool]) -> list[str]:
    """Lines for people."""
    cases = list(cases)
    lines = []
    files = sorted({case.get("classname", "") for case in cases})
    for file in files:
        count = dict.fromkeys(("passed", "failed", "skipped"), 0)
        seconds = 0.0
        for case in cases:
            if case.get("classname") == file:
                count[state(case)] += 1
                seconds += float(case.get("time", "0"))
        words = ", ".join(f"{number} {word}" for word, number in count.items() if number)
        lines.append(f"{file:<44} {words} in {seconds:.0f} s")
    for case in cases:
        if state(case) != "passed":
            lines.append(f"{state(case)}: {case.get('classname')}::{case.get('name')}")
    lines.append("")
    for feature, here in has.items():
        passed = sum(1 for case in cases if feature in features(case) and state(case) == "passed")
        ran = f"{passed} tests passed in the node" if passed else "NOT RUN in this set"
        lines.append(f"{feature:<16} {'the host has it' if here else 'the host lacks it'}; {ran}")
    return lines
