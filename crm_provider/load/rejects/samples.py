"""Samples of rejected rows for people: which row, where it is, and what is wrong with it, without values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from crm_provider.load.rejects.formats import Reject
from crm_provider.load.rows import UNREADABLE
from crm_provider.values.redaction import without_values

MOST_SAMPLES = 20
"""Samples of one load."""

LONGEST = 300
"""Characters of a message, and of a place."""

LONGEST_VALUE = 1000
"""Characters of a value of the row that are looked for in its message, which is shorter."""


def samples_of(rejects: Iterable[Reject], place: Callable[[int], str]) -> list[dict[str, Any]]:
    """The samples as JSON-able data, in the order of the rows: they are rejected in another one.

    :param place: number of a row -> file, line and row; empty if the source knows none
    """
    return [_sample(reject, place(reject.number)) for reject in sorted(rejects, key=lambda reject: reject.number)]


def _sample(reject: Reject, place: str) -> dict[str, Any]:
    message = reject.message.removeprefix(f"{place}: ") if place else reject.message
    return {
        "row": reject.number if reject.original is None else reject.original,
        "place": _cut(place),
        "type": reject.type,
        "message": _cut(without_row(message, reject.values, type_=reject.type)),
    }


OWN_TYPES = frozenset({None, "INVALID_VALUE", "DUPLICATE_ROW"})
"""Types of problems that a load finds itself."""


def without_row(message: str, values: Mapping[str, Any], *, type_: str | None) -> str:
    """A message without the values of its row.

    The load's own messages have none. Their words may be values of the row all the same, such as ``email``: they stay,
    except in the message of a source about a row that it could not read.

    :param type_: of the problem; None if there is none
    """
    if type_ in OWN_TYPES and UNREADABLE not in message:
        return message
    return without_values(message, _texts(values), in_parts=False)


def _texts(value: Any) -> Iterator[str]:
    """All values of a row as texts, including those in lists and objects."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)
    elif value is not None and not isinstance(value, bool):
        yield str(value)[:LONGEST_VALUE]


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
