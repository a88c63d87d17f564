"""The check before the first write: read, map and stage every row, and count all problems at once."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NoReturn, Protocol

from crm_provider.load.mapping.columns import NullWords, has_column, key_value
from crm_provider.load.options import TAKEN_ROW, LoadOptions
from crm_provider.load.rows import InvalidRow, Problem, Record, Row, SourceError, more_kinds, rows_text
from crm_provider.load.sources.options import look_like_values
from crm_provider.load.sources.source import Source
from crm_provider.load.state.temp_tables import BETWEEN, INVALID, UNSENDABLE, RowStatus, StagedRows, record_mark
from crm_provider.load.workers import Cancelled, CancelToken
from crm_provider.values.redaction import WIDTH, for_log, wrapped
from crm_provider.values.suggest import did_you_mean

log = logging.getLogger(__name__)

SHOWN_PROBLEMS = 20
"""Kinds of problems that are listed, the most frequent first."""


class RowMapper(Protocol):
    """Maps a row to a record."""

    def check_columns(self, columns: tuple[str, ...]) -> None: ...

    def as_data(self) -> Any: ...

    def __call__(self, row: Row) -> Record: ...


@dataclass(frozen=True)
class Preflight:
    """The result of the check.

    :param staged: all rows, mapped, each with its status
    :param counts: rows by status
    :param problems: problem -> number of rows; no text holds a value
    :param fingerprint: of the input; it is equal for equal rows, mapping and options
    :param places: problem -> its first place: file, line and row
    :param notes: warnings about rows for the same record as rejected ones, for log and report
    """

    staged: StagedRows
    counts: Counter[RowStatus]
    problems: Mapping[str, int]
    fingerprint: str
    places: Mapping[str, str] = field(default_factory=dict)
    rows: int = 0
    notes: tuple[str, ...] = ()

    @property
    def unsendable(self) -> int:
        """Rows that are rejected without a call."""
        return sum(self.counts[status] for status in UNSENDABLE)

    def as_found(self, *, skips_invalid: bool = False) -> dict[str, int]:
        """Rows by what would happen to them, for a dry run."""
        skipped = sum(self.counts[status] for status in INVALID) if skips_invalid else 0
        return {
            "to send": self.counts[RowStatus.SEND],
            "unchanged": self.counts[RowStatus.SAME],
            "duplicate": self.counts[RowStatus.DUPLICATE] + self.counts[RowStatus.REPLACED],
            "suppressed": self.counts[RowStatus.SUPPRESSED],
            **({"skipped": skipped} if skips_invalid else {}),
            "cannot be sent": self.unsendable - skipped,
        }

    def problem_lines(self) -> list[str]:
        """The problems for people, the most frequent first."""
        common = sorted(self.problems.items(), key=lambda item: (-item[1], item[0]))
        lines = [f"{rows_text(count)}: {problem}{self._place(problem)}" for problem, count in common[:SHOWN_PROBLEMS]]
        if len(common) > SHOWN_PROBLEMS:
            lines.append(f"... and {more_kinds(len(common) - SHOWN_PROBLEMS)}")
        return lines

    def _place(self, problem: str) -> str:
        place = self.places.get(problem, "")
        return f" (first: {place})" if place and place.partition(" (row")[0] not in problem else ""


def check(
    source: Source,
    mapper: RowMapper,
    options: LoadOptions,
    *,
    suppressed: Callable[[str], bool] | None = None,
    unchanged: Callable[[Record], bool] | None = None,
    cancel_token: CancelToken | None = None,
    keys: Sequence[str] = (),
) -> Preflight:
    """Read, map and stage all rows, and log what was found.

    :param suppressed: whether an email must not be written to; None if there is no suppression list
    :param unchanged: whether a record was loaded before with the same values; None to send every row
    :param keys: columns, or fields of the mapping, that the outcomes of all rows are to show, also of those that are
        not sent
    :raises SourceError: if the source or the mapping cannot be used; the text names the place. With
        ``on_invalid="stop"`` also if a row cannot be sent, with all problems at once
    :raises Cancelled: if the load was cancelled
    """
    _check_columns(source, mapper)
    _check_keys(source, keys, _key_columns(mapper, keys))
    place, staged = getattr(source, "place", lambda number: ""), StagedRows()
    try:
        rows, decide = _rows_of(source, cancel_token), partial(_status, suppressed, unchanged)
        preflight = _stage(rows, mapper, options, staged, decide=decide, keys=keys, place=place)
        _log_findings(source.name, preflight, options, getattr(mapper, "sends", ""))
        if options.on_invalid == "stop" and not options.dry_run and preflight.unsendable:
            _refuse(preflight, options)
    except BaseException:
        staged.close()
        raise
    return preflight


def _status(
    suppressed: Callable[[str], bool] | None, unchanged: Callable[[Record], bool] | None, row: Row, record: Record
) -> RowStatus:
    """What happens to a valid row, apart from the other rows of the source."""
    if suppressed is not None and record.email is not None and suppressed(record.email):
        return RowStatus.SUPPRESSED
    if row.replaced and row.replaced == record_mark(record.key):
        return RowStatus.REPLACED
    return RowStatus.SAME if unchanged is not None and unchanged(record) else RowStatus.SEND


def _key_columns(mapper: RowMapper, keys: Sequence[str]) -> Mapping[str, str]:
    """The columns of the fields of the mapping, if outcomes are to show keys."""
    return getattr(mapper, "field_columns", {}) if keys else {}


def _stage(
    rows: Iterable[Row],
    mapper: RowMapper,
    options: LoadOptions,
    staged: StagedRows,
    *,
    decide: Callable[[Row, Record], RowStatus],
    keys: Sequence[str],
    place: Callable[[int], str],
) -> Preflight:
    """Map and stage all rows.

    :param decide: what happens to a valid row
    :param place: number of a row -> file, line and row, for messages
    """
    problems, words, columns = _Problems(), NullWords(), getattr(mapper, "columns", None)
    digest, fields = InputDigest(_options_text(mapper, options, keys)), _key_columns(mapper, keys)
    for given in rows:
        row, text = digest.add(given)
        try:
            record = mapper(row)
        except InvalidRow as invalid:
            problems.count(invalid, place(row.number) or f"row {row.number:,}")
            staged.add_invalid(row, str(invalid), invalid.key, place)
            continue
        if columns is None:
            words.note(record.attributes, record.attributes)
        else:
            words.note(row.values, columns)
        status = decide(row, record)
        if status is RowStatus.SUPPRESSED:
            shown = {name: value for name in keys if (value := key_value(row.values, name, fields)) is not None}
            staged.add(Row(row.number, shown), status)
        else:
            # a replaced row takes no part in the choice among the rows for one record
            staged.add(row, status, None if status is RowStatus.REPLACED else record, text=text, place=place)
    staged.mark_duplicates(options.duplicates)
    if (warning := words.warning()) is not None:
        log.warning("%s", for_log(warning))
    counts = staged.counts()
    return Preflight(
        staged, counts, problems.as_data(), digest.as_text(), problems.places(), sum(counts.values()),
        notes=tuple(_notes(staged, counts, options)),
    )  # fmt: skip


def _notes(staged: StagedRows, counts: Counter[RowStatus], options: LoadOptions) -> Iterator[str]:
    """What the user should know about rows that are for the same record as rejected ones; without values."""
    if options.on_invalid != "stop" and (counts[RowStatus.INVALID] or counts[RowStatus.STALE]):
        other = f"{TAKEN_ROW[options.duplicates]} for the same record"
        if (number := counts[RowStatus.STALE]) and not options.skips_invalid:
            it = "it" if number == 1 else "them"
            yield (
                f"{rows_text(number)} cannot be sent, and {other} is valid: once that one is loaded, a resend of the "
                f"rejects leaves {it} out."
            )
        if number := staged.count_overtaken(options.duplicates):
            yield f"{rows_text(number)} {'is' if number == 1 else 'are'} sent although {other} cannot be sent."
    if number := counts[RowStatus.REPLACED]:
        one = number == 1
        yield (
            f"{rows_text(number)} {'is' if one else 'are'} left out: the load that rejected {'it' if one else 'them'} "
            "took another row for the same record."
        )


def _log_findings(name: str, preflight: Preflight, options: LoadOptions, sends: str) -> None:
    counts = preflight.counts
    others = {
        "unchanged since the last load": counts[RowStatus.SAME],
        f"skipped because {TAKEN_ROW[options.duplicates]} has the same {options.shared}": counts[RowStatus.DUPLICATE],
        "suppressed": counts[RowStatus.SUPPRESSED],
        "that cannot be sent": preflight.unsendable,
    }
    found = "".join(f", {number} {what}" for what, number in others.items() if number)
    lines = [f"{counts[RowStatus.SEND]} to send{found}.", *([f"Sends: {sends}"] if sends else [])]
    text = "\n".join(wrapped(line) if len(line) > WIDTH else line for line in lines)
    log.info("Checked %s. Rows: %d.\n%s", name, preflight.rows, text)
    for text in (*preflight.problem_lines(), *preflight.notes):
        log.warning("%s", for_log(text))


def _refuse(preflight: Preflight, options: LoadOptions) -> NoReturn:
    """End a load before its first write, because the user wants all rows or none."""
    ambiguous = preflight.counts[RowStatus.AMBIGUOUS]
    doubled = f"{rows_text(ambiguous)}: another row has the same {options.shared}"
    lines = preflight.problem_lines() + [doubled] * bool(ambiguous)
    problems = "".join(f"\n- {line}" for line in lines)
    raise SourceError(
        f"{preflight.unsendable:,} of {rows_text(preflight.rows)} cannot be sent; nothing was sent "
        f"(on_invalid='stop'):{problems}"
    )


def _check_columns(source: Source, mapper: RowMapper) -> None:
    """Check that the source, or each of its files, has the columns that the mapping needs.

    :raises SourceError: with all problems; it names the first file that lacks a column
    """
    if source.columns is not None:
        mapper.check_columns(source.columns)
    for file, columns in source.tables() if hasattr(source, "tables") else ():
        try:
            mapper.check_columns(columns)
        except SourceError as wrong:
            raise SourceError(f"{file}: {wrong}") from None


def _check_keys(source: Source, keys: Sequence[str], fields: Mapping[str, str]) -> None:
    """Check that the source, or each of its files, has the columns that the outcomes are to show.

    :param fields: what the mapping reads; it was checked before
    :raises SourceError: naming the first that is missing, and the nearest one
    """
    if not keys:
        return
    for file, columns in source.tables() if hasattr(source, "tables") else [(source.name, source.columns)]:
        if columns is not None:
            _check_has([name for name in keys if name not in fields], columns, file)


def _check_has(keys: Sequence[str], columns: tuple[str, ...], file: str) -> None:
    for name in keys:
        if not has_column(columns, name):
            close = "" if look_like_values(columns, keys) else did_you_mean(name, columns)
            raise SourceError(f"outcome_keys: {file} has no column {name!r}. {close}".rstrip())


def _rows_of(source: Source, cancel_token: CancelToken | None) -> Iterator[Row]:
    for number, row in enumerate(source.rows(), start=1):
        if row.number != number:
            raise SourceError(f"{source.name} numbers its rows wrongly: {row.number} instead of {number}")
        if cancel_token is not None and cancel_token.is_set:
            raise Cancelled
        yield row


_HASHED_AT_ONCE = 1 << 14
"""Characters of texts that are hashed together."""


class InputDigest:
    """The fingerprint of the input: equal for equal rows in the same order, different for any others.

    Rows of texts are hashed as their number and their texts, with a separator after each; as many columns as were
    hashed before them make a row. A row with a separator in a text, other values or a problem is hashed as Python
    writes it, and begins with a bracket.

    :param options: what else decides what is sent
    """

    def __init__(self, options: bytes) -> None:
        self._hash = hashlib.sha256(options)
        self._names: tuple[Any, ...] = ()
        self._texts: list[str] = []
        """Of rows that are not hashed yet."""
        self._size = 0

    def add(self, row: Row) -> tuple[Row, str | None]:
        """Add a row.

        :return: the row as it is to be used, see :func:`without_views`, and its values as one text; None if they are
            not only texts, or a text has a separator
        """
        values, text = row.values, None
        if (names := tuple(values)) != self._names:
            self._flush()
            self._names = names
            self._update(f"columns {names!r}")
        try:
            text = BETWEEN.join(values.values())
        except TypeError:  # not only texts
            row = without_views(row)
        else:
            text = text if text.count(BETWEEN) == len(names) - 1 else None
        if text is not None and row.problem is None and not row.replaced:
            self._texts.append(text)
            self._size += len(text)
            if self._size > _HASHED_AT_ONCE:
                self._flush()
        else:
            self._flush()
            self._update(repr((row.problem, *row.values.values(), *([row.replaced] if row.replaced else []))))
        return row, text

    def as_text(self) -> str:
        """The fingerprint of the rows so far."""
        self._flush()
        return self._hash.hexdigest()[:32]

    def _flush(self) -> None:
        texts, self._texts, self._size = self._texts, [], 0
        if texts:
            self._update(f"{len(texts)} rows: {BETWEEN.join(texts)}{BETWEEN}")

    def _update(self, text: str) -> None:
        self._hash.update(text.encode("utf-8", "surrogatepass"))


_VIEWS = frozenset((memoryview, bytearray))


def without_views(row: Row) -> Row:
    """A row with bytes in place of views of a driver's memory (psycopg returns them), which cannot be stored."""
    if _VIEWS.isdisjoint(map(type, row.values.values())):
        return row
    plain = {n: bytes(v) if isinstance(v, (memoryview, bytearray)) else v for n, v in row.values.items()}
    return row._replace(values=plain)


class _Problems:
    """Counts problems by kind. The first of a kind represents all of them, because its fix may name a line."""

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


def _options_text(mapper: RowMapper, options: LoadOptions, keys: Sequence[str]) -> bytes:
    data = [mapper.as_data(), *options.decisive]
    return json.dumps(data, sort_keys=True, default=str).encode() + (repr(tuple(keys)).encode() if keys else b"")
