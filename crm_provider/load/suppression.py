"""The suppression list: people who must not be written to, as addresses or as hashes of addresses.

It is read completely and strictly. An entry that cannot be understood ends the load before its first call, because a
list that is read only in part would let the load write to people who have opted out.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from crm_provider.files.paths import AnyPath, as_path
from crm_provider.files.temp_database import TempDatabase
from crm_provider.load.rows import SourceError
from crm_provider.load.sources.files import expand_pattern, explain_missing, place, refuse_addresses
from crm_provider.load.sources.options import FORMATS
from crm_provider.load.sources.source import FilesSource, Source, open_source
from crm_provider.load.sources.text_files import WrongEncoding, open_lines
from crm_provider.values.addresses import NotOneAddress, one_address, person_key, spellings, without_wrapping

log = logging.getLogger(__name__)

COLUMN = "email"
"""The column that is read if there are several, in upper or lower case."""

_HASH = re.compile(r"[0-9a-fA-F]{64}")
_PATTERN = re.compile(r"%|[^@]*(?:\*|%@)")
"""Matches ``*@example.com`` and ``ann%@example.com``. They are valid, but on such a list they stand for many people."""
_SIZE = 16
"""Bytes of a hash that are kept. A collision between a million rows and a million people has a chance of 1 in 10^26."""


_FILES = (".txt", *(f".{suffix}" for suffix in FORMATS))
"""Suffixes of the files that a suppression list is read from."""


class Suppression:
    """Shows whether an address is on the list: ``email in suppression``. Used by one thread.

    All spellings of an address are one person (:func:`~crm_provider.values.addresses.person_key`).

    Hashes are kept in a temporary database without a name, so memory use stays flat and no address is on the disk.
    """

    def __init__(self) -> None:
        self._base = TempDatabase("CREATE TABLE people (hash BLOB PRIMARY KEY) WITHOUT ROWID")

    @classmethod
    def read(cls, source: Any) -> Suppression:
        """Read the list from a source.

        Entries are email addresses or SHA-256 hashes (64 hex digits) of the address in lower case, also mixed. Each
        entry is exactly one of them; :func:`~crm_provider.values.addresses.one_address` says what may surround an
        address.

        :param source: a list of entries; or a path or pattern of files: ``.txt`` (one entry a line) or any file that
            :func:`~crm_provider.load.sources.source.open_source` reads, with a column ``email`` or a single column; or
            a list of such paths or of rows
        :raises NoSuchFile: if a file is missing
        :raises SourceError: if an entry is neither address nor hash; the message names its place
        """
        made = cls()
        try:
            for where, entry in _named(_entries(source)):
                made.add(entry, where)
        except BaseException:
            made.close()
            raise
        if not len(made):
            log.warning("The suppression list is empty: no contact is left out.")
        return made

    def add(self, entry: object, where: str) -> None:
        """Add a person.

        :param where: for the message
        :raises SourceError: if it is neither an address nor a SHA-256 hash
        """
        self._base.execute("INSERT OR IGNORE INTO people VALUES (?)", (_entry(entry, where),))

    def __contains__(self, email: object) -> bool:
        if not isinstance(email, str):
            return False
        try:
            forms = [_hash(spelling) for spelling in spellings(email)]
        except NotOneAddress:
            return False
        marks = ", ".join("?" * len(forms))
        query = f"SELECT 1 FROM people WHERE hash IN ({marks})"  # noqa: S608 - question marks only
        return self._base.execute(query, forms).fetchone() is not None

    def __len__(self) -> int:
        """The number of people on the list."""
        return int(self._base.execute("SELECT count(*) FROM people").fetchone()[0])

    def close(self) -> None:
        self._base.close()


def _named(entries: Iterator[tuple[str, object]]) -> Iterator[tuple[str, object]]:
    """The entries; errors of their file name the suppression list, not the source of the load."""
    try:
        yield from entries
    except WrongEncoding as wrong:
        raise SourceError(f"suppression list: {wrong.of_any_file()}") from None
    except SourceError as wrong:
        raise type(wrong)(f"suppression list: {wrong}") from None


def _entry(entry: object, where: str) -> bytes:
    """The bytes that are kept of an entry.

    :raises SourceError: if it is not exactly one address or hash; the message names its place and no value
    """
    if isinstance(entry, str):
        try:
            bare = without_wrapping(entry)
            if not _PATTERN.match(bare):
                return bytes.fromhex(bare)[:_SIZE] if _HASH.fullmatch(bare) else _hash(person_key(one_address(entry)))
            problem = "is a pattern of addresses"
        except NotOneAddress as wrong:
            problem = wrong.kind
    else:
        problem = "is empty" if entry is None else "is not text"
    raise SourceError(
        f"{where} of the suppression list {problem}. Each entry must be one email address or one SHA-256 hash "
        "(64 hex digits); correct it or take it out, then run again"
    )


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:_SIZE]


def _entries(source: Any) -> Iterator[tuple[str, object]]:
    """Entries with their places."""
    if isinstance(source, str) and not source.lower().removesuffix(".gz").endswith(_FILES):
        refuse_addresses(source)
    if isinstance(source, (str, os.PathLike, AnyPath)):
        source = [_path(source)]
    elif _is_list_of_entries(source):
        for number, entry in enumerate(source, start=1):
            yield f"entry {number}", entry
        return
    if isinstance(source, Sequence) and all(isinstance(item, (os.PathLike, AnyPath)) for item in source):
        for file in (file for path in source for file in expand_pattern(_path(path))):
            yield from _lines(file) if _is_text(file) else _column(open_source(file))
        return
    yield from _column(open_source(source))


def _is_list_of_entries(source: Any) -> bool:
    """Whether a list is one of addresses, even if some of them are missing or no text; not of rows or paths."""
    return isinstance(source, Sequence) and (
        any(isinstance(item, str) for item in source)
        or all(item is None or isinstance(item, (int, float, bytes)) for item in source)
    )


def _path(given: Any) -> AnyPath:
    try:
        return as_path(given)
    except ValueError as wrong:
        raise SourceError(str(wrong)) from None


def _is_text(path: AnyPath) -> bool:
    return path.name.lower().removesuffix(".gz").endswith(".txt")


def _lines(path: AnyPath) -> Iterator[tuple[str, object]]:
    with ExitStack() as closing:
        with explain_missing(path):
            lines = closing.enter_context(open_lines(path, encoding="utf-8", newline=""))
        for line in lines:
            if line.strip():
                yield place(path, lines.number), line


def _column(source: Source) -> Iterator[tuple[str, object]]:
    """The entries of a source of rows."""
    header = source.columns or ()
    if any("@" in name or _HASH.fullmatch(name.strip()) for name in header):
        raise SourceError(
            f"{source.name} begins with an entry where the names of its columns should be; add a first line with "
            "'email', or rename a file of one entry a line to .txt"
        )
    for row in source.rows():
        number = row.number
        where = source.place(number) if isinstance(source, FilesSource) else f"row {number} of {source.name}"
        if row.problem is not None:
            raise SourceError(row.problem)
        names = [name for name in row.values if name.strip().lower() == COLUMN]
        if not names and len(row.values) == 1:
            names = list(row.values)
        if len(names) != 1:
            found = f"{len(names)} columns are" if names else "no column is"
            raise SourceError(f"{where}: {found} called 'email'; give this name to the one column of the addresses")
        yield where, row.values[names[0]]
