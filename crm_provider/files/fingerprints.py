"""Fingerprints of records: a table on disk while a task runs, lines of text between two tasks.

A state file has a header and one sorted line for each record: its key and its fingerprint, as hex digits.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import IO, cast

from crm_provider.files.paths import AnyPath, atomic_writer, each_line, read_own
from crm_provider.files.temp_database import TempDatabase

SIZE = 16
"""Bytes of a hash. In a million records, two share one with a probability of 1 in 10^26."""

CACHE = 32_000
"""KB of memory for the table. With a million records it has 50,000 KB, and look-ups come in any order."""

Entry = tuple[bytes, "bytes | None"]
"""A record's key and its fingerprint, None if it was forgotten."""

_ENTRY = re.compile(r"((?:[0-9a-f]{2})+) (?:([0-9a-f]{32})|-)")


class UnreadableError(Exception):
    """The file is damaged, or is a different file."""


class OtherKeyError(Exception):
    """The file belongs to another key."""


class PrintTable:
    """On disk, in a temporary database without a name, so that memory stays flat."""

    def __init__(self) -> None:
        self._base = TempDatabase(
            f"PRAGMA cache_size=-{CACHE}; CREATE TABLE seen (key BLOB PRIMARY KEY, print BLOB) WITHOUT ROWID"
        )

    def __len__(self) -> int:
        return int(self._base.execute("SELECT count(*) FROM seen").fetchone()[0])

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._base.execute("SELECT key, print FROM seen ORDER BY key"))

    def get(self, key: bytes) -> bytes | None:
        row = self._base.execute("SELECT print FROM seen WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def put(self, found: Iterable[Entry]) -> None:
        """Add entries. A later entry replaces an earlier one with the same key."""
        for key, print_ in found:
            if print_ is None:
                self._base.execute("DELETE FROM seen WHERE key = ?", (key,))
            else:
                self._base.execute("INSERT OR REPLACE INTO seen VALUES (?, ?)", (key, print_))

    def clear(self) -> None:
        self._base.execute("DELETE FROM seen")

    def close(self) -> None:
        self._base.close()


def line_of(key: bytes, print_: bytes | None) -> str:
    """An entry as text."""
    return f"{key.hex()} {'-' if print_ is None else print_.hex()}"


def entries(lines: Iterable[str], header: str) -> Iterator[Entry]:
    """The entries of a state file or of its journal.

    :param header: header of the caller's own files; its last word identifies the key
    :raises UnreadableError: at an invalid line
    :raises OtherKeyError: if the header is of another key
    """
    lines = iter(lines)
    first = next(lines, header)
    if first != header:
        raise OtherKeyError if first.rpartition(" ")[0] == header.rpartition(" ")[0] else UnreadableError
    for line in lines:
        found = _ENTRY.fullmatch(line)
        if found is None:
            raise UnreadableError
        yield bytes.fromhex(found[1]), bytes.fromhex(found[2]) if found[2] else None


def lines_of(path: AnyPath) -> Iterator[str]:
    """The lines of a state file, none if it does not exist.

    :raises UnreadableError: if it is not text, or not compressed as its name implies
    """
    try:
        raw = read_own(path)
    except FileNotFoundError:
        return
    with raw, gzip.GzipFile(fileobj=raw) if _is_packed(path) else nullcontext(raw) as file:
        try:
            for line in each_line(file, path):
                yield line.decode("ascii").removesuffix("\n")
        except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error):
            raise UnreadableError from None


def write_lines(path: AnyPath, lines: Iterable[str]) -> None:
    """Replace a state file atomically."""
    with atomic_writer(path, "wb") as file:
        target = gzip.GzipFile("", "wb", fileobj=file, mtime=0) if _is_packed(path) else file
        for line in lines:
            target.write(f"{line}\n".encode())
        if target is not file:
            cast(IO[bytes], target).close()


def _is_packed(path: AnyPath) -> bool:
    return path.suffix.lower() == ".gz"
