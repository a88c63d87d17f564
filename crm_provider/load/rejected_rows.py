"""A rejects file as the source of a load: what was rejected, once more."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager

from crm_provider.files.paths import AnyPath, CannotRead
from crm_provider.load.reject_lines import Reject, form_mark
from crm_provider.load.reject_reader import RejectReader, RejectsFormat, lines_and_journal
from crm_provider.load.rows import Row, SourceError
from crm_provider.load.source_files import EXTRA, LINE, Places


class NoRejects(SourceError):
    """There is no rejects file: no row was rejected, or the path is wrong."""


class RejectedRows:
    """A rejects file as the source of a load.

    Its rows are numbered from 1 anew, for they are another source: edited, filtered, in another order. The numbers that
    they had in the first source of all are kept: see :meth:`original`.

    Each row has columns of its own (so ``columns`` is None): those of a list or of JSON lines may differ.

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
        self.columns: tuple[str, ...] | None = None
        self._path, self._format, self._retryable_only = path, format, retryable_only
        self.left_out = 0
        """Rows that the last reading has left out, because they fail again unless someone corrects them."""
        self._originals, self._places = array("q"), Places()
        lines, journal = lines_and_journal(path, format)
        with _text_errors(self.name):
            first = next(journal.lines(rest=True), None)
        if first is None:
            raise NoRejects(f"there is no rejects file {self.name}, or it is empty")
        RejectReader(lines, self.name).read(first)
        self.header = lines.columns()
        """The columns of a file in CSV: those of its first row. Others may have more."""

    def rows(self) -> Iterator[Row]:
        """The rows as they were given to the load that rejected them."""
        self._originals = array("q")
        self._places = Places()
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
        """The number in the first source of all of a row that :meth:`rows` has given."""
        return self._originals[number - 1]

    def place(self, number: int) -> str:
        """Where in the rejects file a row of :meth:`rows` is, for messages."""
        return self._places.place(number)

    def is_malformed(self, number: int) -> bool:
        """Whether a row of :meth:`rows` could not be read by its first source, and was not corrected since."""
        return self._places.is_malformed(number)

    def _form_problem(self, reject: Reject, line: int) -> str | None:
        """Why a row is rejected again: its source could not read it, and it is as it was."""
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
