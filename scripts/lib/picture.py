"""Turns a terminal session on standard input (with ANSI colours) into an SVG picture: picture.py OUT.svg TITLE."""

import os
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

with open(os.devnull, "w", encoding="utf-8") as nowhere:
    console = Console(record=True, width=112, file=nowhere)
    for line in sys.stdin.read().splitlines():
        console.print(Text.from_ansi(line), soft_wrap=False, overflow="crop", no_wrap=True)
picture = console.export_svg(title=sys.argv[2])
# The picture shall not fetch a font from anywhere.
Path(sys.argv[1]).write_text(re.sub(r"@font-face \{[^}]*\}", "", picture), encoding="utf-8")
