"""Text files line by line: decompressed, decoded, numbered. A file that is not text is refused with the line's number.

A line has a limit, so that a file without line ends, or one that decompresses to gigabytes, is never read at once.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from crm_provider.files.paths import AnyPath
from crm_provider.load.rows import SourceError
from crm_provider.load.sources.files import LARGEST_ROW, folder_refused, place, read_source

LONGEST_LINE = LARGEST_ROW
"""Characters of a line."""

CHUNK = 1 << 18
"""Bytes that are read from a file at once."""

DAMAGED = "\0" * 64
"""A block of the file that was never written: no value has so many NULs in a row."""

_MARK = "\udcff"
"""Replaces bytes that cannot be decoded: half a surrogate pair, which no text decodes to."""

ORDER_MARK = "\ufeff"
"""Begins a row in the middle of a file if files with byte order marks were appended to each other."""

codecs.register_error("crm_provider.mark", lambda error: (_MARK, getattr(error, "end", 0)))

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # starts like that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class WrongEncoding(SourceError):
    """A file is not text in its encoding.

    :param problem: with the file and line
    :param option: the option of a source that may help
    """

    def __init__(self, problem: str, option: str) -> None:
        super().__init__(problem, option)
        self.problem, self.option = problem, option

    def __str__(self) -> str:
        return f"{self.of_any_file()} or give source_options={self.option}"

    def of_any_file(self) -> str:
        """The message without the advice for files that have ``source_options``."""
        return f"{self.problem}; save it as UTF-8"


class TextLines:
    """The lines of an open file, with their line ends.

    :ivar number: of the line that was read last, from 1
    """

    def __init__(self, path: AnyPath, text: io.TextIOWrapper) -> None:
        self.path = path
        self.number = 0
        self._text = text

    def __iter__(self) -> Iterator[str]:
        """The lines.

        :raises SourceError: if one cannot be used, or all that are not ASCII are UTF-8 although another encoding was
            given: their accents would be garbled
        """
        encoding, accents = self._text.encoding, False
        may_be_utf8 = _is_single_byte(encoding)
        with _unpacking(self.path, self):
            for line in iter(partial(self._text.readline, LONGEST_LINE), ""):
                self.number += 1
                if _MARK in line or len(line) == LONGEST_LINE or ("\0" in line and self._shows_no_text(line)):
                    raise self._wrong(line)
                if may_be_utf8 and not line.isascii():
                    accents, may_be_utf8 = True, _is_utf8(line, encoding)
                yield line
        if accents and may_be_utf8:
            raise SourceError(
                f"{self.path} is UTF-8, and would be garbled as {encoding}; remove encoding from source_options, or "
                "save the file in that encoding"
            )

    def _shows_no_text(self, line: str) -> bool:
        """Whether NULs show a wrong encoding (in the first line) or a damaged file. A few may be part of a value."""
        return self.number == 1 or DAMAGED in line

    def _wrong(self, line: str) -> SourceError:
        where, encoding = place(self.path, self.number), self._text.encoding
        if _MARK in line:
            windows = codecs.lookup(encoding).name.startswith("utf-8")
            option = "{'encoding': 'cp1252'} (Windows, Excel) or 'latin-1'" if windows else "{'encoding': 'utf-8'}"
            return WrongEncoding(f"{where} is not {encoding}", option)
        if "\0" in line:
            problem = f"{where} holds a NUL character: it is damaged, not a text file, or UTF-16"
            end = "be" if line.startswith("\0") else "le"  # a letter's NUL is its first byte
            return WrongEncoding(problem, f"{{'encoding': 'utf-16-{end}'}}")
        return SourceError(f"{where} is longer than {LONGEST_LINE} characters; write one record per line")


@contextmanager
def open_lines(path: AnyPath, *, encoding: str, newline: str) -> Iterator[TextLines]:
    r"""Open a text file, decompressed if it is gzip.

    :param encoding: used if the file has no byte order mark
    :param newline: ``"\n"``, or ``""`` for lines that end in any way
    :raises SourceError: if it is a folder, not text, or named .gz without being gzip
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
        yield TextLines(path, closing.enter_context(text))


