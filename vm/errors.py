"""What can go wrong with a node, as a person wants to read it."""

from __future__ import annotations


class NodeFailed(Exception):
    """A node, or the host, could not do its part. tail: the console's last lines; said: the emulator's own words."""

    def __init__(self, name: str, what: str, tail: str = "", said: str = "") -> None:
        super().__init__(f"{name} {what}" if name != "host" else what)
        self.tail = tail
        self.said = said

    def report(self) -> str:
        """All of it in a few paragraphs."""
        parts = [f"FAILED: {self}"]
        if self.said:
            parts.append(f"the emulator said:\n    {self.said}")
        if self.tail:
            parts.append(f"the console's last lines:\n{self.tail}")
        return "\n".join(parts)
