"""Before the first write: read every row, map it, and count what is wrong, all at once."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from crm_provider.load.mapping.columns import NullWords
from crm_provider.load.options import LoadOptions
from crm_provider.load.rows import Contact, InvalidRow, Problem, Row, SourceError
from crm_provider.load.sources.source import Source
from crm_provider.load.state.temp_tables import RowStatus, StagedRows, without_views
from crm_provider.load.workers import Cancelled, CancelToken

log = logging.getLogger(__name__)

SHOWN_PROBLEMS = 20
"""Kinds of problems that are listed; the commonest first."""


class RowMapper(Protocol):
    """From a row to a contact."""

    def check_columns(self, columns: tuple[str, ...]) -> None: ...

    def as_data(self) -> Any: ...

    def __call__(self, row: Row) -> Contact: ...


@dataclass(frozen=True)
class Preflight:
    """What the check has found.

    :param work: all rows, with what is to become of each
    :param problems: what is wrong -> in how many rows; no text holds a value
    :param fingerprint: of the input: the same rows, mapping and options have the same
    """

    work: StagedRows
    problems: Mapping[str, int]
    fingerprint: str
    places: Mapping[str, str] = field(default_factory=dict)
    """What is wrong -> where it is for the first time: file, line and row."""

    @property
    def rows(self) -> int:
        return len(self.work)

    @property
    def to_send(self) -> int:
        return self.work.count(RowStatus.SEND)

    @property
    def invalid(self) -> int:
        return self.work.count(RowStatus.INVALID)

    def problem_lines(self) -> list[str]:
        """The problems for people, the commonest first."""
        common = sorted(self.problems.items(), key=lambda item: (-item[1], item[0]))
        lines = [f"{count:,} row(s): {problem}{self._place(problem)}" for problem, count in common[:SHOWN_PROBLEMS]]
        if len(common) > SHOWN_PROBLEMS:
            lines.append(f"... and {len(common) - SHOWN_PROBLEMS} more kinds of problems")
        return lines

    def _place(self, problem: str) -> str:
        place = self.places.get(problem, "")
        return f" (first: {place})" if place and place.partition(" (row")[0] not in problem else ""


def check(
    source: Source,
    mapper: RowMapper,
    options: LoadOptions,
    *,
    suppressed: Callable[[str], bool] = lambda email: False,
    unchanged: Callable[[Contact], bool] = lambda contact: False,
    interrupt: CancelToken | None = None,
) -> Preflight:
    """Read and map all rows.

    :param suppressed: whether an email must not be written to
    :param unchanged: whether a contact was loaded before with the same values
    :raises SourceError: if the source or the mapping cannot be used; the text names the place
    :raises Interrupted: if the load was told to stop
    """
    _check_columns(source, mapper)
    place: Callable[[int], str] = getattr(source, "place", lambda number: "")
    work, problems, words = StagedRows(), _Problems(), NullWords()
    digest, columns = hashlib.sha256(_options_text(mapper, options)), getattr(mapper, "columns", None)
    try:
        for row in _rows_of(source, interrupt):
            digest.update(repr((row.problem, list(row.values.items()))).encode(errors="surrogatepass"))
            try:
                contact = mapper(row)
            except InvalidRow as invalid:
                problems.count(invalid, place(row.number))
                work.add(row, RowStatus.INVALID)
                continue
            words.note(*((contact.attributes, contact.attributes) if columns is None else (row.values, columns)))
            if suppressed(contact.email):
                work.add(row, RowStatus.SUPPRESSED)
            else:
                work.add(row, RowStatus.SAME if unchanged(contact) else RowStatus.SEND, contact.key)
        work.settle_duplicates(options.duplicates)
        if (warning := words.warning()) is not None:
            log.warning("%s", warning)
    except BaseException:
        work.close()
        raise
    return Preflight(work, problems.as_data(), digest.hexdigest()[:32], problems.places())


def _check_columns(source: Source, mapper: RowMapper) -> None:
    """Whether the source has the columns that the mapping needs; of several files each.

    :raises SourceError: with all that is wrong; of several files it names the first one that lacks a column
    """
    if source.columns is not None:
        mapper.check_columns(source.columns)
    for file, columns in source.tables() if hasattr(source, "tables") else ():
        try:
            mapper.check_columns(columns)
        except SourceError as wrong:
            raise SourceError(f"{file}: {wrong}") from None


def _rows_of(source: Source, interrupt: CancelToken | None) -> Iterator[Row]:
    for number, row in enumerate(source.rows(), start=1):
        if row.number != number:
            raise SourceError(f"{source.name} numbers its rows wrongly: {row.number} comes in place of {number}")
        if interrupt is not None and interrupt.is_set:
            raise Cancelled
        yield without_views(row)


class _Problems:
    """Counts problems by their kind; the first of a kind stands for all, for its fix may name a line."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._examples: dict[tuple[str, str, str], Problem] = {}
        self._places: dict[tuple[str, str, str], str] = {}
        self._vary: set[tuple[str, str, str]] = set()

    def count(self, invalid: InvalidRow, place: str = "") -> None:
        for problem in invalid.problems:
            key = (problem.field, problem.column, problem.kind)
            self._counts[key] += 1
            self._places.setdefault(key, place)
            if self._examples.setdefault(key, problem).fix != problem.fix:
                self._vary.add(key)

    def as_data(self) -> dict[str, int]:
        return {self._text(key): count for key, count in self._counts.items()}

    def places(self) -> dict[str, str]:
        return {self._text(key): place for key, place in self._places.items()}

    def _text(self, key: tuple[str, str, str]) -> str:
        example = self._examples[key]
        return str(replace(example, fix=f"for example: {example.fix}") if key in self._vary else example)


def _options_text(mapper: RowMapper, options: LoadOptions) -> bytes:
    """What else decides what is sent; a plan, for example, does not."""
    data = [mapper.as_data(), options.mode, options.duplicates, sorted(options.list_ids), options.resubscribe]
    return json.dumps(data, sort_keys=True, default=str).encode()


def stop_if_invalid(found: Preflight, options: LoadOptions) -> None:
    """End before the first write, if the user wants all rows or none.

    :raises SourceError: with all problems at once
    """
    ambiguous = found.work.count(RowStatus.AMBIGUOUS)
    if options.on_invalid == "stop" and found.invalid + ambiguous:
        lines = found.problem_lines() + [f"{ambiguous:,} row(s): another row has the same email"] * bool(ambiguous)
        problems = "".join(f"\n- {line}" for line in lines)
        raise SourceError(
            f"{found.invalid + ambiguous:,} of {found.rows:,} rows cannot be sent, and nothing was "
            f"(on_invalid='stop'):{problems}"
        )
