"""The rejects file: written by a load, one line for each rejected row with the reason, and read as a source again."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import blake2b
from typing import Any

from crm_provider.files.journal import Changed
from crm_provider.files.paths import AnyPath, CannotRead, CannotWrite, is_local
from crm_provider.load.rejects.formats import Reject, RejectReader, RejectsFormat, form_mark, lines_and_journal
from crm_provider.load.rejects.samples import MOST_SAMPLES
from crm_provider.load.rows import Row, SourceError
from crm_provider.load.sources.files import EXTRA, LINE, RowLocations

log = logging.getLogger(__name__)


class RowsLost(CannotWrite):
    """Rejected rows are missing from the file, because another process has replaced or changed it."""


class RejectsFile:
    """Written row by row and complete even after a kill. It is created with the first rejected row.

    A run begins with :meth:`start`, or with :meth:`resume` if it continues an earlier try. Each run needs its own file
    name (in Airflow: a template with ``run_id``), because the file of an earlier run is replaced. A file that is not a
    rejects file is never changed.

    An earlier try that Airflow has given up may run on for some seconds and write too, and neither try can know that it
    is the older one. So at its end a try removes no rows, only duplicate lines.

    :param path: a local file grows with each row; on an object store it appears with :meth:`finish`, and until then its
        parts are beside it
    :param format: by default CSV for the suffix ``.csv`` and JSON lines for any other
    :param columns: of the source, in their order; for CSV, by default those of the first rejected row
    :param original: number of a row -> its number in the first source (``RejectedRows.original``)
    :param place: number of a row -> file, line and row, which its message begins with
    :param is_malformed: number of a row -> whether it could not be read; sent again, it is rejected until it is
        corrected
    :raises SourceError: if the format is unknown, or cannot be written row by row
    """

    def __init__(
        self,
        path: AnyPath,
        *,
        format: RejectsFormat | None = None,  # noqa: A002 - the word of everyone who reads files
        columns: Sequence[str] | None = None,
        original: Callable[[int], int] | None = None,
        place: Callable[[int], str] = lambda number: "",
        is_malformed: Callable[[int], bool] = lambda number: False,
    ) -> None:
        self.path = path
        self.count = 0
        """Rows in the file."""
        self.has_unsynced = False
        self.samples: list[Reject] = []
        """The first rejected rows of all tries, for people."""
        self._columns = columns
        self._original = original
        self._place, self._is_malformed = place, is_malformed
        self._lines, self._journal = lines_and_journal(path, format)
        self._forget_lines()

    @classmethod
    def of(cls, path: AnyPath, source: Any, *, format: RejectsFormat | None = None) -> RejectsFile:  # noqa: A002
        """The rejects file of a load, with what the source knows about its rows."""
        known = {name: getattr(source, name) for name in ("original", "place", "is_malformed") if hasattr(source, name)}
        return cls(path, format=format, columns=getattr(source, "header", None) or source.columns, **known)

    @property
    def is_local(self) -> bool:
        return is_local(self.path)

    def start(self) -> None:
        """Start again: remove the file of an earlier run.

        :raises SourceError: if it is not a rejects file
        """
        self._check_own()
        if next(self._journal.lines(), None) is not None:
            log.info("The rejects file of an earlier run is replaced: %s.", self.path)
        self._clear()

    def resume(self, done: Callable[[int], bool]) -> None:
        """Continue the file of an earlier try, without the rows that will be sent again.

        :param done: number of a row -> whether it is not sent again; such rows must have been synced (:meth:`sync`)
            before they were saved as done
        :raises SourceError: if it is not a rejects file
        """
        self._check_own()
        reader = RejectReader(self._lines, self.path.name)
        self._forget_lines()
        kept: set[int] = set()

        def stays(line: str) -> bool:
            reject = reader.read(line)
            if reject is not None:
                if reject.number in kept or not done(reject.number):
                    return False
                kept.add(reject.number)
                self._note(reject)
            self._marks.append(_mark(line))
            return True

        self._journal.keep(stays)
        if not self.count:  # at most a header is left
            self._clear()

    def write(self, reject: Reject) -> None:
        """Add a row. On a local disk it now survives a kill.

        :raises CannotWrite: the row is not in the file
        """
        reject = self._with_place(reject)
        header = None
        if not self.count:
            header = self._header(reject)
        line = self._lines.line(reject)
        self._journal.append(line if header is None else f"{header}\n{line}")  # together: both or neither
        self._marks.extend(_mark(text) for text in (header, line) if text is not None)
        self._note(reject)
        self.has_unsynced = True

    def _note(self, reject: Reject) -> None:
        """Remember a row that is in the file."""
        self._numbers.append(reject.number)
        self.count += 1
        if len(self.samples) < MOST_SAMPLES:
            self.samples.append(reject)

    def _with_place(self, reject: Reject) -> Reject:
        """A reject with what the source knows about its row."""
        number, place = reject.number, self._place(reject.number)
        if self._original is not None:
            reject = replace(reject, original=self._original(number))
        if self._is_malformed(number):  # its message names the place
            return replace(reject, form=form_mark(reject.values))
        return replace(reject, message=f"{place}: {reject.message}") if place else reject

    def sync(self) -> None:
        """Make the rows so far survive a power cut."""
        if self.has_unsynced:
            self._journal.sync()
            self.has_unsynced = False

    def finish(self, rejected: int = 0) -> None:
        """Put all rows under the final name.

        :param rejected: rows that all tries together have rejected
        :raises RowsLost: if the file does not hold them all
        """
        self._journal.sync()
        self._take_stock()
        if (gone := rejected - len(self._numbers)) > 0:  # of earlier tries: rows of another try do not replace them
            raise self._lost(gone)
        self._journal.finish()
        self.has_unsynced = False

    def _take_stock(self) -> None:
        """Make sure that the file holds the rows of this try once, also if another try has written to it."""
        if array("Q", map(_mark, self._journal.lines())) == self._marks:
            return
        key_of, own_marks = self._keys(), set(self._marks)
        keys: set[int | str] = set()
        keys_of_own_lines: set[int | str] = set()
        is_doubled = False
        for line in self._journal.lines():
            key = key_of(line)
            is_doubled |= key in keys
            keys.add(key)
            if _mark(line) in own_marks:
                keys_of_own_lines.add(key)
        if missing := set(self._numbers) - keys:
            raise self._lost(len(missing))
        self.count = sum(isinstance(key, int) for key in keys)
        if is_doubled:
            self._drop_doubled(own_marks, keys_of_own_lines)

    def _drop_doubled(self, own_marks: set[int], keys_of_own_lines: set[int | str]) -> None:
        """Of several lines with the same key, keep the one of this try, else the first."""
        key_of = self._keys()
        kept: set[int | str] = set()

        def stays(line: str) -> bool:
            key = key_of(line)
            if key in kept or (key in keys_of_own_lines and _mark(line) not in own_marks):
                return False
            kept.add(key)
            return True

        try:
            self._journal.keep(stays, undisturbed=True)
        except Changed:
            log.info("Another try still writes to %s; rows that both have rejected stay in it twice.", self.path)
        else:
            log.info("Rows that another try has rejected as well were in %s twice; now each is in it once.", self.path)

    def _keys(self) -> Callable[[str], int | str]:
        """Maps each line in turn to the number of its row, or to itself if it is not a row."""
        reader = RejectReader(self._lines, self.path.name)

        def key_of(line: str) -> int | str:
            try:
                reject = reader.read(line)
            except SourceError:
                return line
            return line if reject is None else reject.number

        return key_of

    def _lost(self, count: int) -> RowsLost:
        return RowsLost(
            str(self.path),
            f"{count} rejected rows that were in it are gone, because another try or program has changed or replaced "
            "it; the next try starts with the first row",
        )

    def _header(self, reject: Reject) -> str | None:
        """The header to write; None if there is one, whose columns are used then, also if another try wrote it."""
        first = next(self._journal.lines(), None)
        if first is None:
            own = [name for name in reject.values if name not in (LINE, EXTRA)]
            return self._lines.header_for(self._columns if self._columns is not None else own)
        RejectReader(self._lines, self.path.name).read(first)
        return None

    def _clear(self) -> None:
        self._journal.clear()
        self._forget_lines()

    def _forget_lines(self) -> None:
        self.count = 0
        self.samples = []
        self._marks = array("Q")
        """Fingerprints of the lines that this try has kept or written."""
        self._numbers = array("q")
        """Numbers of their rows."""

    def _check_own(self) -> None:
        if not self._journal.begins_like(self._lines.begin):
            raise SourceError(
                f"{self.path.name} would be overwritten, but it is no rejects file in this format; remove it, or give "
                "another rejects path"
            )


def _mark(line: str) -> int:
    """A fingerprint of a line, in 8 bytes."""
    return int.from_bytes(blake2b(line.encode(), digest_size=8).digest(), "big")


class NoRejects(SourceError):
    """The rejects file is missing: no row was rejected, or the path is wrong."""


class RejectedRows:
    """A rejects file as the source of a load.

    Its rows are numbered from 1 again, because they may be edited, filtered or reordered. The numbers of the first
    source are kept: :meth:`original`.

    Each row has columns of its own (so ``columns`` is None): those of a list or of JSON lines may differ.

    :param path: of a rejects file, also from a run that was killed
    :param retryable_only: leave out the rows that fail again unless they are corrected
    :raises NoRejects: if the file is missing
    :raises SourceError: if it is not a rejects file; the message names the line
    """

    def __init__(
        self,
        path: AnyPath,
        *,
        retryable_only: bool = False,
        format: RejectsFormat | None = None,  # noqa: A002
    ) -> None:
        self.name = path.name
        self.columns: tuple[str, ...] | None = None
        self._path, self._format, self._retryable_only = path, format, retryable_only
        self.left_out = 0
        """Rows that the last reading left out, because they fail again unless they are corrected."""
        self._originals, self._places = array("q"), RowLocations()
        lines, journal = lines_and_journal(path, format)
        with _text_errors(self.name):
            first = next(journal.lines(rest=True), None)
        if first is None:
            raise NoRejects(f"there is no rejects file {self.name}, or it is empty")
        RejectReader(lines, self.name).read(first)
        self.header = lines.columns()
        """The columns of a CSV file: those of its first row. Other rows may have more."""

    def rows(self) -> Iterator[Row]:
        """The rows as they were given to the load that rejected them."""
        self._originals = array("q")
        self._places = RowLocations()
        self._places.begin(self._path)
        self.left_out = 0
        lines, journal = lines_and_journal(self._path, self._format)
        reader = RejectReader(lines, self.name)
        with _text_errors(self.name):
            for line in journal.lines(rest=True):
                reject = reader.read(line)
                if reject is not None and self._retryable_only and not reject.retryable:
                    self.left_out += 1
                elif reject is not None:
                    self._originals.append(reject.number if reject.original is None else reject.original)
                    problem = self._form_problem(reject, reader.number)
                    self._places.note(reader.number, problem)
                    yield Row(len(self._originals), reject.values, problem, reject.made)

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


def read_rejects(
    path: AnyPath,
    *,
    retryable_only: bool = False,
    format: RejectsFormat | None = None,  # noqa: A002
) -> RejectedRows:
    """The rows of a rejects file, to be loaded again; see :class:`RejectedRows`."""
    return RejectedRows(path, retryable_only=retryable_only, format=format)


@contextmanager
def _text_errors(name: str) -> Iterator[None]:
    try:
        yield
    except CannotRead as refused:
        raise SourceError(str(refused)) from None
    except UnicodeDecodeError:
        raise SourceError(f"{name} is not UTF-8; save it again in that encoding") from None
