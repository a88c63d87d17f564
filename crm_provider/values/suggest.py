"""Which valid word a user probably meant: the one implementation of "did you mean"."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from typing import Any

CUTOFF = 0.5
"""Minimum similarity of a suggestion, 0 to 1."""


def nearest(word: Any, choices: Iterable[str], *, cutoff: float = CUTOFF) -> str | None:
    """The choice that is most similar to a word, ignoring case. None if none is similar, or the word is not text.

    >>> nearest("deal_not_fount", ["DEAL_NOT_FOUND", "CONTACT_NOT_FOUND"])
    'DEAL_NOT_FOUND'

    :param cutoff: minimum similarity, 0 to 1
    """
    if not isinstance(word, str):
        return None
    by_lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[close[0]] if close else None


def did_you_mean(word: Any, choices: Iterable[str], *, otherwise: str = "") -> str:
    """A question that names the nearest choice, or ``otherwise`` if none is near.

    >>> did_you_mean("skp", ["skip", "fail"])
    "Did you mean 'skip'?"
    """
    close = nearest(word, choices)
    return f"Did you mean {close!r}?" if close is not None else otherwise


def hint(word: Any, choices: Iterable[str], before: str) -> str:
    """The middle of a message that ends with the valid choices: ``before``, after the question if a choice is near.

    >>> hint("cvs", ["csv", "jsonl"], "known")
    "did you mean 'csv'? Known"
    """
    question = did_you_mean(word, choices)
    return f"{question[0].lower()}{question[1:]} {before[0].upper()}{before[1:]}" if question else before


def unknown(what: str, word: Any, choices: Iterable[str]) -> str:
    """A message about a word that is not one of the choices; it names the nearest and all of them.

    >>> unknown("source_format", "cvs", ["csv", "jsonl"])
    "source_format 'cvs' is unknown; did you mean 'csv'? Known: csv, jsonl"
    """
    known = list(choices)
    return f"{what} {word!r} is unknown; {hint(word, known, 'known')}: {', '.join(known)}"


def unknown_value(argument: str, value: Any, choices: Iterable[str]) -> str:
    """A message about the value of an argument that is not one of the choices; it names the nearest and all of them.

    >>> unknown_value("mode", "upsrt", ["upsert", "create"])
    "mode='upsrt' is unknown; did you mean 'upsert'? Known: upsert, create"
    """
    known = list(choices)
    return f"{argument}={value!r} is unknown; {hint(value, known, 'known')}: {', '.join(known)}"


def check_choice(argument: str, value: Any, choices: Collection[str]) -> None:
    """Refuse a value that is not one of the choices.

    :raises ValueError: naming the argument, the nearest choice and all of them
    """
    if value not in choices:
        raise ValueError(unknown_value(argument, value, choices))
