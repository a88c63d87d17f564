"""A rejects file as the source of a load: what was rejected, once more."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager

from crm_provider.load.paths import AnyPath
from crm_provider.load.reject_reader import RejectReader, RejectsFormat, lines_and_journal
from crm_provider.load.rows import Row, SourceError


class NoRejects(SourceError):
    """There is no rejects file: no row was rejected, or the path is wrong."""


class RejectedRows:
    """A rejects file as the source of a load.

    Its rows are numbered from 1 anew, for they are another source: edited, filtered, in another order. The numbers that
    they had in the first source of all are kept: see :meth:`original`.

    :param path: of a rejects file, also of one whose run was killed
    :param retryable_only: leave out the rows that fail again unless someone corrects them
    :raises NoRejects: if there is no such file
    :raises SourceError: if it is no rejects file; the text names the line
    """

    def __init__(
        self,
        path: AnyPath,
        *,
        retryable_only: bool = False,
        format: RejectsFormat | None = None,  # noqa: A002
    ) -> None:
        self.name = path.name
        self._path, self._format, self._retryable_only = path, format, retryable_only
        self.left_out = 0
        """Rows that the last reading has left out, because they fail again unless someone corrects them."""
        self._originals = array("q")
        lines, journal = lines_and_journal(path, format)
        with _text_errors(self.name):
            first = next(journal.lines(rest=True), None)
        if first is None:
            raise NoRejects(f"there is no rejects file {self.name}, or it is empty")
        RejectReader(lines, self.name).read(first)
        self.columns = lines.columns()

    def rows(self) -> Iterator[Row]:
        """The rows as they were given to the load that rejected them."""
        self._originals = array("q")
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
                    yield Row(len(self._originals), reject.values, made=reject.made)

    def original(self, number: int) -> int:
        """The number in the first source of all of a row that :meth:`rows` has given."""
        return self._originals[number - 1]


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
    except UnicodeDecodeError:
        raise SourceError(f"{name} is not UTF-8; save it again in that encoding") from None
