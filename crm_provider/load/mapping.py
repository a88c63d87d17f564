"""The mapping of a load: from a row of the source to a contact, all its lines compiled once.

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

import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from crm_provider import validate
from crm_provider.load.fields import EMPTIES, LEFT_OUT, Defaults, Empty, Field, column_field, field_of
from crm_provider.load.rows import Contact, InvalidRow, Problem, Row, SourceError
from crm_provider.load.source_options import look_like_values
from crm_provider.load.targets import Place, Target, target_of
from crm_provider.load.unfit import Unfit
from crm_provider.suggest import nearest, unknown

log = logging.getLogger(__name__)

EMAIL = "email"

KEPT_PLANS = 256
"""Sets of columns that are remembered without a mapping: rows of JSON lines may differ in their columns."""

SHOWN_COLUMNS = 20
"""Columns of the source that a message lists."""


class Mapper:
    """Makes contacts of rows.

    >>> mapper = Mapper({"email": "mail", "name": "first"}, lowercase_email=True)
    >>> mapper(Row(1, {"mail": " Ada@Example.com", "first": "Ada", "age": 36}))
    Contact(email='ada@example.com', attributes={'name': 'Ada'}, origin=None)

    :param mapping: field of the CRM (``email``, an attribute, ``attributes.<name>``, ``origin.<key>``) -> column, or a
        mapping with ``column`` and ``type``, ``empty``, ``default``, ``optional`` and the options of the type, or
        ``{"constant": value}``; None takes the column ``email`` (in any case) and all others as attributes
    :param empty: what an empty value becomes where the mapping does not say: :data:`crm_provider.load.fields.Empty`
    :param region: country of phone numbers without ``+`` where the mapping does not say: ``"BR"``
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
        if empty not in EMPTIES:
            raise SourceError(unknown("empty", empty, EMPTIES))
        if not isinstance(region, (str, type(None))):
            raise SourceError(f"region must be two letters of ISO 3166, such as 'BR', but is a {type(region).__name__}")
        self._defaults = Defaults(empty=empty, region=region, lowercase_email=lowercase_email)
        self._plan = None if mapping is None else _Plan(_checked(mapping, self._defaults))
        self._plans: dict[tuple[Any, ...], _Plan] = {}

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Columns that the mapping reads, each once; None without a mapping: all of them."""
        if self._plan is None:
            return None
        return tuple(dict.fromkeys(field.column for field in self._plan.fields if field.column is not None))

    def check_columns(self, columns: Collection[str]) -> None:
        """Whether a source with these columns can be mapped.

        :raises SourceError: with all that is wrong, and the nearest columns
        """
        if self._plan is None:
            if problems := self._plan_for(tuple(columns)).problems:
                raise SourceError("; ".join(map(str, problems)))
            return
        missing = [
            f"mapping[{field.target.label!r}]: the source has no column {field.column!r}{_hint(field.column, columns)}"
            for field in self._plan.fields
            if field.column is not None and not field.optional and field.column not in columns
        ]
        if missing:
            if look_like_values(columns):
                raise SourceError(
                    f"{'; '.join(missing)}. Its first line looks like data, not like the names of columns; name them: "
                    "source_options={'header': [...]}"
                )
            more = f", ... and {len(columns) - SHOWN_COLUMNS} more" if len(columns) > SHOWN_COLUMNS else ""
            shown = ", ".join(map(repr, list(columns)[:SHOWN_COLUMNS])) or "none"
            raise SourceError(f"{'; '.join(missing)}. Its columns: {shown}{more}")

    def as_data(self) -> dict[str, Any]:
        """All that decides what a row becomes, as plain data; two spellings of one mapping give the same."""
        lines = None
        if self._plan is not None:
            lines = {field.target.path: dict(field.data) for field in self._plan.fields}
            lines = {path: lines[path] for path in sorted(lines)}
        defaults = asdict(self._defaults) if lines is None else {"lowercase_email": self._defaults.lowercase_email}
        return {"mapping": lines, **defaults}

    def __call__(self, row: Row) -> Contact:
        """The contact of a row.

        :raises InvalidRow: with all that is wrong with the row
        """
        if row.problem is not None:
            raise InvalidRow(Problem("row", "", "cannot be read", row.problem))
        given = row.values
        plan = self._plan or self._plan_for(tuple(given))
        problems = list(plan.problems)
        found: tuple[dict[str, Any], dict[str, Any], dict[str, Any]] = ({}, {}, {})
        for place, name, read, field in plan.steps:
            try:
                value = read(given)
            except Unfit as wrong:
                problems.append(Problem(field.target.label, field.column or "", wrong.kind, wrong.fix))
            else:
                if value is not LEFT_OUT:
                    found[place][name] = value
        if problems:
            raise InvalidRow(*problems)
        return Contact(found[Place.EMAIL][EMAIL], found[Place.ATTRIBUTES], found[Place.ORIGIN] or None)

    def _plan_for(self, columns: tuple[Any, ...]) -> _Plan:
        """Without a mapping: what is done with rows of these columns."""
        plan = self._plans.get(columns)
        if plan is None:
            if len(self._plans) >= KEPT_PLANS:
                self._plans.clear()
            plan = self._plans[columns] = _plan_of(columns, self._defaults)
        return plan


class _Plan:
    """What is done with each row, laid out for speed.

    :param problems: of the columns themselves, and so of every row that has them
    """

    def __init__(self, fields: tuple[Field, ...], problems: tuple[Problem, ...] = ()) -> None:
        self.fields = fields
        self.problems = problems
        self.steps = tuple((int(field.target.place), field.target.name, field.read, field) for field in fields)


def _checked(mapping: Any, defaults: Defaults) -> tuple[Field, ...]:
    if not isinstance(mapping, Mapping) or not mapping:
        raise SourceError(
            "mapping must be a mapping of field to column, such as {'email': 'mail', 'name': 'first_name'}, "
            f"but is {'empty' if isinstance(mapping, Mapping) else f'a {type(mapping).__name__}'}"
        )
    names: dict[str, Any] = {}
    for name in mapping:
        path = target_of(name).path
        if path in names:
            raise SourceError(
                f"mapping[{name!r}] and mapping[{names[path]!r}] are the same field; leave one of them out"
            )
        names[path] = name
    if EMAIL not in names:
        close = nearest(EMAIL, [str(name) for name in mapping])
        fix = f"did you mean it with {close!r}? Add" if close else "add"
        raise SourceError(f"mapping has no 'email', which tells contacts apart; {fix} 'email': '<column>'")
    return tuple(field_of(name, spec, defaults) for name, spec in mapping.items())


def _plan_of(columns: tuple[Any, ...], defaults: Defaults) -> _Plan:
    fields, problems = [], []
    email = _email_column(columns)
    if isinstance(email, Problem):
        problems.append(email)
    for column in columns:
        if column == email:
            fields.append(column_field(Target(Place.EMAIL, EMAIL), column, defaults))
        elif not isinstance(column, str) or not column.strip() or column in validate.RESERVED_ATTRIBUTES - {EMAIL}:
            problems.append(
                Problem(str(column), "", "no attribute can have the name of this column", "give the load a mapping")
            )
        else:
            fields.append(column_field(Target(Place.ATTRIBUTES, column), column, defaults))
    return _Plan(tuple(fields), tuple(problems))


def _email_column(columns: tuple[Any, ...]) -> str | Problem:
    if EMAIL in columns:
        return EMAIL
    near = [column for column in columns if isinstance(column, str) and column.strip().casefold() == EMAIL]
    if len(near) == 1:
        log.info("The source has no column 'email'; %r is taken for it", near[0])
        return near[0]
    if near:
        return Problem(EMAIL, "", f"several columns may be it: {', '.join(map(repr, near))}", "give the load a mapping")
    return Problem(EMAIL, "", "column missing", f"give the load a mapping{_hint(EMAIL, columns)}")


def _hint(column: Any, columns: Collection[Any]) -> str:
    names = () if look_like_values(columns) else columns
    close = nearest(column, [name for name in names if isinstance(name, str)])
    return f" (did you mean {close!r}?)" if close else ""
