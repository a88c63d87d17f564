"""Files as sources: which files a path or pattern means, what format they have, and where each of their rows is."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from crm_provider.files.paths import AnyPath, as_path, read_any
from crm_provider.files.private import NO_FILE
from crm_provider.load.rows import NoSuchFile, SourceError
from crm_provider.load.sources.options import FORMATS

EXTRA = "__extra__"
"""Key of the fields of a row that have no column."""

LINE = "__line__"
"""Key of a row that could not be parsed: the row as it was given."""

Record = tuple[Mapping[str, Any], "str | None", int]
"""Values, their problem if any, and their first line in the file; 0 for a format without lines."""

LARGEST_ROW = 2 << 20
"""Characters of a line of text, and of all lines of a record: the CRM's gateway takes 10 MB."""

_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class SourceTable:
    """An open file.

    :param columns: None if each record has its own
    :param records: to be read once, while the file is open
    """

    columns: tuple[str, ...] | None
    records: Iterator[Record]


def expand_pattern(path: Any, given: object = None) -> list[AnyPath]:
    """The files of a path or pattern, in the order of their names.

    An existing file or folder whose name has wildcards is used literally. ``**`` stands for any number of folders. As
    in a shell, a wildcard does not match a leading dot: such files are copies and drafts of other programs.

    :param path: a path object
    :param given: how the user wrote it, for the message
    :raises NoSuchFile: if no file matches a pattern
    """
    parts, folders = path.parts, [*reversed(path.parents), path][-len(path.parts) :]
    wild = [n for n, part in enumerate(parts) if _WILDCARD.search(part)]
    first = next((n for n in wild if not folders[n].exists()), None)
    if first is None:
        return [path]
    base, literal = folders[wild[0]].parent, map(glob.escape, parts[wild[0] : first])  # stores would expand their base
    start, with_hidden = len(folders[first].parent.parts), _is_hidden(parts[first:])
    found = [
        file
        for file in base.glob("/".join([*literal, *parts[first:]]))
        if not file.is_dir() and (with_hidden or not _is_hidden(file.parts[start:]))
    ]
    if not found:
        raise NoSuchFile(
            f"no file matches {_shown(given or path)}; correct the pattern, or check whether the files have arrived"
        )
    return sorted(found, key=str)


def _is_hidden(parts: Sequence[str]) -> bool:
    return any(part.startswith(".") for part in parts)


@contextmanager
def explain_missing(given: object) -> Iterator[None]:
    """Explain, while a named file is opened, that it is missing.

    :param given: how the user wrote it
    :raises NoSuchFile: if the file is missing
    :raises SourceError: if it is a folder, which some object stores report only on request
    """
    try:
        yield
    except FileNotFoundError:
        if is_folder(given):
            raise folder_refused(given) from None
        raise NoSuchFile(
            f"there is no file {_shown(given)}; correct the path, or check whether the file has arrived"
        ) from None


def _shown(given: object) -> object:
    """A path as the user wrote it, but with its folder if it is relative."""
    written = str(given)
    return given if "://" in written or Path(written).is_absolute() else as_path(written)


def read_source(path: AnyPath) -> IO[bytes]:
    """Open a file of a source.

    :raises SourceError: if it is a pipe or a device
    """
    try:
        return read_any(path)
    except PermissionError as refused:
        if refused.strerror == NO_FILE:
            raise SourceError(f"{path} is not an ordinary file but a pipe or a device; write a file first") from None
        raise


def is_folder(path: Any) -> bool:
    """Whether a path object is a folder; False if that is not known."""
    try:
        return bool(path.is_dir())
    except (AttributeError, OSError, NotImplementedError):
        return False


def folder_refused(path: object) -> SourceError:
    """The error for a folder in place of a file."""
    return SourceError(f"{path} is a folder; give a pattern of the files in it, such as {str(path).rstrip('/')}/*.csv")


def rejects_refused(path: object) -> SourceError:
    """The error for a rejects file in place of a source: its rows are older than those of the source beside it."""
    return SourceError(
        f"{path} is a rejects file of a load; send its rows with CrmRetryRejectsOperator, or narrow the pattern that "
        "matches it"
    )


def refuse_addresses(path: object) -> None:
    """Refuse a text that is an address, or several, in place of a path; the message does not show it.

    :raises SourceError: if it is one
    """
    text = str(path)
    if "@" in text and not {"/", "\\"} & set(text):
        raise SourceError("a text with an @ was given in place of a path; give a list, or the path of a file")


def format_of(path: AnyPath) -> str:
    """The format by a file's suffix.

    :raises SourceError: if the suffix does not decide it
    """
    stem, _, suffix = path.name.lower().removesuffix(".gz").rpartition(".")
    if stem and suffix in FORMATS:
        return FORMATS[suffix]
    if suffix in _OTHER_SUFFIXES:
        raise SourceError(f"{path} is {_OTHER_SUFFIXES[suffix]}")
    if is_folder(path):
        raise folder_refused(path)
    known = ", ".join(f".{name}" for name in FORMATS)
    refuse_addresses(path)
    raise SourceError(
        f"the format of {path} is not clear from its name; set source_format, or rename it to end in one of {known} "
        "(.gz may follow)"
    )


_SHEET = "a spreadsheet, which is not read; save the sheet as 'CSV UTF-8'"
_ARCHIVE = "an archive, which is not read; unpack it first (of packed files only gzip is read: .csv.gz)"
_OTHER_SUFFIXES: Mapping[str, str] = {
    **dict.fromkeys(("xlsx", "xlsm", "xlsb", "xls", "ods", "numbers"), _SHEET),
    **dict.fromkeys(("zip", "7z", "rar", "tar", "tgz", "bz2", "xz", "zst"), _ARCHIVE),
    **dict.fromkeys(("vcf", "ldif", "pst", "mbox", "xml", "html", "htm", "pdf"), "not a table; export it as CSV"),
    **dict.fromkeys(
        ("avro", "orc", "feather", "arrow", "pkl", "pickle"),
        "in a format that is not read; write Parquet, CSV or JSON lines",
    ),
}
"""Suffix of a file that is not a text table -> what to do."""


def place(path: AnyPath, first: int, last: int | None = None) -> str:
    """Lines of a file, for messages."""
    return f"{path}, line {first}" if last in (None, first) else f"{path}, lines {first} to {last}"
