"""Reads the columns of a row: also by paths into nested values, such as ``properties.email``.

It also recognises what programs write in place of a value: ``NULL``, error values of spreadsheets, formulas with text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from crm_provider.load.sources.options import HeaderLine


def has_column(columns: Collection[str], name: str | None) -> bool:
    """Whether rows with these columns may have a value for a name, which may be a path into a nested value."""
    if name is None or name in columns:
        return name is not None
    parts = name.split(".")
    return any(".".join(parts[:n]) in columns for n in range(1, len(parts))) and not isinstance(columns, HeaderLine)


def value_at(row: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """The value of a column, or else at a path into nested values, such as ``properties.email``."""
    if name in row:
        return row[name]
    parts = name.split(".")
    for n in range(len(parts) - 1, 0, -1):
        inner = row.get(".".join(parts[:n]))
        if isinstance(inner, Mapping):
            found = value_at(inner, ".".join(parts[n:]), default)
            if found is not default:
                return found
    return default


_MISSING: Any = object()


def key_value(row: Mapping[str, Any], name: str, fields: Mapping[str, str]) -> Any:
    """The value of a column, or else of the column that a field of the mapping reads; None if there is neither.

    :param fields: field -> column
    """
    found = value_at(row, name, _MISSING)
    return value_at(row, fields.get(name, name)) if found is _MISSING else found


WORDS = frozenset({
    "null", "(null)", "<null>", "[null]", "\\n", "none", "nil", "nan", "-nan", "nat", "<na>", "na", "n/a", "n.a.",
    "n/d", "undefined", "not available", "not applicable",
})  # fmt: skip
"""In lower case. They stay text unless ``null_values`` lists them, because a surname can be Null."""

LONGEST = max(map(len, WORDS))

_FIRST = frozenset(letter for word in WORDS for letter in (word[0], word[0].upper())) | frozenset(
    letter for letter in map(chr, range(0x3001)) if letter.isspace()
)
"""First characters of :data:`WORDS`, and space: most cells begin with another one, and need no closer look."""

ERROR_FIX = (
    "correct it in the spreadsheet, or list it in source_options={'null_values': [...]} to take it for an empty cell"
)

_ERROR_WORDS = frozenset(
    f"#{word}"
    for words in {
        "English": "N/A REF! VALUE! NAME? DIV/0! NULL! NUM! SPILL! CALC! FIELD! BLOCKED! CONNECT! UNKNOWN! BUSY! "
        "PYTHON! EXTERNAL! GETTING_DATA ERROR!",
        "Portuguese": "N/D VALOR! NOME? NULO! NÚM!",
        "Spanish": "¡REF! ¡VALOR! ¿NOMBRE? ¡DIV/0! ¡NULO! ¡NUM!",
        "German": "NV BEZUG! WERT! ZAHL!",
        "French": "VALEUR! NOM? NUL! NOMBRE!",
        "Italian": "RIF! VALORE! NULLO!",
        "Dutch": "N/B VERW! WAARDE! NAAM? DEEL/0! LEEG! GETAL!",
        "Danish, Norwegian": "I/T REFERENCE! VÆRDI! VERDI! NAVN?",
        "Swedish": "SAKNAS! REFERENS! VÄRDEFEL! NAMN? DIVISION/0! SKÄRNING! OGILTIGT!",
        "Finnish": "PUUTTUU! VIITTAUS! ARVO! NIMI? JAKO/0! TYHJÄ! LUKU!",
        "Polish": "N/D! ADR! ARG! NAZWA? DZIEL/0! ZERO! LICZBA!",
        "Czech": "NENÍ_K_DISPOZICI ODKAZ! HODNOTA! NÁZEV? DĚLENÍ_NULOU! ČÍSLO!",
        "Hungarian": "HIÁNYZIK HIV! ÉRTÉK! NÉV? ZÉRÓOSZTÓ! NULLA! SZÁM!",
        "Turkish": "YOK BAŞV! DEĞER! AD? SAYI/0! BOŞ! SAYI!",
        "Russian": "Н/Д ССЫЛКА! ЗНАЧ! ИМЯ? ДЕЛ/0! ПУСТО! ЧИСЛО!",  # noqa: RUF001
    }.values()
    for word in words.split()
)
"""As Excel, LibreOffice and Google Sheets write them."""

_ERROR_VALUE = re.compile(r"#{3,}|(?i:#N/A #?N/A)|Erro? ?:5\d\d", re.ASCII)
"""``####`` is a column that was too narrow; ``#N/A N/A`` is Bloomberg's, ``Err:502`` LibreOffice's."""


_TEXT_FORMULA = re.compile(r'="([^"]*)"')


def is_error_value(text: str) -> bool:
    """Whether a text is a spreadsheet's value for a failed formula; such a text is never sent."""
    return text.upper() in _ERROR_WORDS or _ERROR_VALUE.fullmatch(text) is not None


def without_formula(text: str) -> str:
    """The text in ``="0042"``, which is how programs keep Excel from taking a text for a number."""
    found = _TEXT_FORMULA.fullmatch(text)
    return found[1].strip() if found else text


class NullWords:
    """Counts, by column, words that may mean "no value" and are sent as text."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._words: Counter[str] = Counter()

    def note(self, values: Mapping[str, Any], columns: Collection[str]) -> None:
        """Count the words of a row.

        :param columns: the columns that are sent
        """
        get, first = values.get, _FIRST
        for column in columns:
            value = get(column)
            if type(value) is str and (not value or value[0] not in first):  # most values, at half of the time
                continue
            if value is None and "." in column:
                value = value_at(values, column)
            if isinstance(value, str) and len(value) <= LONGEST and value.strip().lower() in WORDS:
                self._counts[column] += 1
                self._words[value.strip()] += 1

    def warning(self) -> str | None:
        """A warning with the counts and the fix, without personal values; None if there were none."""
        if not self._counts:
            return None
        counts = ", ".join(f"{column!r} {count:,}" for column, count in self._counts.most_common())
        words = ", ".join(repr(word) for word in sorted(self._words))
        return (
            f"Words that often mean 'no value' are sent as text ({words}); cells by column: {counts}. "
            f"If they are to be empty, give source_options={{'null_values': [{words}]}} (in a query: NULLIF)"
        )
