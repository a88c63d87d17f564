"""Which files are meant, what format they have, and what a format's reader hands back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from crm_provider.load.paths import AnyPath
from crm_provider.load.rows import NoSuchFile, SourceError
from crm_provider.load.source_options import FORMATS

EXTRA = "__extra__"
"""Key of the fields of a row that have no column."""

LINE = "__line__"
"""Key of a row that could not be taken apart: as it was given."""

Record = tuple[Mapping[str, Any], "str | None"]
"""Values, and what is wrong with them."""

_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Table:
    """An open file.

    :param columns: None if each record has its own
    :param records: to be read once, while the file is open
    :param place: file and lines of the record that was read last; None if the format has no lines
    """

    columns: tuple[str, ...] | None
    records: Iterator[Record]
    place: Callable[[], str] | None = None


def expanded(path: Any, given: object = None) -> list[AnyPath]:
    """The files that a path or pattern means, in the order of their names.

    A name with wildcards that exists as it is means itself. ``**`` stands for any number of folders.

    :param path: a path object
    :param given: how the user wrote it, for the message
    :raises NoSuchFile: if no file matches a pattern
    """
    parts = path.parts
    first = next((n for n, part in enumerate(parts) if _WILDCARD.search(part)), None)
    if first is None or path.exists():
        return [path]
    base = path.parents[len(parts) - first - 1]
    found = [file for file in base.glob("/".join(parts[first:])) if not file.is_dir()]
    if not found:
        raise NoSuchFile(f"no file matches {given or path}; correct the pattern, or see whether the files have arrived")
    return sorted(found, key=str)


@contextmanager
def there(given: object) -> Iterator[None]:
    """Opening a file that was named.

    :param given: how the user wrote it
    :raises NoSuchFile: if it is not there
    """
    try:
        yield
    except FileNotFoundError:
        raise NoSuchFile(f"there is no file {given}; correct the path, or see whether the file has arrived") from None


def format_of(path: AnyPath) -> str:
    """The format that a file's name tells.

    :raises SourceError: if it tells none
    """
    stem, _, suffix = path.name.lower().removesuffix(".gz").rpartition(".")
    if stem and suffix in FORMATS:
        return FORMATS[suffix]
    known = ", ".join(f".{name}" for name in FORMATS)
    raise SourceError(
        f"{path} does not tell its format; set source_format, or rename it to end in one of {known} (.gz may follow)"
    )


def place(path: AnyPath, first: int, last: int | None = None) -> str:
    """Lines of a file, for messages."""
    return f"{path}, line {first}" if last in (None, first) else f"{path}, lines {first} to {last}"
