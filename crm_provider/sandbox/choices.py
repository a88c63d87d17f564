"""Messages for a word that is not one of the known ones: they name the nearest valid word."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def not_one_of(what: str, value: object, valid: Iterable[str]) -> str:
    """Why ``value`` is refused, and what was probably meant; all valid words if nothing is near.

    >>> not_one_of("envelope", "v3", ["v1", "gateway"])
    "envelope 'v3' is not known: did you mean 'v1'?"
    """
    known = {word.lower(): word for word in valid}
    near = get_close_matches(str(value).lower(), known, n=1, cutoff=0.5)
    if near:
        return f"{what} {value!r} is not known: did you mean {known[near[0]]!r}?"
    return f"{what} {value!r} is not known: it must be one of {', '.join(map(repr, known.values()))}"
