"""The mapping of a load: converts each row to a record, here a contact. Its lines are compiled once.

::

    Mapper(
        {
            "email": "E-mail",
            "name": "Nome",
            "phone": {"column": "Telefone", "type": "phone", "region": "BR"},
            "birthday": {"column": "Nascimento", "type": "date", "format": "%d/%m/%Y", "empty": "clear"},
            "attributes.crm.tier": {"column": "Nivel", "default": "standard"},
            "origin.utmSource": {"constant": "warehouse"},
        }
    )
"""

from __future__ import annotations

import abc
import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any, Generic, TypeVar
from unicodedata import normalize

from crm_provider.client import validation
from crm_provider.load.mapping.columns import has_column
from crm_provider.load.mapping.fields import (
    EMPTIES,
    FORMULA_SIGNS,
    LEFT_OUT,
    ContactDefaults,
    Defaults,
    Empty,
    Field,
    Section,
    Target,
    check_names,
    column_field,
    field_of,
    nested_field,
    target_of,
)
from crm_provider.load.rows import UNREADABLE, Contact, InvalidRow, Problem, Record, Row, SourceError, new_tuple
from crm_provider.load.sources.options import HeaderLine, is_nameless, look_like_values, shared_name
from crm_provider.values.addresses import person_key
from crm_provider.values.json_values import ConversionError
from crm_provider.values.suggest import nearest, unknown

log = logging.getLogger(__name__)

EMAIL = "email"

KEPT_PLANS = 256
"""Sets of columns that are cached without a mapping: rows of JSON lines may differ in their columns."""

SHOWN_COLUMNS = 20
"""Columns of the source, and fields of a section, that a message lists."""

SECTION_WORDS = {Section.EMAIL: "", Section.FIELDS: "", Section.ATTRIBUTES: "attributes", Section.ORIGIN: "origin"}
"""What a message calls the fields of each section, in its order."""


R = TypeVar("R", bound=Record)


