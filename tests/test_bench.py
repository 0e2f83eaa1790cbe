"""The benchmark's arithmetic, tables and requests; its worlds and peers are run by scripts/bench itself."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # bench is not part of the wheel

from bench.measures.common import NAT, alternate, put
from bench.peers.base import Attachment, Tools
from bench.peers.cni import Ours, Reference
from bench.peers.cnitool import conflist
from bench.peers.netavark import request
from bench.process import PeerError, check, run
from bench.report import as_json, markdown
from bench.stats import Cell, Table, percentile, ratio, shown
from bench.together import together

TOOLS = Tools("floor", "traffic", "peak", "cache")
FACTS = {"date": "2026-01-02", "cpus": 2, "cpu": "x", "kernel": "6.1", "system": "Debian"}


def latency() -> Table:
    table = Table("t", "ADD", "ms", ["bare", "NAT"], base="ours", labels={"ours": "netdrivers"})
    table.put("ours", "bare", Cell((4.0, 2.0, 9.0)))
    table.put("peer", "bare", Cell((48.0,)))
    table.put("peer", "NAT", Cell(note="failed: no | iptables"))
    return table


def test_median_ignores_the_outlier() -> None:
    assert Cell((1.0, 1.2, 900.0)).value == 1.2
    assert Cell((1.0, 2.0)).value == 1.5
    assert Cell().value is None


def test_percentiles_are_nearest_rank() -> None:
    samples = list(range(10, 0, -1))
    assert [percentile(samples, p) for p in (0, 10, 11, 50, 90, 100)] == [1, 1, 2, 5, 9, 10]
    assert percentile([7.0], 90) == 7.0


def test_ratio_without_a_base_is_none() -> None:
    assert ratio(6.0, 4.0) == 1.5
    assert ratio(6.0, 0.0) is None
    assert ratio(None, 4.0) is None


def test_table_ratios_to_row_and_to_column() -> None:
    table = latency()
    assert table.ratio("peer", "bare") == 12.0
    assert table.text("peer", "bare") == "48 (12x)"
    assert table.text("peer", "NAT") == "failed: no | iptables"
    assert table.text("ours", "NAT") == "-"
    table.base_column = "bare"
    table.put("ours", "NAT", Cell((6.0,), "only 3"))
    assert table.text("ours", "NAT") == "6 (1.50x) only 3"


def test_a_cell_in_an_unknown_column_is_refused() -> None:
    with pytest.raises(ValueError, match="no column 'dual'"):
        latency().put("ours", "dual", Cell((1.0,)))


def test_json_keeps_samples_and_markdown_escapes_nothing_it_must_not() -> None:
    table = latency()
    cells = json.loads(as_json([table], FACTS, {"dockerd": "no dockerd"}))["tables"][0]["cells"]
    assert cells[0] == {
        "row": "ours", "column": "bare", "median": 4.0, "p10": 2.0, "p90": 9.0, "ratio": 1.0, "note": "",
        "samples": [4.0, 2.0, 9.0],
    }  # fmt: skip
    text = markdown([table], FACTS, {"dockerd": "no dockerd"})
    assert "| netdrivers | 4 (1x) | - |" in text
    assert "| peer | 48 (12x) | failed: no / iptables |" in text
    assert "Absent: dockerd: no dockerd." in text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0314, "0.031"), (1.006, "1.01"), (45.67, "45.7"), (12345.6, "12,346"), (64.0, "64")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert shown(value) == text


def test_rounds_alternate_and_a_failing_peer_drops_out() -> None:
    calls = []

    def action(key: tuple[str, str], _: object) -> int:
        calls.append(key[0])
        if key[0] == "b" and len(calls) > 4:
            raise PeerError("broke")
        return len(calls)

    failed: dict[tuple[str, str], str] = {}
    found = alternate({("a", ""): None, ("b", ""): None}, 3, action, failed)  # type: ignore[dict-item]
    assert calls == ["a", "b", "a", "b", "a", "b", "a"]
    assert found == {("a", ""): [3, 5, 7], ("b", ""): [4]}


def test_a_failure_is_said_in_the_cell_and_explained_below() -> None:
    table = latency()
    put(table, "ours", "bare", [4.0], "broke", "[3 of 5]")
    put(table, "ours", "NAT", [], "broke")
    assert table.text("ours", "bare") == "4 (1x) [3 of 5] then failed"
    assert table.text("ours", "NAT") == "failed"
    assert table.notes == ["netdrivers, bare: broke", "netdrivers, NAT: broke"]


def test_jobs_run_together_and_failures_are_text() -> None:
    def slow() -> dict[str, float]:
        start = time.perf_counter()
        time.sleep(0.3)
        return {"start": start, "end": time.perf_counter()}

    def broken() -> dict[str, float]:
        raise PeerError("no")

    _, (first, failure, last) = together([slow, broken, slow], 20.0)
    assert failure == "no"
    assert isinstance(first, dict)
    assert isinstance(last, dict)
    assert max(first["start"], last["start"]) < min(first["end"], last["end"])

    def endless() -> dict[str, float]:
        time.sleep(60)
        return {}

    assert together([endless], 0.1) == (0.1, ["killed: too slow"])


def test_a_process_failure_carries_its_words_and_a_slow_one_is_killed() -> None:
    finished = run(["/bin/sh", "-c", "cat; echo bad >&2; exit 3"], b"in " * 50_000)
    assert len(finished.stdout) == 150_000
    with pytest.raises(PeerError, match=r"exit 4: bad luck"):
        check(run(["/bin/sh", "-c", "echo bad luck >&2; exit 4"]), "sh")
    with pytest.raises(PeerError, match="killed after"):
        run(["/bin/sleep", "60"], timeout=0.1)


def test_addresses_and_macs_stay_distinct_over_a_byte() -> None:
    many = [Attachment(NAT, number) for number in range(1200)]
    assert len({one.address for one in many}) == len({one.mac for one in many}) == 1200
    assert many[0].address == "10.101.0.2"
    assert many[254].address == "10.101.1.0"


def test_every_peer_gets_the_same_network() -> None:
    attachment = Attachment(NAT, 7, ((8080, 80),))
    mapping = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
    bridge, portmap = Reference(TOOLS, backend="nftables").plugins(attachment)
    assert (bridge["ipMasqBackend"], portmap["backend"]) == ("nftables", "nftables")
    assert portmap["runtimeConfig"] == {"portMappings": mapping}
    (ours,) = Ours(TOOLS).plugins(attachment)
    assert ours["runtimeConfig"] == {"portMappings": mapping}
    assert ours["ipam"] == bridge["ipam"]
    podman = request(attachment)
    assert podman["network_info"]["nat"]["subnets"] == [{"subnet": "10.101.0.0/16", "gateway": "10.101.0.1"}]
    assert podman["port_mappings"][0]["host_port"] == 8080


def test_a_conflist_has_capabilities_and_no_runtime_configuration() -> None:
    plugins = conflist(Reference(TOOLS), Attachment(NAT, 7, ((8080, 80),)))["plugins"]
    assert [plugin["type"] for plugin in plugins] == ["bridge", "portmap"]
    assert "capabilities" not in plugins[0]
    assert plugins[1]["capabilities"] == {"portMappings": True}
    assert "runtimeConfig" not in plugins[1]
