"""The command line of the benchmark: which peers, which measurements, and where the figures go."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from bench import report
from bench.measures import MEASURES
from bench.measures.common import Run
from bench.peers.base import Peer, Tools
from bench.peers.registry import all_peers
from bench.stats import Table

HERE = os.path.dirname(os.path.abspath(__file__))


def main() -> int:
    """Run what was asked for."""
    options = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that worlds and directories are removed
    os.environ.pop("PYTHONPATH", None)  # it is for finding this package, not for what is measured
    if os.geteuid() != 0:
        print("bench: must be run as root: it makes network namespaces", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="netdrivers-bench-") as directory, _mount_point("/var/lib/cni"):
        tools = _compile(directory)
        peers, absent = _present(all_peers(tools, options.latest), options.peers)
        for label, reason in absent.items():
            print(f"absent: {label}: {reason}", flush=True)
        run = Run(
            peers=peers,
            base=_base(peers),
            rounds=options.rounds or (4 if options.quick else 15),
            quick=options.quick,
            fill_seconds=options.fill_seconds or (10.0 if options.quick else 60.0),
            growth_pairs=options.growth,
            say=lambda line: print(line, flush=True),
        )
        tables: list[Table] = []
        for name in options.only or list(MEASURES):
            print(f"measuring {name}", flush=True)
            try:
                tables += MEASURES[name](run)
            except (KeyboardInterrupt, SystemExit):
                print(f"interrupted while measuring {name}; what was measured before follows", flush=True)
                break
    print()
    report.print_tables(tables)
    _write(options, tables, absent)
    return 0


def _parse() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return [name.strip() for name in text.split(",") if name.strip()]

    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--only", type=names, metavar="A,B", help=f"measurements: {', '.join(MEASURES)}")
    parser.add_argument("--peers", type=names, metavar="A,B", help="peers by key; all by default")
    parser.add_argument("--latest", action="store_true", help="with the newest releases that scripts/bench built")
    parser.add_argument("--quick", action="store_true", help="few rounds and small loads")
    parser.add_argument("--rounds", type=int, help="rounds of each measurement (default 15; 4 with --quick)")
    parser.add_argument("--fill-seconds", type=float, help="limit for loading one host (default 60; 10 with --quick)")
    parser.add_argument("--growth", type=int, default=1000, metavar="N", help="ADD/DEL pairs in growth (default 1000)")
    parser.add_argument("--json", metavar="FILE", help="write all samples as JSON")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables as Markdown")
    parser.add_argument("--plots", metavar="DIR", help="write pictures (needs matplotlib)")
    options = parser.parse_args()
    unknown = [name for name in options.only or [] if name not in MEASURES]
    if unknown:
        parser.error(f"no measurement {', '.join(unknown)}; there are {', '.join(MEASURES)}")
    return options


def _compile(directory: str) -> Tools:
    """Build the C programs, static where the C library allows."""
    paths = {}
    for name in ("floor", "traffic", "peak"):
        paths[name] = os.path.join(directory, name)
        words = ["cc", "-O2", "-Wall", "-o", paths[name], os.path.join(HERE, f"{name}.c")]
        if subprocess.run([*words, "-static"], capture_output=True, check=False).returncode:
            subprocess.run(words, check=True)
    cache = os.environ.get("BENCH_CACHE") or os.path.expanduser("~/.cache/netdrivers-bench")
    return Tools(cache=cache, **paths)


def _present(peers: list[Peer], wanted: list[str] | None) -> tuple[list[Peer], dict[str, str]]:
    """The peers that can run, and by label the reasons of the others."""
    known = [peer.key for peer in peers]
    unknown = [key for key in wanted or [] if key not in known]
    if unknown:
        sys.exit(f"bench: no peer {', '.join(unknown)}; there are {', '.join(known)}")
    chosen = [peer for peer in peers if not wanted or peer.key in wanted]
    reasons = {peer.label: peer.absent() for peer in chosen}
    absent = {label: reason for label, reason in reasons.items() if reason}
    return [peer for peer in chosen if not reasons[peer.label]], absent


def _base(peers: list[Peer]) -> str:
    """Ratios are to ours with the service, else in-process, else to the reference chain, else to the first."""
    keys = [peer.key for peer in peers]
    return next((key for key in ("service", "in-process", "reference") if key in keys), keys[0] if keys else "")


@contextlib.contextmanager
def _mount_point(path: str) -> Iterator[None]:
    """A directory for the worlds to mount over; removed again if it was not there."""
    made = not os.path.isdir(path)
    os.makedirs(path, exist_ok=True)
    try:
        yield
    finally:
        if made:
            with contextlib.suppress(OSError):
                os.rmdir(path)


def _write(options: argparse.Namespace, tables: list[Table], absent: dict[str, str]) -> None:
    facts = report.machine()
    for path, text in (
        (options.json, report.as_json(tables, facts, absent)),
        (options.markdown, report.markdown(tables, facts, absent)),
    ):
        if path:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            print(f"wrote {path}")
    if options.plots:
        from bench.plots import write_plots

        for path in write_plots(tables, options.plots):
            print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