def buffered(file: Any) -> io.BufferedReader:
    """A buffered file: that of an object store may have no more than ``read``."""
    return file if isinstance(file, io.BufferedReader) else io.BufferedReader(_Raw(file), CHUNK)


# -- helpers ------------------------------------------------------------------------------------------------

_OTHER_KINDS: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "an Excel workbook or a ZIP archive; save the sheet as 'CSV UTF-8', or unpack it"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook; save the sheet as 'CSV UTF-8'"),
    (b"PAR1\x15", "a Parquet file; name it .parquet, or set source_format='parquet'"),
    (b"BZh91AY", "packed with bzip2; unpack it, or pack it with gzip"),
    (b"\xfd7zXZ", "packed with xz; unpack it, or pack it with gzip"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd; unpack it, or pack it with gzip"),
    (b"\x1f\x8b", "packed twice with gzip; unpack it once"),
    (b"7z\xbc\xaf", "a 7-Zip archive; unpack it"),
    (b"Rar!", "a RAR archive; unpack it"),
    (b"%PDF", "a PDF document; export the table as CSV"),
    (b"Obj\x01", "an Avro file; write Parquet, CSV or JSON lines"),
    (b"SQLite format 3", "a SQLite database; load a query of it with an operator of crm_provider.transfers.sql_to_crm"),
)
"""First bytes of a file -> what it is and what to do."""

_PAGES = (b"<!doctype", b"<html", b"<table", b"<?xml")


def _refuse_other_kinds(path: AnyPath, head: bytes) -> None:
    """Refuse a file that is not text, whatever its name.

    :raises SourceError: with what it is and what to do
    """
    found = next((what for start, what in _OTHER_KINDS if head.startswith(start)), None)
    if head.lstrip(b"\xef\xbb\xbf \r\n\t").lower().startswith(_PAGES):
        found = "a web page or XML; export the table as CSV (a login page in place of a file looks like this, too)"
    if found is not None:
        raise SourceError(f"{path} is {found}")


def _is_single_byte(encoding: str) -> bool:
    """Whether each byte is a character, as in latin-1 and cp1252."""
    try:
        text = bytes(range(128, 256)).decode(encoding, "replace")
    except UnicodeError:
        return False
    return len(text) == 128 and not codecs.lookup(encoding).name.startswith("utf")


def _is_utf8(line: str, encoding: str) -> bool:
    """Whether the bytes of a line are UTF-8, too.

    Text of single bytes hardly ever is, unless it is ASCII; a few characters of GBK may be.
    """
    try:
        data = line.encode(encoding)
        data.decode()
    except UnicodeError:
        return False
    return not data.isascii()


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
    """The content of a file, decompressed if it is gzip, also without the suffix .gz."""
    head = packed.peek(2)[:2]
    if head == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=packed)
    if path.name.lower().endswith(".gz"):
        raise gzip.BadGzipFile
    return packed


@contextmanager
def _unpacking(path: AnyPath, lines: TextLines | None = None) -> Iterator[None]:
    """Explain up to which line a damaged file can be read."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as damage:
        after = f" after line {lines.number}" if lines and lines.number else ""
        what = "ends before its gzip data do" if isinstance(damage, EOFError) else "is not a valid gzip file"
        raise SourceError(f"{path} {what}{after}; fetch or write it again") from None
    except UnicodeError:
        # some encodings refuse the whole file instead of the bytes
        where = place(path, lines.number + 1) if lines else str(path)
        option = "{'encoding': 'utf-16-le'} or 'utf-16-be' (for UTF-16 without a byte order mark)"
        raise WrongEncoding(f"{where} cannot be decoded", option) from None
