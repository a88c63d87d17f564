"""JSON lines: one object per line. A line that is not an object is a bad row with the problem."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, NoReturn

from crm_provider.files.paths import AnyPath
from crm_provider.load.rows import SourceError
from crm_provider.load.sources.files import LINE, Record, SourceTable, place, rejects_refused
from crm_provider.load.sources.text_files import ORDER_MARK, TextLines, open_lines

LARGEST_EXPONENT = 400
"""Power of ten; floats end at 308. A larger one, ten characters long, may take gigabytes when it is written out."""


@contextmanager
def open_jsonl(path: AnyPath, *, encoding: str = "utf-8") -> Iterator[SourceTable]:
    """Open a file of JSON lines.

    :raises SourceError: while reading, if it is one JSON text over many lines, a rejects file, or not text
    """
    with open_lines(path, encoding=encoding, newline="\n") as lines:
        yield SourceTable(None, _records(lines))


def _records(lines: TextLines) -> Iterator[Record]:
    is_first = True
    for line in lines:
        text = line.lstrip(ORDER_MARK).strip("\r\n")
        if not text.strip():
            continue
        if is_first:
            _refuse_other_files(lines, text)
        try:
            yield _object(text), None, lines.number
        except _Unusable as why:
            if is_first and isinstance(why, _Unfinished) and line.endswith("\n"):
                raise _not_lines(lines) from None
            yield {LINE: text}, f"{place(lines.path, lines.number)} {why}", lines.number
        is_first = False


# -- helpers ------------------------------------------------------------------------------------------------


class _Unusable(Exception):
    """The problem of a line, worded to follow its place."""


class _Unfinished(_Unusable):
    """The line ends before its value does."""


def _object(text: str) -> dict[str, Any]:
    try:
        found = _DECODER.decode(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(found, ensure_ascii=False, default=str).encode()
    except json.JSONDecodeError as error:
        kind = _Unfinished if error.pos >= len(text.rstrip()) else _Unusable
        raise kind(f"is not JSON from character {error.pos + 1} on") from None
    except UnicodeEncodeError:
        raise _Unusable("holds half a character (a lone surrogate)") from None
    except RecursionError:
        raise _Unusable("is nested too deeply") from None
    except (ValueError, ArithmeticError):
        raise _Unusable("holds a number that is too large") from None
    if not isinstance(found, dict):
        raise _Unusable("is JSON but not an object")
    return found


def _refuse_other_files(lines: TextLines, text: str) -> None:
    if text.lstrip().startswith("["):
        raise _not_lines(lines)
    if text.startswith('{"row":') and '"suggested_action":' in text and '"retryable":' in text:
        raise rejects_refused(lines.path)


def _not_lines(lines: TextLines) -> SourceError:
    return SourceError(
        f"{place(lines.path, lines.number)} begins a JSON text of many lines, which would have to be read "
        "whole; write JSON lines instead, one object a line (jq -c '.[]')"
    )


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Unusable("has the same key twice in an object")
    return found


def _number(text: str) -> Decimal:
    number = Decimal(text)
    if not -LARGEST_EXPONENT <= number.adjusted() <= LARGEST_EXPONENT:
        raise _Unusable("holds a number that is too large or too small")
    return number


def _no_number(name: str) -> NoReturn:
    raise _Unusable(f"holds {name}, which is not valid JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_without_repetition, parse_float=_number, parse_constant=_no_number)
