"""A number of things in words."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun, for people.

    >>> counted(1, "row"), counted(1200, "row"), counted(0, "address", "addresses")
    ('1 row', '1,200 rows', '0 addresses')

    :param noun: in the singular
    :param plural: if it is not the noun with an *s*
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
