"""Run the tests of tests/vm in virtual machines: called by scripts/vm-test, in namespaces made for it."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from vm import job, qemu, report
from vm.errors import NodeFailed


def main() -> int:
    """Exit status 0 when every test passed, 1 when one failed or was skipped, 2 when a node failed."""
    parser = argparse.ArgumentParser(prog="scripts/vm-test")
    parser.add_argument("--provider", required=True, choices=("qemu", "vagrant"))
    parser.add_argument("--box", type=Path, required=True)
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--nodes", type=int, choices=(1, 2, 3), required=True)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--limit", type=float, required=True, help="seconds")
    parser.add_argument("arguments", nargs="*")
    asked = parser.parse_args()

    began = time.monotonic()
    has = report.host_has()
    shutil.rmtree(asked.results, ignore_errors=True)
    asked.results.mkdir(parents=True)
    directory = asked.work / "job"
    job.write(directory, asked.wheel, asked.nodes, asked.whole, asked.arguments)
    try:
        if asked.provider == "vagrant":
            from vm import vagrant

            vagrant.run(asked.box, directory, asked.nodes, asked.work, asked.results, asked.limit)
        else:
            qemu.run(asked.box, directory, asked.nodes, asked.work, asked.results, asked.limit)
    except NodeFailed as failed:
        print(failed.report(), file=sys.stderr)
        return 2
    cases = report.merge(asked.results)
    lines = [*report.summary(cases, has), *report.left_out(asked.results)]
    (asked.results / "summary.txt").write_text("\n".join([*lines, ""]))
    count = {word: sum(1 for case in cases if report.state(case) == word) for word in ("passed", "failed", "skipped")}
    print("\n".join(["", *lines, ""]))
    print(f"{', '.join(f'{number} {word}' for word, number in count.items())}; {time.monotonic() - began:.0f} s")
    return 0 if cases and not count["failed"] and not count["skipped"] else 1


if __name__ == "__main__":
    sys.exit(main())