class RecordMapper(abc.ABC, Generic[R]):
    """Maps rows to records; a subclass knows the fields of its kind.

    :param mapping: field of the CRM -> column, or a mapping with ``column`` and ``type``, ``empty``, ``default``,
        ``optional`` and the options of the type, or ``{"constant": value}``; None: the names of the columns decide
    :param defaults: for lines that do not have their own
    :raises SourceError: naming the field, the problem and the nearest valid choice
    """

    def __init__(self, mapping: Mapping[str, Any] | None, defaults: Defaults) -> None:
        if defaults.empty not in EMPTIES:
            raise SourceError(unknown("empty", defaults.empty, EMPTIES))
        self._defaults = defaults
        self._plan = None if mapping is None else Steps(self._compiled(mapping))
        self._plans: dict[tuple[Any, ...], Steps] = {}
        self._last_columns: tuple[Any, ...] = ()
        self._last_plan: Steps | None = None
        """Without a mapping: the columns of the last row, if none of them is nested, and their plan."""
        self._logged: set[str] = set()
        self._seen: dict[Target, None] = {}
        """Without a mapping: the fields of all rows so far."""

    @abc.abstractmethod
    def _compiled(self, mapping: Any) -> tuple[Field, ...]:
        """The lines of a mapping, checked."""

    @abc.abstractmethod
    def _steps_of(self, columns: tuple[Any, ...]) -> Steps:
        """The steps without a mapping, for rows with these columns."""

    @abc.abstractmethod
    def _record(self, found: tuple[dict[str, Any], ...]) -> R:
        """The record of what was found, by section.

        :raises InvalidRow: with all problems of the row
        """

    @abc.abstractmethod
    def _key(self, found: tuple[dict[str, Any], ...], wrong: Collection[str]) -> str | None:
        """The key of the record of an invalid row; None if it is not certain.

        :param wrong: the fields that could not be read, by their labels
        """

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The columns that the mapping reads, each once; None without a mapping, which reads all."""
        if self._plan is None:
            return None
        return tuple(dict.fromkeys(field.column for field in self._plan.fields if field.column is not None))

    @property
    def field_columns(self) -> dict[str, str]:
        """Field -> the column that the mapping reads for it, by all names of the field; empty without a mapping."""
        fields = () if self._plan is None else self._plan.fields
        read = [(field.target, field.column) for field in fields if field.column is not None]
        return {name: column for target, column in read for name in (target.path, target.label)}

    @property
    def sends(self) -> str:
        """The fields that are sent, for people; without a mapping those of the rows so far.

        >>> Mapper({"email": "mail", "name": "first", "origin.url": "page"}).sends
        'email; attributes name; origin url'
        """
        targets = self._seen if self._plan is None else [field.target for field in self._plan.fields]
        parts = [
            _listed(word, [target.name for target in targets if target.section is section])
            for section, word in SECTION_WORDS.items()
        ]
        return "; ".join(filter(None, parts))

    def check_columns(self, columns: Collection[str]) -> None:
        """Check that a source with these columns can be mapped.

        :raises SourceError: with all problems and the nearest columns
        """
        if self._plan is None:
            if problems := self._plan_for(columns if isinstance(columns, tuple) else tuple(columns)).problems:
                shown = "" if look_like_values(columns) else f". {_its_columns(columns)}"
                raise SourceError(f"{'; '.join(map(str, problems))}{shown}")
            return
        needed = [field for field in self._plan.fields if field.column is not None and not field.optional]
        missing = [field for field in needed if not has_column(columns, field.column)]
        if missing:
            raise SourceError(self._what_is_missing(missing, columns))

    def _what_is_missing(self, missing: Collection[Field], columns: Collection[str]) -> str:
        wanted = self.columns or ()
        texts = [f"mapping[{field.target.label!r}]: {_not_there(field.column, columns, wanted)}" for field in missing]
        if look_like_values(columns, wanted):
            return f"{'; '.join(texts)}. {_no_header_line(columns)}"
        return f"{'; '.join(texts)}. {_its_columns(columns)}"

    def as_data(self) -> dict[str, Any]:
        """All settings that decide the record of a row, as plain data; the same for all spellings of a mapping."""
        lines = None
        if self._plan is not None:
            lines = {field.target.path: dict(field.data) for field in self._plan.fields}
            lines = {path: lines[path] for path in sorted(lines)}
        defaults = asdict(self._defaults) if lines is None else {"lowercase_email": self._defaults.lowercase_email}
        return {"mapping": lines, **defaults}

    def __call__(self, row: Row) -> R:
        """The record of a row.

        :raises InvalidRow: with all problems of the row
        """
        if row.problem is not None:
            raise InvalidRow(Problem("", "", UNREADABLE, row.problem))
        given, plan = row.values, self._plan or self._last_plan
        if plan is None or (self._plan is None and tuple(given) != self._last_columns):
            given, plan = self._without_mapping(given)
        problems, signs, get = list(plan.problems), FORMULA_SIGNS, given.get
        found: tuple[dict[str, Any], ...] = ({}, {}, {}, {})
        for place, name, column, is_same, read, field in plan.steps:
            if column is not None and type(text := get(column)) is str:  # most values, at a third of the time
                text = text.strip()
                if is_same(text) if is_same else text and text[0] not in signs and text.isascii():
                    found[place][name] = text
                    continue
            try:
                value = read(given)
            except ConversionError as wrong:
                problems.append(Problem(field.target.label, field.column or "", wrong.kind, wrong.fix))
            else:
                if value is not LEFT_OUT:
                    found[place][name] = value
        if problems:
            raise InvalidRow(*problems, key=self._key(found, {problem.field for problem in problems}))
        return self._record(found)

    def _without_mapping(self, given: Mapping[str, Any]) -> tuple[Mapping[str, Any], Steps]:
        """The values of a row, those of nested columns as columns of their own, and the plan for them."""
        names, given = tuple(given), _opened(given)
        plan = self._plan_for(tuple(given))
        self._last_columns, self._last_plan = names, plan if NESTED.keys().isdisjoint(names) else None
        return given, plan

    def _plan_for(self, columns: tuple[Any, ...]) -> Steps:
        """The plan for rows with these columns, without a mapping."""
        plan = self._plans.get(columns)
        if plan is None:
            if len(self._plans) >= KEPT_PLANS:
                self._plans.clear()
            plan = self._plans[columns] = self._steps_of(columns)
            self._log_left_out(columns, plan.left_out)
            if not plan.problems and not look_like_values(columns):
                self._seen.update(dict.fromkeys(field.target for field in plan.fields))
        return plan

    def _log_left_out(self, columns: tuple[Any, ...], left_out: Collection[str]) -> None:
        """Log, once for each column, that it is left out."""
        fresh = [name for name in left_out if name not in self._logged]
        if fresh and not look_like_values(columns):
            self._logged.update(fresh)
            log.info(
                "Without a mapping these columns are left out, because they are read-only in the CRM or have no name "
                "(a pandas index, for example: write it with index=False): %s",
                ", ".join(map(repr, sorted(fresh))),
            )


class Mapper(RecordMapper[Contact]):
    """Maps rows to contacts.

    >>> mapper = Mapper({"email": "mail", "name": "first"}, lowercase_email=True)
    >>> mapper(Row(1, {"mail": " Ada@Example.com", "first": "Ada", "age": 36}))
    Contact(email='ada@example.com', attributes={'name': 'Ada'}, origin=None)

    :param mapping: field of the CRM (``email``, an attribute, ``attributes.<name>``, ``origin.<key>``) -> column, or a
        mapping with ``column`` and ``type``, ``empty``, ``default``, ``optional`` and the options of the type, or
        ``{"constant": value}``. A column's name may be a path into nested values: ``properties.email``. Without a
        mapping, the column ``email`` (in any case) is the address and all others are attributes; of an extract, the
        columns that can be written
    :param empty: what an empty value becomes if the mapping does not say it:
        :data:`crm_provider.load.mapping.fields.Empty`
    :param region: country of phone numbers without ``+`` if the mapping does not say it: ``"BR"``
    :param lowercase_email: write addresses in lower case; by default the case is kept
    :raises SourceError: naming the field, the problem and the nearest valid choice
    """

    def __init__(
        self,
        mapping: Mapping[str, Any] | None = None,
        *,
        empty: Empty = "skip",
        region: str | None = None,
        lowercase_email: bool = False,
    ) -> None:
        if not isinstance(region, (str, type(None))):
            raise SourceError(f"region must be two letters of ISO 3166, such as 'BR', but is a {type(region).__name__}")
        super().__init__(mapping, ContactDefaults(empty=empty, region=region, lowercase_email=lowercase_email))

    def _compiled(self, mapping: Any) -> tuple[Field, ...]:
        return _checked(mapping, self._defaults)

    def _steps_of(self, columns: tuple[Any, ...]) -> Steps:
        return _steps_of_columns(columns, self._defaults)

    def _record(self, found: tuple[dict[str, Any], ...]) -> Contact:
        address, attributes, origin, _ = found  # by Section
        return new_tuple(Contact, (address[EMAIL], attributes, origin or None))

    def _key(self, found: tuple[dict[str, Any], ...], wrong: Collection[str]) -> str | None:
        email = found[Section.EMAIL].get(EMAIL)
        return None if email is None else person_key(email)


class Steps:
    """The steps that convert a row to a record, arranged for speed.

    :param problems: of the columns themselves, and therefore of every row that has them
    :param left_out: columns that are not sent
    :ivar steps: section, name, the column if most of its texts are sent as written, which ones (None: those of
        :attr:`Field.as_written`), how its other values are read, and the line
    """

    def __init__(
        self, fields: tuple[Field, ...], problems: tuple[Problem, ...] = (), left_out: tuple[str, ...] = ()
    ) -> None:
        self.fields = fields
        self.left_out = left_out
        self.problems = problems
        self.steps = tuple(
            (
                int(line.target.section),
                line.target.name,
                line.column if line.as_written else None,
                line.is_same,
                line.read,
                line,
            )
            for line in fields
        )


def _checked(mapping: Any, defaults: Defaults) -> tuple[Field, ...]:
    check_names(mapping, target_of, example="{'email': 'mail', 'name': 'first_name'}")
    if EMAIL not in mapping:
        turned = [column for column, name in mapping.items() if name == EMAIL]
        close = nearest(EMAIL, map(str, mapping))
        fix = f"did you mean 'email' in place of {close!r}?" if close else "add 'email': '<column>'"
        fix = f"a line is the CRM's field, then the column: 'email': {turned[0]!r}" if turned else fix
        raise SourceError(f"mapping has no 'email', which identifies a contact; {fix}")
    return tuple(field_of(name, spec, defaults) for name, spec in mapping.items())


def _steps_of_columns(columns: tuple[Any, ...], defaults: Defaults) -> Steps:
    """The plan without a mapping: each column is an attribute; of an extract, only columns that can be written."""
    fields: list[Field] = []
    problems: list[Problem] = []
    left_out: list[str] = []
    email, is_extract = _email_column(columns), _is_extract(columns)
    if isinstance(email, Problem):
        problems.append(email)
    for column in columns:
        if column == email:
            fields.append(column_field(Target(Section.EMAIL, EMAIL), column, defaults))
            continue
        target = _target_of_column(column, is_extract=is_extract)
        if isinstance(target, Problem):
            problems.append(target)
        elif target is None:
            left_out.append(column)
        elif target.name in NESTED and column == target.name:
            fields.append(nested_field(target, column))
        else:
            fields.append(column_field(target, column, defaults))
    return Steps(tuple(fields), tuple(problems), tuple(left_out))


def _target_of_column(column: Any, *, is_extract: bool) -> Target | Problem | None:
    """The field of a column without a mapping; None if it is left out."""
    impossible = Problem(str(column), "", "no attribute can have the name of this column", "give the load a mapping")
    if not isinstance(column, str) or not column.strip():
        return impossible
    if shared_name(column) is not None:
        return Problem(column, "", "several columns have this name", "give the load a mapping of the columns to take")
    target = _target_in_extract(column) if is_extract else Target(Section.ATTRIBUTES, column)
    if target is None or is_nameless(column):
        return None
    reserved = target.section is Section.ATTRIBUTES and target.name in validation.RESERVED_ATTRIBUTES
    return impossible if reserved and not (is_extract and column in NESTED) else target


def _target_in_extract(column: str) -> Target | None:
    """The field of a column of an extract; None if it is read-only."""
    head, _, name = column.partition(".")
    return Target(NESTED[head], name or head) if head in NESTED and (name or column == head) else None


NESTED = {"attributes": Section.ATTRIBUTES, "origin": Section.ORIGIN}
"""Fields of a contact that hold other fields."""


def _is_extract(columns: tuple[Any, ...]) -> bool:
    """Whether the columns are those of an extract of contacts."""
    names = [column for column in columns if isinstance(column, str)]
    return any(name in ("attributes", "segmentedListsIds") or name.startswith("attributes.") for name in names)


def _opened(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row whose nested attributes and origin are columns with dotted names, as in the tables of an extract.

    Empty attributes stay, because an extract is recognised by them.
    """
    if NESTED.keys().isdisjoint(values):
        return values
    nested = {name: values[name] for name in NESTED if name in values and isinstance(values[name], Mapping)}
    if not nested:
        return values
    opened = {
        name: value for name, value in values.items() if name not in nested or (name == "attributes" and not value)
    }
    for name, inner in nested.items():
        opened.update({f"{name}.{key}": value for key, value in inner.items()})
    return opened


