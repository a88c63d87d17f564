"""What flows through a load: a row of the source, the record that it becomes, and how it ends."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Container, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from crm_provider.values.addresses import person_key
from crm_provider.values.counted import counted

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class UnreadableValue:
    """A value that Python or a database's driver has no value for, so that only a row that sends it is rejected.

    :param text: as the database wrote it, for the rejects file
    """

    text: str

    def __repr__(self) -> str:
        return "Unreadable(...)"

    def __str__(self) -> str:
        return self.text


class Outcome(str, Enum):
    """How a row ended; each row ends in exactly one way."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    """The CRM has these values already, or the same row was loaded before."""
    SKIPPED = "skipped"
    """Left out on purpose: ``on_error`` said so, or another row of the source has the same email."""
    REJECTED = "rejected"
    """In the rejects file."""
    SUPPRESSED = "suppressed"
    """Left out because the person does not want to be contacted."""
    DELETED = "deleted"


WRITTEN = tuple(outcome for outcome in Outcome if outcome is not Outcome.DELETED)
"""How a row can end that is written to the CRM."""


MEANING: Mapping[Outcome, str] = {
    Outcome.CREATED: "new in the CRM",
    Outcome.UPDATED: "were there, and were changed",
    Outcome.UNCHANGED: "the CRM has these values already, or the same row was loaded before",
    Outcome.SKIPPED: "left out: `on_error` said so, or another row has the same email",
    Outcome.REJECTED: "in the rejects file",
    Outcome.DELETED: "were there, and were deleted",
    Outcome.SUPPRESSED: "left out: the person does not want to be contacted",
}
"""What each outcome means, for people."""

NEVER = ""
"""Meaning of an outcome that a load of this kind never has."""

CHECKED: Mapping[str, str] = {
    "to send": "valid",
    "unchanged": "the same row was loaded before",
    "duplicate": "another row is for the same record",
    "suppressed": "left out: the person does not want to be contacted",
    "skipped": "not valid, and `on_error` says `skip`",
    "cannot be sent": "a real run rejects them",
}
"""What a dry run finds out about a row, and what that means."""


@dataclass(frozen=True)
class EarlierCreation:
    """A record that an earlier attempt to send a row has created, or may have created.

    :param since: time by the CRM's clock after which the attempt was made; None if unknown
    :param certain: whether the record was certainly created
    :param earlier_load: whether another load did: one that rejected the row, or this task before it was cleared
    """

    since: datetime | None = None
    certain: bool = False
    earlier_load: bool = False


class Row(NamedTuple):  # a dataclass takes three times the time, for each row of a source
    """One row of a source, as given.

    :param number: from 1, over all files of the source; it identifies the row
    :param values: column to value; texts from CSV, JSON values or Python values from elsewhere
    :param problem: why the row cannot be used, if its source could not read it properly (a ragged line); it names the
        place, never a value
    :param made: the record that the load that rejected the row may have created; None for rows of any other source
    :param replaced: the mark of the record for which the load that rejected the row took another row; empty if none
    """

    number: int
    values: Mapping[str, Any]
    problem: str | None = None
    made: EarlierCreation | None = None
    replaced: str = ""


new_tuple = tuple.__new__
"""Makes a named tuple of all its values in half of the time of its class: for each row of a source."""


class Record(Protocol):
    """A row in the CRM's terms, ready to be sent, as the engine of a load needs it."""

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Name to JSON value; may be empty."""

    @property
    def key(self) -> str:
        """Identifies the record. Of several rows with one key, one is sent."""

    @property
    def email(self) -> str | None:
        """The person that it concerns, for the suppression list."""

    @property
    def effect(self) -> Any:
        """What is written if the record exists. It is equal for rows that would change nothing. JSON-compatible."""

    @property
    def fixed(self) -> tuple[Any, ...]:
        """All but the attributes; :meth:`restored` makes the record of both."""

    @classmethod
    def restored(cls, attributes: Mapping[str, Any], fixed: tuple[Any, ...]) -> Self: ...


class Contact(NamedTuple):
    """A row in the CRM's terms, ready to be sent.

    :param email: in the case given
    :param attributes: name to JSON value; may be empty
    :param origin: used when the contact is created
    """

    email: str
    attributes: Mapping[str, Any]
    origin: Mapping[str, Any] | None = None

    @property
    def key(self) -> str:
        """Identifies a person, see :func:`~crm_provider.values.addresses.person_key`."""
        return person_key(self.email)

    @property
    def effect(self) -> Any:
        """Without the origin, which matters only for a new contact; one that was loaded before exists."""
        return [self.email, self.attributes]

    @property
    def fixed(self) -> tuple[Any, ...]:
        return self.email, self.origin

    @classmethod
    def restored(cls, attributes: Mapping[str, Any], fixed: tuple[Any, ...]) -> Self:
        email, origin = fixed
        return cls(email, attributes, origin)


UNREADABLE = "cannot be read"
"""The kind of problem of a row that its source could not read. Only its text is not the load's own."""


@dataclass(frozen=True)
class Problem:
    """Invalid fields of a row.

    :param field: the CRM's field, "" for the whole row
    :param column: the source's column, "" for none
    :param kind: equal for the same mistake in every row, so that they can be counted: ``not a phone number``
    :param fix: what to do about it
    """

    field: str
    column: str
    kind: str
    fix: str

    def __str__(self) -> str:
        place = f"{self.field} (column {self.column!r})" if self.column and self.column != self.field else self.field
        return f"{f'{place}: ' if place else ''}{self.kind}; {self.fix}"


