"""The rejects file: written by a load, one line for each rejected row with the reason, and read as a source again."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

from crm_provider.files.paths import AnyPath, CannotRead
from crm_provider.files.row_lines import ReadNumber, RowLines
from crm_provider.load.rejects.formats import Reject, RejectReader, form_mark, lines_and_journal
from crm_provider.load.rejects.samples import MOST_SAMPLES
from crm_provider.load.rows import Row, RowLocations, SourceError
from crm_provider.load.sources.files import EXTRA, LINE


class RejectsFile(RowLines):
    """The rejected rows of a load, each once. A file that is not a rejects file is never changed.

    :param path: its suffix decides the format: ``.csv`` is CSV, any other JSON lines
    :param columns: of the source, in their order; for CSV, by default those of the first rejected row
    :param original: number of a row -> its number in the first source (``RejectedRows.original``)
    :param place: number of a row -> file, line and row, which its message begins with
    :param is_malformed: number of a row -> whether it could not be read; sent again, it is rejected until it is
        corrected
    :raises SourceError: if the suffix is of a format that cannot be written row by row
    """

    title, rows_are = "rejects file", "rejected rows"
    samples: list[Reject]
    """The first rejected rows of all tries, for people."""

    def __init__(
        self,
        path: AnyPath,
        *,
        columns: Sequence[str] | None = None,
        original: Callable[[int], int] | None = None,
        place: Callable[[int], str] = lambda number: "",
        is_malformed: Callable[[int], bool] = lambda number: False,
    ) -> None:
        self._columns = columns
        self._original = original
        self._place, self._is_malformed = place, is_malformed
        self._lines, journal = lines_and_journal(path)
        super().__init__(path, journal)

    @classmethod
    def of(cls, path: AnyPath, source: Any) -> RejectsFile:
        """The rejects file of a load, with what the source knows about its rows."""
        known = {name: getattr(source, name) for name in ("original", "place", "is_malformed") if hasattr(source, name)}
        return cls(path, columns=getattr(source, "header", None) or source.columns, **known)

    def resume(self, done: Callable[[int], bool]) -> None:
        super().resume(done)
        reader = RejectReader(self._lines, str(self.path))
        kept = (reject for line in self._journal.lines() if (reject := reader.read(line)) is not None)
        self.samples = list(islice(kept, MOST_SAMPLES))

    def write(self, reject: Reject) -> None:
        """Add a row. On a local disk it now survives a kill.

        :raises CannotWrite: the row is not in the file
        """
        reject = self._with_place(reject)
        header = None if self.count else self._header(reject)
        self.add(reject.number, self._lines.line(reject), header)
        if len(self.samples) < MOST_SAMPLES:
            self.samples.append(reject)

    def mark_replaced(self, mark_of: Callable[[int], str | None], other: str) -> None:
        """Correct which rows have a mark, because it is known by now for which of them another row was taken.

        :param mark_of: number of a row -> its mark, empty for none; None if the row stays as it is
        :param other: as for :meth:`Reject.marked`
        :raises CannotWrite: the file is unchanged
        """

        def corrected(reject: Reject) -> Reject:
            mark = mark_of(reject.number)
            return reject if mark is None or mark == reject.replaced else reject.marked(mark, other)

        def changes() -> Callable[[str], str]:
            reader = RejectReader(self._lines, self.path.name)

            def change(line: str) -> str:
                try:
                    reject = reader.read(line)
                except SourceError:  # of another program
                    return line
                new = None if reject is None else corrected(reject)
                return line if new is None or new is reject else self._lines.line(new)

            return change

        self.rewrite(changes)
        self.samples = [corrected(reject) for reject in self.samples]

    def check_own(self) -> None:
        """Make sure that the file is a rejects file, or missing.

        :raises SourceError: if it is not
        """
        if not self._journal.begins_like(self._lines.begin):
            raise SourceError(
                f"{self.path} would be overwritten, but it is not a rejects file in this format; remove it, or "
                "give another rejects path"
            )

    def number_reader(self) -> ReadNumber:
        """A reader of the lines from the first on. It raises ``SourceError`` for a line of another program."""
        reader = RejectReader(self._lines, str(self.path))

        def number_of(line: str) -> int | None:
            reject = reader.read(line)
            return None if reject is None else reject.number

        return number_of

    def _forget_lines(self) -> None:
        super()._forget_lines()
        self.samples = []

    def _with_place(self, reject: Reject) -> Reject:
        """A reject with what the source knows about its row."""
        number, place = reject.number, self._place(reject.number)
        if self._original is not None:
            reject = replace(reject, original=self._original(number))
        if self._is_malformed(number):
            reject = replace(reject, form=form_mark(reject.values), message=_without_place(reject.message, place))
        return replace(reject, message=f"{place}: {reject.message}") if place else reject

    def _header(self, reject: Reject) -> str | None:
        """The header to write; None if there is one. Its columns are used, even if another try wrote it."""
        first = next(self._journal.lines(), None)
        if first is None:
            own = [name for name in reject.values if name not in (LINE, EXTRA)]
            return self._lines.header_for(self._columns if self._columns is not None else own)
        RejectReader(self._lines, str(self.path)).read(first)
        return None


def _without_place(message: str, place: str) -> str:
    """The message of a row that could not be read, without the lines that it names, which ``place`` names, too."""
    kind, _, why = message.partition("; ")
    file = re.escape(place.rpartition(", ")[0])
    return f"{kind}; {re.sub(rf'^{file}, (lines? [0-9]+( to [0-9]+)?|row [0-9]+):? ', '', why)}" if place else message


class NoRejects(SourceError):
    """The rejects file is missing: no row was rejected, or the path is wrong."""


class RejectedRows:
    """A rejects file as the source of a load.

    Its rows are numbered from 1 again, because they may be edited, filtered or reordered. The numbers of the first
    source are kept: :meth:`original`.

    Each row has its own columns (so ``columns`` is None), because those of a list or of JSON lines may differ.

    :param path: of a rejects file, also from a run that was killed
    :param retryable_only: leave out the rows that fail again unless they are corrected
    :param kind: what the rows are to become; by default not checked
    :raises NoRejects: if the file is missing
    :raises SourceError: if it is not a rejects file; the message names the line
    """

    def __init__(self, path: AnyPath, *, retryable_only: bool = False, kind: str | None = None) -> None:
        self.name, self._kind = str(path), kind
        self.columns: tuple[str, ...] | None = None
        self._path, self._retryable_only = path, retryable_only
        self.left_out = 0
        """Rows that the last read left out, because they fail again unless they are corrected."""
        self._originals, self._places = array("q"), RowLocations()
        lines, journal = lines_and_journal(path)
        with _text_errors(self.name):
            first = next(journal.lines(rest=True), None)
        if first is None:
            raise NoRejects(f"there is no rejects file {path}, or it is empty")
        RejectReader(lines, self.name).read(first)
        self.header = lines.columns()
        """The columns of a CSV file: those of its first row. Other rows may have more."""

    def rows(self) -> Iterator[Row]:
        """The rows as they were given to the load that rejected them."""
        self._originals = array("q")
        self._places = RowLocations()
        self._places.begin(self._path)
        self.left_out = 0
        lines, journal = lines_and_journal(self._path)
        reader = RejectReader(lines, self.name)
        with _text_errors(self.name):
            for line in journal.lines(rest=True):
                reject = reader.read(line)
                self._check_kind(reject, reader.number)
                if reject is not None and self._retryable_only and not reject.retryable:
                    self.left_out += 1
                elif reject is not None:
                    self._originals.append(reject.number if reject.original is None else reject.original)
                    problem = self._form_problem(reject, reader.number)
                    self._places.note(reader.number, problem)
                    yield Row(len(self._originals), reject.values, problem, reject.made, reject.replaced)

    def _check_kind(self, reject: Reject | None, line: int) -> None:
        """Refuse rows of another kind: rows of a deletion must not create the people that they should delete."""
        if reject is not None and self._kind is not None and reject.kind != self._kind:
            raise SourceError(
                f"{self.name}, row {line} of the file (a header counts) was rejected by a load of {reject.kind}, "
                f"and not of {self._kind}; give kind={reject.kind!r}"
            )

    def original(self, number: int) -> int:
        """The number in the first source of a row of :meth:`rows`."""
        return self._originals[number - 1]

    def place(self, number: int) -> str:
        """Where in the rejects file a row of :meth:`rows` is, for messages."""
        return self._places.place(number)

    def is_malformed(self, number: int) -> bool:
        """Whether the first source could not read a row of :meth:`rows`, and it was not corrected since."""
        return self._places.is_malformed(number)

    def _form_problem(self, reject: Reject, line: int) -> str | None:
        """Why a row is rejected again: its source could not read it, and it was not corrected."""
        if LINE in reject.values or EXTRA in reject.values:
            key = LINE if LINE in reject.values else EXTRA
            what = f"put its values into the columns and remove {key} (in CSV: empty _cells)"
        elif reject.form and reject.form == form_mark(reject.values):
            what = "correct its values"
        else:
            return None
        return (
            f"{self._path}, line {line}: the row does not have the form of its source, as when it was rejected; {what}"
        )


@contextmanager
def _text_errors(name: str) -> Iterator[None]:
    try:
        yield
    except CannotRead as refused:
        raise SourceError(str(refused)) from None
    except UnicodeDecodeError:
        raise SourceError(f"{name} is not UTF-8; save it again in that encoding") from None
