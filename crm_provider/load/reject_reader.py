"""The format of a rejects file, and its lines read one after another."""

from __future__ import annotations

from typing import Literal

from crm_provider.files.journal import Journal
from crm_provider.files.paths import AnyPath
from crm_provider.load.reject_lines import CsvLines, JsonLines, Reject, RejectLines
from crm_provider.load.rows import SourceError

RejectsFormat = Literal["jsonl", "csv"]

_PACKED = frozenset({".gz", ".bz2", ".zst", ".xz", ".zip", ".parquet", ".xlsx"})


def lines_and_journal(path: AnyPath, chosen: RejectsFormat | None) -> tuple[RejectLines, Journal]:
    """The format and the journal of a rejects file; no file is made.

    :param chosen: by default CSV for the suffix ``.csv`` and JSON lines for any other
    :raises SourceError: if the format is unknown, or cannot be written row by row
    """
    if path.suffix.lower() in _PACKED:
        raise SourceError(
            f"rejects are written row by row, which {path.suffix} does not allow; end the path in .jsonl or .csv"
        )
    name = chosen or ("csv" if path.suffix.lower() == ".csv" else "jsonl")
    if name not in ("csv", "jsonl"):
        raise SourceError(f"the format of rejects is 'jsonl' or 'csv' but not {name!r}")
    lines = CsvLines() if name == "csv" else JsonLines()
    return lines, Journal(path, quoted=lines.quoted)


class RejectReader:
    """Reads the lines of a file one after another, and knows where it is when one is wrong."""

    def __init__(self, lines: RejectLines, name: str) -> None:
        self._lines, self._name = lines, name
        self.number = 0
        """Of the line that was read last, from 1; a header counts, and line breaks within a row of CSV do not."""
        self._header: str | None = None

    def read(self, line: str) -> Reject | None:
        """The row of a line; None for an empty line or a header, also one that two tries at once have both written.

        :raises SourceError: if it is neither
        """
        self.number += 1
        try:
            if self.number == 1 and self._lines.read_header(line):
                self._header = line
            if line == self._header:
                return None
            return self._lines.parse(line) if line.strip() else None
        except ValueError as wrong:
            raise SourceError(f"{self._name}, row {self.number} of the file (a header counts): {wrong}") from None