def _email_column(columns: tuple[Any, ...]) -> str | Problem:
    if EMAIL in columns:
        return EMAIL
    near = [column for column in columns if isinstance(column, str) and column.strip().casefold() == EMAIL]
    if len(near) == 1:
        log.info("The source has no column 'email'; %r is taken for it", near[0])
        return near[0]
    if near:
        return Problem(EMAIL, "", f"several columns may be it: {', '.join(map(repr, near))}", "give the load a mapping")
    several = [column for column in columns if isinstance(column, str) and shared_name(column) == EMAIL]
    if several:
        return Problem(EMAIL, "", f"{len(several)} columns have this name", "give the load a mapping that names one")
    fix = f"give the load a mapping{_hint(EMAIL, columns)}"
    if isinstance(columns, HeaderLine) and look_like_values(columns):
        fix = f"{fix}. {_no_header_line(columns)}"
    return Problem(EMAIL, "", "column missing", fix)


def _its_columns(columns: Collection[Any]) -> str:
    more = f", ... and {len(columns) - SHOWN_COLUMNS} more" if len(columns) > SHOWN_COLUMNS else ""
    return f"Its columns: {', '.join(map(repr, list(columns)[:SHOWN_COLUMNS])) or 'none'}{more}"


def _listed(word: str, names: list[str]) -> str:
    more = f" and {len(names) - SHOWN_COLUMNS} more" if len(names) > SHOWN_COLUMNS else ""
    return f"{word} {', '.join(names[:SHOWN_COLUMNS])}{more}".strip() if names else ""


def _not_there(column: Any, columns: Collection[str], wanted: Collection[str]) -> str:
    several = [name for name in columns if shared_name(name) == column]
    if several:
        return f"the source has {len(several)} columns {column!r}; name one of them: {' or '.join(map(repr, several))}"
    return f"the source has no column {column!r}{_hint(column, columns, wanted)}"


def _no_header_line(columns: Collection[Any]) -> str:
    """The fix for a header line that seems to hold values; nothing of the line is shown."""
    where = f"{columns.place} was read" if isinstance(columns, HeaderLine) else "Its first line was read"
    return (
        f"{where} as the header line, but looks like data, not like the names of columns (other lines before it: "
        "source_options={'skip_lines': <how many>}; no header line: source_options={'header': [...]}; garbled: "
        "source_options={'encoding': ...})"
    )


def _hint(column: Any, columns: Collection[Any], wanted: Collection[Any] = ()) -> str:
    names = () if look_like_values(columns, wanted) else columns
    close = nearest(column, [name for name in names if isinstance(name, str)])
    if not close:
        return ""
    looks_same = normalize("NFC", close) == normalize("NFC", column)  # in files of a Mac, accents are characters
    return f" (did you mean {ascii(close) if looks_same else repr(close)}?)"
