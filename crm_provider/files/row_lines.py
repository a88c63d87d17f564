"""A journal with one line for each row of a load, by the number of the row: each row once, even after a kill."""

from __future__ import annotations

import abc
import logging
from array import array
from collections.abc import Callable
from hashlib import blake2b

from crm_provider.files.journal import FileChanged, Journal
from crm_provider.files.paths import AnyPath, CannotWrite, is_local

log = logging.getLogger(__name__)

ReadNumber = Callable[[str], "int | None"]
"""Maps the lines of a file, in their order, to the numbers of their rows; None for an empty line or a header."""


class RowsLost(CannotWrite):
    """Rows are missing from the file, because another process has replaced or changed it."""


NUMBERS_AT_ONCE = 1 << 16
"""Row numbers of one piece of a bitmap."""


class RowNumbers:
    """A set of row numbers with a bit for each, so that ten million take little more than a megabyte.

    It is a bitmap in pieces: one number, however large, takes one piece.
    """

    def __init__(self) -> None:
        self._pieces: dict[int, bytearray] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, number: int) -> bool:
        """Add a number.

        :return: whether it is new
        """
        piece, place = divmod(number, NUMBERS_AT_ONCE)
        bits = self._pieces.get(piece)
        if bits is None:
            bits = self._pieces[piece] = bytearray(NUMBERS_AT_ONCE // 8)
        byte, bit = place >> 3, 1 << (place & 7)
        if bits[byte] & bit:
            return False
        bits[byte] |= bit
        self._count += 1
        return True

    def __contains__(self, number: int) -> bool:
        piece, place = divmod(number, NUMBERS_AT_ONCE)
        return piece in self._pieces and bool(self._pieces[piece][place >> 3] & 1 << (place & 7))


class RowLines(abc.ABC):
    """Written row by row and complete even after a kill. The file is created with the first row.

    A run begins with :meth:`start`, or with :meth:`resume` if it continues an earlier try. Each run needs its own file
    name (in Airflow: a template with ``run_id``), because the file of an earlier run is replaced.

    An earlier try that Airflow has given up may still write for some seconds, and neither try can know that it is the
    older one. So at its end a try removes no rows, only duplicate lines.

    :param path: a local file grows with each row; on an object store it appears with :meth:`finish`, and until then its
        parts are beside it
    """

    title = "file"
    rows_are = "rows"
    _marks: array[int]

    def __init__(self, path: AnyPath, journal: Journal) -> None:
        self.path = path
        self.count = 0
        """Rows in the file."""
        self.has_unsynced = False
        self._journal = journal
        self._forget_lines()

    @abc.abstractmethod
    def check_own(self) -> None:
        """Make sure that the file may be replaced.

        :raises ValueError: if it was written by something else
        """

    @abc.abstractmethod
    def number_reader(self) -> ReadNumber:
        """A reader of the lines, from the first line. It raises ``ValueError`` for a line of another program."""

    @property
    def is_local(self) -> bool:
        return is_local(self.path)

    @property
    def numbers(self) -> RowNumbers:
        """The rows that this try has kept or written."""
        found = RowNumbers()
        for number in self._numbers:
            found.add(number)
        return found

    def start(self) -> None:
        """Start again: remove the file of an earlier run.

        :raises ValueError: if it was written by something else
        """
        self.check_own()
        if next(self._journal.lines(), None) is not None:
            log.info("The %s of an earlier run is replaced: %s.", self.title, self.path)
        self.clear()

    def missing(self, wanted: int, done: Callable[[int], bool]) -> int:
        """The number of lost rows of earlier tries, for example because a pod's disk was deleted.

        :param wanted: rows that earlier tries have written
        :param done: number of a row -> whether it is one of those
        :raises ValueError: if the file was written by something else
        """
        if not wanted:
            return 0
        self.check_own()
        found = RowNumbers()
        for number in map(self.number_reader(), self._journal.lines()):
            if number is not None and done(number):
                found.add(number)
        return max(wanted - len(found), 0)

    def resume(self, done: Callable[[int], bool]) -> None:
        """Continue the file of an earlier try, without the rows that will be sent again.

        :param done: number of a row -> whether it is not sent again; such rows must have been synced (:meth:`sync`)
            before they were saved as done
        :raises ValueError: if it was written by something else
        """
        self.check_own()
        number_of = self.number_reader()
        self._forget_lines()
        kept = RowNumbers()

        def stays(line: str) -> bool:
            number = number_of(line)
            if number is not None:
                if not done(number) or not kept.add(number):
                    return False
                self._numbers.append(number)
                self.count += 1
            self._marks.append(_mark(line))
            return True

        self._journal.keep(stays)
        if not self.count:  # at most a header remains
            self._empty()

    def add(self, number: int, line: str, header: str | None = None) -> None:
        """Add the line of a row. On a local disk it now survives a kill.

        :param header: to be written before it
        :raises CannotWrite: the row is not in the file
        """
        self._journal.append(line if header is None else f"{header}\n{line}")  # together: both or neither
        self._marks.extend(_mark(text) for text in (header, line) if text is not None)
        self._numbers.append(number)
        self.count += 1
        self.has_unsynced = True

    def rewrite(self, changes: Callable[[], Callable[[str], str]]) -> None:
        """Change lines in place; the file is replaced in one step, and only if a line changes.

        :param changes: makes the function that changes each line in turn, from the first on
        """
        self._journal.sync()
        change, changed = changes(), dict[int, int]()
        for line in self._journal.lines():
            if (new := change(line)) != line:
                changed[_mark(line)] = _mark(new)
        if not changed:
            return
        try:
            self._journal.keep(lambda line: True, change=changes(), undisturbed=True)
        except FileChanged:
            log.info("Another try still writes to %s; its lines stay as they are.", self.path)
        else:
            self._marks = array("Q", (changed.get(mark, mark) for mark in self._marks))

    def sync(self) -> None:
        """Make the rows so far survive a power cut."""
        if self.has_unsynced:
            self._journal.sync()
            self.has_unsynced = False

    def finish(self, wanted: int = 0) -> None:
        """Put all rows under the final name.

        :param wanted: rows that all tries together have written
        :raises RowsLost: if the file does not hold them all
        """
        self._journal.sync()
        self._take_stock()
        if (gone := wanted - len(self._numbers)) > 0:  # of earlier tries: rows of another try do not replace them
            raise self.lost(gone)
        self._journal.finish()
        self.has_unsynced = False

    def clear(self) -> None:
        """Remove the file."""
        self._empty()

    def _empty(self) -> None:
        self._journal.clear()
        self._forget_lines()

    def lost(self, count: int) -> RowsLost:
        """The error for rows that are missing."""
        return RowsLost(
            str(self.path),
            f"{count} {self.rows_are} are no longer in it, because another try or program has changed or replaced "
            "it; the next try starts with the first row",
        )

    def _take_stock(self) -> None:
        """Make sure that the file holds each row of this try once, even if another try has written to it."""
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
            raise self.lost(len(missing))
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
        except FileChanged:
            log.info("Another try still writes to %s; rows that both wrote stay in it twice.", self.path)
        else:
            log.info("Another try wrote some of the same rows to %s; the duplicates were removed.", self.path)

    def _keys(self) -> Callable[[str], int | str]:
        """Maps each line in turn to the number of its row, or to itself if it is not a row."""
        number_of = self.number_reader()

        def key_of(line: str) -> int | str:
            try:
                number = number_of(line)
            except ValueError:
                return line
            return line if number is None else number

        return key_of

    def _forget_lines(self) -> None:
        self.count = 0
        self._marks = array("Q")
        """Fingerprints of the lines that this try has kept or written."""
        self._numbers = array("q")
        """Numbers of their rows."""


def _mark(line: str) -> int:
    """A fingerprint of a line, in 8 bytes."""
    return int.from_bytes(blake2b(line.encode(), digest_size=8).digest(), "big")
