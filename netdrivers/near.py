"""The name that was probably meant: one place for every "did you mean"."""

from __future__ import annotations

from collections.abc import Iterable

_SHOWN = 8


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word most like a wrong one, whatever its case; None when none is near."""
    from difflib import get_close_matches

    folded: dict[str, str] = {}
    for name in known:
        folded.setdefault(name.lower(), name)
    found = get_close_matches(word.lower(), list(folded), n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def near(word: str, known: Iterable[str]) -> str:
    """A hint: the near name, else the names that there are, else nothing."""
    names = sorted(set(known))
    found = nearest(word, names)
    if found:
        return f"did you mean {found}?"
    more = ", ..." if len(names) > _SHOWN else ""
    return f"there are: {', '.join(names[:_SHOWN])}{more}" if names else ""
