"""Files as sources: which ones, and their lines of text.

Which files are meant, what format they have, and what a format's reader hands back.

Text files line by line: unpacked, decoded, numbered, and refused with the line where they are no text.
"""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

from crm_provider.files.paths import AnyPath, read_plain
from crm_provider.files.private import NO_FILE
from crm_provider.load.rows import NoSuchFile, SourceError
from crm_provider.load.sources.options import FORMATS

EXTRA = "__extra__"
"""Key of the fields of a row that have no column."""

LINE = "__line__"
"""Key of a row that could not be taken apart: as it was given."""

Record = tuple[Mapping[str, Any], "str | None", int]
"""Values, what is wrong with them, and their first line in the file; 0 for a format without lines."""

LARGEST_ROW = 2 << 20
"""Characters of a line of text, and of all lines of a record: the CRM's gateway takes 10 MB."""

_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Table:
    """An open file.

    :param columns: None if each record has its own
    :param records: to be read once, while the file is open
    """

    columns: tuple[str, ...] | None
    records: Iterator[Record]


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
    :raises SourceError: if it is a folder, which some object stores say only when they are asked
    """
    try:
        yield
    except FileNotFoundError:
        if is_folder(given):
            raise folder_refused(given) from None
        raise NoSuchFile(f"there is no file {given}; correct the path, or see whether the file has arrived") from None


def read_source(path: AnyPath) -> IO[bytes]:
    """Open a file of a source.

    :raises SourceError: if it is a pipe or a device
    """
    try:
        return read_plain(path)
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


def format_of(path: AnyPath) -> str:
    """The format that a file's name tells.

    :raises SourceError: if it tells none
    """
    stem, _, suffix = path.name.lower().removesuffix(".gz").rpartition(".")
    if stem and suffix in FORMATS:
        return FORMATS[suffix]
    if suffix in _OTHER_SUFFIXES:
        raise SourceError(f"{path} is {_OTHER_SUFFIXES[suffix]}")
    if is_folder(path):
        raise folder_refused(path)
    known = ", ".join(f".{name}" for name in FORMATS)
    raise SourceError(
        f"{path} does not tell its format; set source_format, or rename it to end in one of {known} (.gz may follow)"
    )


_SHEET = "a spreadsheet, which is not read; save the sheet as 'CSV UTF-8'"
_ARCHIVE = "an archive, which is not read; unpack it first (of packed files only gzip is read: .csv.gz)"
_OTHER_SUFFIXES: Mapping[str, str] = {
    **dict.fromkeys(("xlsx", "xlsm", "xlsb", "xls", "ods", "numbers"), _SHEET),
    **dict.fromkeys(("zip", "7z", "rar", "tar", "tgz", "bz2", "xz", "zst"), _ARCHIVE),
    **dict.fromkeys(("vcf", "ldif", "pst", "mbox", "xml", "html", "htm", "pdf"), "no table; export it as CSV"),
    **dict.fromkeys(
        ("avro", "orc", "feather", "arrow", "pkl", "pickle"),
        "in a format that is not read; write Parquet, CSV or JSON lines",
    ),
}
"""Suffixes of files that people hand over in place of a table of text -> what to do."""


class Places:
    """Where each row of a source is, and which rows could not be read: for messages about them.

    Four bytes are kept of a row, for there may be millions.
    """

    def __init__(self) -> None:
        self._files: list[tuple[int, str]] = []
        self._lines = array("I")
        self._malformed = array("I")

    def begin(self, file: object) -> None:
        """The rows that follow are of another file."""
        self._files.append((len(self._lines), str(file)))

    def note(self, line: int, problem: str | None) -> None:
        """One more row.

        :param line: of the file; 0 for a format without lines
        """
        self._lines.append(line)
        if problem is not None:
            self._malformed.append(len(self._lines))

    def place(self, number: int) -> str:
        """File, line and row of the file; empty for a row that is not known.

        :param number: of the row in the source, from 1
        """
        if not 0 < number <= len(self._lines) or not self._files:
            return ""
        first, file = self._files[bisect_right(self._files, number - 1, key=lambda entry: entry[0]) - 1]
        line = self._lines[number - 1]
        return f"{file}, line {line} (row {number - first})" if line else f"{file}, row {number - first}"

    def is_malformed(self, number: int) -> bool:
        """Whether a row could not be read."""
        n = bisect_left(self._malformed, number)
        return n < len(self._malformed) and self._malformed[n] == number


def place(path: AnyPath, first: int, last: int | None = None) -> str:
    """Lines of a file, for messages."""
    return f"{path}, line {first}" if last in (None, first) else f"{path}, lines {first} to {last}"


LONGEST_LINE = LARGEST_ROW
"""Characters; without an end to it a file without line ends would be read into memory whole."""

CHUNK = 1 << 18
"""Bytes that are asked of a file at once."""

DAMAGED = "\0" * 64
"""So many NULs in a row are a block that was never written: no value has them."""

_SAY_ENCODING = "save it as UTF-8, or, of a source, give its own encoding in source_options"

_MARK = "\udcff"
"""Stands for bytes that cannot be decoded: half a surrogate pair, which no text decodes to."""

codecs.register_error("crm_provider.mark", lambda error: (_MARK, getattr(error, "end", 0)))

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins like the one of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class Lines:
    """The lines of an open file, with their line ends.

    :ivar number: of the line that was read last, from 1
    """

    def __init__(self, path: AnyPath, text: io.TextIOWrapper) -> None:
        self.path = path
        self.number = 0
        self._text = text

    def __iter__(self) -> Iterator[str]:
        with _unpacking(self.path, self):
            for line in iter(partial(self._text.readline, LONGEST_LINE), ""):
                self.number += 1
                if _MARK in line or len(line) == LONGEST_LINE or self._shows_no_text(line):
                    raise self._wrong(line)
                yield line

    def _shows_no_text(self, line: str) -> bool:
        """Whether NULs show that the encoding is wrong (in the first line) or the file is damaged.

        A few may be part of a value.
        """
        return "\0" in line and (self.number == 1 or DAMAGED in line)

    def _wrong(self, line: str) -> SourceError:
        where, encoding = place(self.path, self.number), self._text.encoding
        if _MARK in line:
            other = "'cp1252' (Windows, Excel) or 'latin-1'" if encoding.startswith("utf") else "'utf-8'"
            return SourceError(f"{where} is not {encoding}; {_SAY_ENCODING}, such as {other}")
        if "\0" in line:
            return SourceError(
                f"{where} holds a NUL character; if the file is UTF-16 save it as UTF-8 (of a source, give "
                "source_options={'encoding': 'utf-16-le'}), else it is damaged or no text file"
            )
        return SourceError(f"{where} is longer than {LONGEST_LINE} characters; write one record per line")


@contextmanager
def open_lines(path: AnyPath, *, encoding: str, newline: str) -> Iterator[Lines]:
    r"""Open a text file, unpacked if it is gzip.

    :param encoding: used if the file has no byte order mark
    :param newline: ``"\n"``, or ``""`` for lines that end in any way
    :raises SourceError: if it is a folder, or should be gzip and is not
    """
    with ExitStack() as closing:
        try:
            file = closing.enter_context(read_source(path))
        except IsADirectoryError:
            raise folder_refused(path) from None
        packed = closing.enter_context(buffered(file))
        with _unpacking(path):
            content = closing.enter_context(_unpacked(path, packed))
            _refuse_other_kinds(path, content.peek(64)[:64])
            marked = next((name for mark, name in _BYTE_ORDER_MARKS if content.peek(4).startswith(mark)), None)
        text = io.TextIOWrapper(content, marked or encoding, errors="crm_provider.mark", newline=newline)
        yield Lines(path, closing.enter_context(text))


def buffered(file: Any) -> io.BufferedReader:
    """A file of any file system as a buffered one: theirs need not have more than ``read``."""
    return file if isinstance(file, io.BufferedReader) else io.BufferedReader(_Raw(file), CHUNK)


# -- helpers ------------------------------------------------------------------------------------------------

_OTHER_KINDS: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "an Excel workbook or a ZIP archive; save the sheet as 'CSV UTF-8', or unpack it"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook; save the sheet as 'CSV UTF-8'"),
    (b"PAR1\x15", "a Parquet file; name it .parquet, or set source_format='parquet'"),
    (b"BZh91AY", "packed with bzip2; unpack it, or pack it with gzip"),
    (b"\xfd7zXZ", "packed with xz; unpack it, or pack it with gzip"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd; unpack it, or pack it with gzip"),
    (b"7z\xbc\xaf", "a 7-Zip archive; unpack it"),
    (b"Rar!", "a RAR archive; unpack it"),
    (b"%PDF", "a PDF document; export the table as CSV"),
    (b"Obj\x01", "an Avro file; write Parquet, CSV or JSON lines"),
    (b"SQLite format 3", "a SQLite database; load it with SqlToCrmContactsOperator"),
)
"""What a file begins with -> what it is, and what to do."""

_PAGES = (b"<!doctype", b"<html", b"<table", b"<?xml")


def _refuse_other_kinds(path: AnyPath, head: bytes) -> None:
    """Refuse what is no text, whatever its name says.

    :raises SourceError: saying what it is and what to do
    """
    found = next((what for start, what in _OTHER_KINDS if head.startswith(start)), None)
    if head.lstrip(b"\xef\xbb\xbf \r\n\t").lower().startswith(_PAGES):
        found = "a web page or XML; export the table as CSV (a login page in place of a file looks like this, too)"
    if found is not None:
        raise SourceError(f"{path} is {found}")


class _Raw(io.RawIOBase):
    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _unpacked(path: AnyPath, packed: io.BufferedReader) -> Any:
    """What is in the file; one that is gzip without being called so is unpacked too."""
    head = packed.peek(2)[:2]
    if head == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=packed)
    if path.name.lower().endswith(".gz"):
        raise gzip.BadGzipFile
    return packed


@contextmanager
def _unpacking(path: AnyPath, lines: Lines | None = None) -> Iterator[None]:
    """Say where a damaged file ends being readable."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as damage:
        after = f" after line {lines.number}" if lines and lines.number else ""
        what = "ends before its gzip data do" if isinstance(damage, EOFError) else "is no valid gzip file"
        raise SourceError(f"{path} {what}{after}; fetch or write it again") from None
    except UnicodeError:
        # Some encodings give up on the whole file instead of naming the bytes.
        where = place(path, lines.number + 1) if lines else str(path)
        raise SourceError(f"{where} cannot be decoded; {_SAY_ENCODING}") from None
