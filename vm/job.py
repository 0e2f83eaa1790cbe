"""What a node is given: the wheel, the tests, a key for ssh between nodes, what to run; as a directory or a tar."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
TAKEN = ("tests", "cni-configs", "docs", "pyproject.toml")
"""Of the tree only what tests read: the product comes from the wheel."""


def write(target: Path, wheel: Path, nodes: int, whole: bool, arguments: Sequence[str]) -> None:
    """Fill a new directory; see vm/job/start for what the node does with it.

    nodes: how many are started; whole: every test and not the CI's set; arguments: for pytest, () for all of
    tests/vm and the host's tests that run in a node again.
    """
    target.mkdir(parents=True)
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z", "--", *TAKEN],
        cwd=TOP, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (TOP / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(TOP / name, target / name)
    for path in (TOP / "vm" / "job").iterdir():
        shutil.copy(path, target / path.name)
    shutil.copy(wheel, target)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(target / "key")], check=True)
    paths = () if any(word.startswith("tests/") for word in arguments) else ("tests/vm",)
    settings = {
        "NODES": str(nodes),
        "WHOLE": "yes" if whole else "",
        "HOST": "" if arguments else "yes",
        "ARGUMENTS": shlex.join((*paths, *arguments)),
    }
    (target / "settings").write_text("".join(f"{key}={shlex.quote(text)}\n" for key, text in settings.items()))


def pack(directory: Path, target: Path) -> None:
    """The directory as a tar that a virtio disk can be made of (whole 512-byte blocks)."""
    with tarfile.open(target, "w") as tar:
        tar.add(directory, arcname=".")