class InvalidRow(Exception):
    """A row that cannot become a record, with all its problems and without values.

    :param problems: at least one
    :param key: of the record that the row is for; None if the row does not say it
    """

    def __init__(self, *problems: Problem, key: str | None = None) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems, self.key = problems, key


class SourceError(ValueError):
    """A source or a mapping that cannot be used at all; found before the first row is sent."""


class NoSuchFile(SourceError):
    """A file that does not exist, or not yet: the only problem of a source that may go away."""


class RowLocations:
    """Remembers, for messages, where each row of a source is and which rows could not be read.

    Rows that follow each other at the same distance of lines are kept as one run, because there may be millions.

    :ivar runs: how many runs there are
    """

    def __init__(self) -> None:
        self._files: list[tuple[int, str]] = []
        self._count = 0
        self._last_line = self._distance = 0
        self._first_rows, self._first_lines, self._distances = array("I"), array("I"), array("q")
        """Of each run: its first row, from 1, the line of that row, and lines from one row to the next."""
        self._malformed = array("I")

    @property
    def runs(self) -> int:
        return len(self._first_rows)

    def begin(self, file: object) -> None:
        """Start the rows of another file."""
        self._files.append((self._count, str(file)))

    def note(self, line: int, problem: str | None) -> None:
        """Add a row.

        :param line: its line in the file; 0 for a format without lines
        """
        self._count += 1
        if line - self._last_line != self._distance or not self._first_rows:
            self._begin_run(line)
        self._last_line = line
        if problem is not None:
            self._malformed.append(self._count)

    def _begin_run(self, line: int) -> None:
        """Begin a run, or give the last one its distance if it has only one row."""
        if self._first_rows and self._first_rows[-1] == self._count - 1:
            self._distances[-1] = self._distance = line - self._last_line
            return
        self._distance = 0
        self._first_rows.append(self._count)
        self._first_lines.append(line)
        self._distances.append(0)

    def place(self, number: int) -> str:
        """File, line and row within the file; empty for an unknown row.

        :param number: of the row in the source, from 1
        """
        if not 0 < number <= self._count or not self._files:
            return ""
        first, file = self._files[bisect_right(self._files, number - 1, key=lambda entry: entry[0]) - 1]
        line = self._line(number)
        return f"{file}, line {line} (row {number - first})" if line else f"{file}, row {number - first}"

    def _line(self, number: int) -> int:
        run = bisect_right(self._first_rows, number) - 1
        return self._first_lines[run] + (number - self._first_rows[run]) * self._distances[run]

    def is_malformed(self, number: int) -> bool:
        """Whether a row could not be read."""
        n = bisect_left(self._malformed, number)
        return n < len(self._malformed) and self._malformed[n] == number


STREAM = "__arrow_c_stream__"
"""The method that identifies a table: the Arrow PyCapsule interface."""


def is_table(source: Any) -> bool:
    """Whether an object supports Arrow's C stream."""
    return hasattr(type(source), STREAM)


def rows_text(number: int) -> str:
    """A number of rows, for people.

    >>> rows_text(1), rows_text(1200)
    ('1 row', '1,200 rows')
    """
    return "1 row" if number == 1 else f"{number:,} rows"


def calls_text(number: int) -> str:
    """A number of calls, for people.

    >>> calls_text(1), calls_text(1200)
    ('1 call', '1,200 calls')
    """
    return "1 call" if number == 1 else f"{number:,} calls"


def done_to_rows(outcomes: Container[str]) -> str:
    """What a load does to records: ``deleted``, or ``written``.

    :param outcomes: the ways in which a row can end
    """
    return "deleted" if Outcome.DELETED.value in outcomes else "written"


def unsure_text(number: int, outcomes: Container[str]) -> str:
    """Rows that are left and may have been done, for people.

    >>> unsure_text(2, ["created", "updated", "rejected"])
    'up to 2 may have been written'

    :param outcomes: the ways in which a row can end
    """
    return f"up to {number:,} may have been {done_to_rows(outcomes)}"


def as_they_are(number: int) -> str:
    """Rejected rows that need no correction, for people.

    >>> as_they_are(2)
    '2 rows may succeed as they are'
    """
    return f"{rows_text(number)} may succeed as {'it is' if number == 1 else 'they are'}"


def how_to_resend(retryable: int, others: int) -> str:
    """How to send rejected rows again, for people.

    >>> how_to_resend(0, 7)
    'Correct 7 rows in the file, then send them with CrmRetryRejectsOperator(only="all").'

    :param retryable: how many may succeed as they are
    :param others: how many must be corrected first
    """
    texts = []
    if retryable:
        texts.append(f"{as_they_are(retryable)}: CrmRetryRejectsOperator sends {'it' if retryable == 1 else 'them'}.")
    if others:
        it = "it" if others == 1 else "them"
        texts.append(
            f'Correct {rows_text(others)} in the file, then send {it} with CrmRetryRejectsOperator(only="all").'
        )
    return " ".join(texts)


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(20000)
    '5 h 33 min'
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min"


def more_kinds(number: int) -> str:
    """The kinds of problems that are not shown, for people."""
    return counted(number, "more kind of problem", "more kinds of problems")
