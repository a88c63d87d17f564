"""Options for reading the files of a source: delimiter, encoding, header and null values, each checked."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from encodings.aliases import aliases
from pathlib import PurePath
from typing import Any

from crm_provider.load.rows import SourceError
from crm_provider.values.suggest import hint, unknown

FORMATS: Mapping[str, str] = {
    "csv": "csv",
    "tsv": "tsv",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "json": "jsonl",
    "parquet": "parquet",
}
"""Names of the formats, as suffixes and as values of ``format``."""

ROWS = "rows"
"""Format of a source that is not a file: a list of rows."""

_OPTIONS = {
    "csv": ("delimiter", "encoding", "quotechar", "header", "skip_lines", "null_values"),
    "jsonl": ("encoding", "null_values"),
    "parquet": ("null_values",),
    ROWS: ("null_values",),
}
_OPTIONS["tsv"] = _OPTIONS["csv"]


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """How to read the rows of a source.

    :param delimiter: between two fields; by default the one that the first line names (``sep=;``), else the one of
        comma, semicolon, tab and bar that gives most lines as many fields as the header line has
    :param encoding: any that Python knows; a byte order mark in the file takes precedence
    :param quotechar: around fields that hold a delimiter, quote or line end; ``""`` if quotes have no meaning
    :param header: names of the columns, for files without a header line
    :param skip_lines: lines of the file before the header line (notes, comments), as an editor counts them
    :param null_values: words that stand for "no value", such as ``["NULL", "N/A"]``: cells that hold nothing else are
        read as empty; case matters
    :raises SourceError: naming the option, the problem and the fix
    """

    delimiter: str | None = None
    encoding: str = "utf-8"
    quotechar: str = '"'
    header: tuple[str, ...] | None = None
    skip_lines: int = 0
    null_values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.delimiter is not None:
            _check_character("delimiter", self.delimiter)
        if self.quotechar != "":
            _check_character("quotechar", self.quotechar)
        if self.delimiter == self.quotechar:
            raise SourceError("source_options: delimiter and quotechar are the same character; they must differ")
        _check_encoding(self.encoding)
        if self.header is not None:
            object.__setattr__(self, "header", _checked_header(self.header))
        _check_count("skip_lines", self.skip_lines)
        object.__setattr__(self, "null_values", _checked_words(self.null_values))

    @classmethod
    def of(cls, options: Mapping[str, Any] | None, *, format: str) -> FileOptions:  # noqa: A002
        """Options as a user gives them.

        :param format: options that do not apply to it are refused
        :raises SourceError: naming the option, the problem and the fix
        """
        if options is not None and not isinstance(options, Mapping):
            raise SourceError(
                f"source_options must be a mapping of name to value but is of type {type(options).__name__}"
            )
        known, allowed = [field.name for field in fields(cls)], _OPTIONS[format]
        for name in options or {}:
            if name not in known:
                raise SourceError(unknown("source_options:", name, known))
            if name not in allowed:
                files = "a list of rows" if format == ROWS else f"{format} files"
                raise SourceError(f"source_options: {name!r} has no meaning for {files}; leave it out")
        given = {name: value for name, value in (options or {}).items() if value is not None}
        return cls(**({"delimiter": "\t"} if format == "tsv" else {}) | given)


def checked_format(name: str | None) -> str | None:
    """The format with a name.

    :raises SourceError: if there is none; the message names the nearest one
    """
    if name is None:
        return None
    suffix = str(name).lower().lstrip(".").removesuffix(".gz")
    if suffix not in FORMATS:
        raise SourceError(unknown("source_format:", name, FORMATS))
    return FORMATS[suffix]


def check_options(source: Any, format: str | None, options: Any) -> None:  # noqa: A002 - as in every library
    """Check what the options say, and that they fit the source, as far as it is known before it is opened.

    :param source: the argument of a load; of a template only its end is examined
    :raises SourceError: naming the option, the problem and the fix
    """
    first = source[0] if isinstance(source, (list, tuple)) and source else source
    if isinstance(first, Mapping):
        known = ROWS
    else:
        suffix = str(first).lower().removesuffix(".gz").rpartition(".")[2] if isinstance(first, (str, PurePath)) else ""
        known = checked_format(format) or FORMATS.get(suffix, "csv")  # every option has a meaning for CSV
    FileOptions.of(options, format=known)


def check_names(names: Iterable[str], place: str) -> None:
    """Check that each column has a name of its own.

    :param place: where they are, for the message
    :raises SourceError: if a name is empty or repeated; the message gives positions and no name, which is a value if
        the header line is missing
    """
    seen: dict[str, int] = {}
    for position, name in enumerate(names, 1):
        if not name:
            raise SourceError(f"{place}: column {position} has no name; give each column a name")
        if name in seen:
            raise SourceError(
                f"{place}: columns {seen[name]} and {position} have the same name; give each its own, "
                "or the header line if it is missing"
            )
        seen[name] = position


class HeaderLine(tuple[str, ...]):  # noqa: SLOT001 - a tuple can have no slots with names
    """Column names from the first line of a text file. They may be values, if the header line is missing.

    :ivar place: the line that was read
    """

    place: str

    @classmethod
    def of(cls, names: Iterable[str], place: str) -> HeaderLine:
        made = cls(names)
        made.place = place
        return made


def unique_names(names: Iterable[str], place: str) -> tuple[str, ...]:
    """Make the names of columns unique.

    A column without a name becomes ``(column 3)``; two ``name`` become ``name (column 2)`` and ``name (column 5)``.
    So they do not stop a load that does not use them, and a mapping can name them.

    :param place: where they are, for the message
    :raises SourceError: if another column already has such a name
    """
    given = list(names)
    counts = Counter(given)
    made = tuple(
        name if name and counts[name] == 1 else f"{name} (column {position})".strip()
        for position, name in enumerate(given, 1)
    )
    if len(set(made)) < len(made):
        raise SourceError(f"{place}: several columns have the same name; give each its own")
    return made


def is_nameless(column: str) -> bool:
    """Whether a column has no name of its own: one from :func:`unique_names`, or the index of pandas."""
    return _NAMELESS.fullmatch(column) is not None


def shared_name(column: str) -> str | None:
    """The name that a column of :func:`unique_names` shares with another one."""
    found = _SHARED.fullmatch(column)
    return found[1] if found else None


def look_like_values(names: Collection[Any], wanted: Collection[Any] = ()) -> bool:
    """Whether the names of columns may be values, which no message may show.

    A header line counts as values unless it has a column that the mapping names, or one for addresses.

    :param wanted: columns that the mapping names
    """
    if any("@" in str(name) for name in names):
        return True
    if not isinstance(names, HeaderLine) or any(name in wanted for name in names):
        return False
    has_long_number = any(sum(character.isdigit() for character in name) > MOST_DIGITS for name in names)
    return has_long_number or not any(len(name) <= LONGEST_NAME and _EMAIL_WORD.search(name) for name in names)


# -- helpers ------------------------------------------------------------------------------------------------

MOST_DIGITS = 6
"""Digits in a column name; a phone number has more."""

LONGEST_NAME = 40
"""Characters of a column name; a note has more."""

_EMAIL_WORD = re.compile(r"(?i)(?<![a-z])(e-?mails?|mails?|correo|courriel|e-?post)(?![a-z])")
_NAMELESS = re.compile(r"\(column \d+\)|Unnamed: \d+|__index_level_\d+__")
_SHARED = re.compile(r"(.+) \(column \d+\)")


def _check_character(name: str, value: Any) -> None:
    if value == "\\t":
        raise SourceError(
            f'source_options: {name} is a backslash and a t; for a tab write "\\t" in Python or set source_format="tsv"'
        )
    if not isinstance(value, str) or len(value) != 1 or value in "\r\n\0":
        raise SourceError(f"source_options: {name} must be one character, and no line end")


def _check_encoding(name: Any) -> None:
    if not isinstance(name, str):
        raise SourceError("source_options: encoding must be the name of an encoding, such as 'cp1252'")
    try:
        io.TextIOWrapper(io.BytesIO(), encoding=name).close()
    except (LookupError, ValueError):
        known = sorted({alias.replace("_", "-") for alias in (*aliases, *aliases.values())})
        usual = hint(name.replace("_", "-"), known, "usual")
        raise SourceError(
            f"source_options: encoding {name!r} is unknown; {usual} ones: utf-8, cp1252 (Windows, Excel), latin-1, "
            "utf-16"
        ) from None


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise SourceError(f"source_options: {name} must be the number of lines before the header line, such as 3")


def _checked_words(words: Any) -> tuple[str, ...]:
    if not isinstance(words, (list, tuple, set, frozenset)) or not all(isinstance(word, str) for word in words):
        raise SourceError('source_options: null_values must be a list of words, such as ["NULL", "N/A"]')
    return tuple(word.strip() for word in words)


def _checked_header(names: Any) -> tuple[str, ...]:
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(name, str) for name in names):
        raise SourceError(
            "source_options: header must be a list of the columns' names; leave it out if the files have them"
        )
    stripped = tuple(name.strip() for name in names)
    check_names(stripped, "source_options: header")
    return stripped
