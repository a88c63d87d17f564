"""How the files of a source are to be read, where the files do not say it themselves."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from encodings.aliases import aliases
from typing import Any

from crm_provider.load.rows import SourceError
from crm_provider.suggest import hint, unknown

FORMATS: Mapping[str, str] = {
    "csv": "csv",
    "tsv": "tsv",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "json": "jsonl",
    "parquet": "parquet",
}
"""What a format may be called, as a suffix or by ``format``."""

_OPTIONS = {"csv": ("delimiter", "encoding", "quotechar", "header"), "jsonl": ("encoding",), "parquet": ()}
_OPTIONS["tsv"] = _OPTIONS["csv"]


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """How to read text files.

    :param delimiter: between two fields; by default the one of comma, semicolon, tab and bar that the header line has
    :param encoding: any that Python knows; a byte order mark in the file goes before
    :param quotechar: around fields that hold a delimiter, quote or line end; ``""`` if quotes have no meaning
    :param header: names of the columns, for files without a header line
    :raises SourceError: naming the option, the problem and the fix
    """

    delimiter: str | None = None
    encoding: str = "utf-8"
    quotechar: str = '"'
    header: tuple[str, ...] | None = None

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

    @classmethod
    def of(cls, options: Mapping[str, Any] | None, *, format: str) -> FileOptions:  # noqa: A002
        """Options as a user gives them.

        :param format: options that have no meaning for it are refused
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
                raise SourceError(f"source_options: {name!r} has no meaning for {format} files; leave it out")
        given = {name: value for name, value in (options or {}).items() if value is not None}
        return cls(**({"delimiter": "\t"} if format == "tsv" else {}) | given)


def checked_format(name: str | None) -> str | None:
    """A format by any of its names.

    :raises SourceError: if it is none; the text names the nearest one
    """
    if name is None:
        return None
    plain = str(name).lower().lstrip(".").removesuffix(".gz")
    if plain not in FORMATS:
        raise SourceError(unknown("source_format:", name, FORMATS))
    return FORMATS[plain]


def check_names(names: Iterable[str], place: str) -> None:
    """Whether rows can be told by these columns.

    :param place: where they are, for the message
    :raises SourceError: if a name is empty or there twice; the text says at which positions, not which name: it is
        a value if the header line is missing
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


def look_like_values(names: Iterable[Any]) -> bool:
    """Whether a header line is missing, so that the first row was taken for one: then no message shows its names."""
    return any("@" in str(name) for name in names)


# -- helpers ------------------------------------------------------------------------------------------------


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


def _checked_header(names: Any) -> tuple[str, ...]:
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(name, str) for name in names):
        raise SourceError(
            "source_options: header must be a list of the columns' names; leave it out if the files have them"
        )
    stripped = tuple(name.strip() for name in names)
    check_names(stripped, "source_options: header")
    return stripped
