"""The mapping of a load of deals: converts each row to a deal.

::

    DealMapper(
        {
            "deal_id": "deal",
            "stage_id": {"constant": "123e4567-e89b-12d3-a456-426614174000"},
            "pb_amount": {"column": "Valor", "type": "number", "decimal": ","},
            "pb_closingDate": {"column": "Fecha", "type": "datetime", "timezone": "America/Sao_Paulo"},
        },
        mode="update",
    )
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from crm_provider.client import validation
from crm_provider.errors import CrmInvalidValueError
from crm_provider.load.mapping import converters
from crm_provider.load.mapping.fields import (
    LEFT_OUT,
    Defaults,
    Empty,
    Field,
    Section,
    Target,
    check_names,
    column_field,
    constant_field,
    field_of,
    read_column,
)
from crm_provider.load.mapping.mapper import RecordMapper, Steps
from crm_provider.load.rows import InvalidRow, Problem, SourceError
from crm_provider.load.sources.options import is_nameless, shared_name
from crm_provider.values.addresses import person_key
from crm_provider.values.json_values import ConversionError
from crm_provider.values.suggest import unknown, unknown_value

if TYPE_CHECKING:
    from typing_extensions import Self

DealMode = Literal["upsert", "create", "update", "move"]

FIELDS = ("deal_id", "stage_id", "pipeline_id", "contact_id", "contact_email")
"""Fields of a deal that are not attributes."""

CONTACT = ("contact_id", "contact_email")

OWN = (*CONTACT, "deal_id")
"""Fields for which every row must have its own value."""

MEANT: Mapping[str, str] = {
    "id": "deal_id", "dealId": "deal_id", "deal": "deal_id", "stageId": "stage_id", "stage": "stage_id",
    "pipelineId": "pipeline_id", "pipeline": "pipeline_id", "contactId": "contact_id", "contact": "contact_id",
    "email": "contact_email",
}  # fmt: skip
"""Names that look like a field; an attribute of this name would be written besides the field."""

IN_EXTRACT: Mapping[str, str] = {
    "id": "deal_id", "contactId": "contact_id", "pipelineId": "pipeline_id", "stageId": "stage_id",
}  # fmt: skip
"""The columns of an extract of deals."""


@dataclass(frozen=True)
class Deal:
    """A row in the CRM's terms, ready to be sent.

    :param deal_id: None to find the deal by its contact and pipeline, or to create it
    """

    deal_id: str | None = None
    stage_id: str | None = None
    pipeline_id: str | None = None
    contact_id: str | None = None
    contact_email: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The id, or else the contact and the pipeline."""
        if self.deal_id is not None:
            return self.deal_id.lower()
        contact = self.contact_id.lower() if self.contact_id else person_key(self.contact_email or "")
        return f"{contact} in {(self.pipeline_id or '').lower()}"

    @property
    def email(self) -> str | None:
        return self.contact_email

    @property
    def effect(self) -> Any:
        return [*self.fixed, self.attributes]

    @property
    def fixed(self) -> tuple[Any, ...]:
        return self.deal_id, self.stage_id, self.pipeline_id, self.contact_id, self.contact_email

    @classmethod
    def restored(cls, attributes: Mapping[str, Any], fixed: tuple[Any, ...]) -> Self:
        deal_id, stage_id, pipeline_id, contact_id, contact_email = fixed
        return cls(deal_id, stage_id, pipeline_id, contact_id, contact_email, attributes)


class DealMapper(RecordMapper[Deal]):
    """Maps rows to deals.

    >>> from crm_provider.load.rows import Row
    >>> mapper = DealMapper({"deal_id": "id", "pb_amount": "worth"}, mode="update")
    >>> mapper(Row(1, {"id": "123e4567-e89b-12d3-a456-426614174000", "worth": "10.50"})).attributes
    {'pb_amount': '10.50'}

    :param mapping: field (``deal_id``, ``stage_id``, ``pipeline_id``, ``contact_id``, ``contact_email``, an attribute
        or ``attributes.<name>``) -> column, or a mapping as for contacts. Without a mapping, the columns with these
        names are the fields and all others are attributes; of an extract, the columns that can be written
    :param mode: which fields are needed, and which are not written
    :param empty: what an empty value of an attribute becomes if the mapping does not say it
    :raises SourceError: naming the field, the problem and the nearest valid choice
    """

    def __init__(
        self, mapping: Mapping[str, Any] | None = None, *, mode: DealMode = "upsert", empty: Empty = "skip"
    ) -> None:
        if mode not in get_args(DealMode):
            raise SourceError(unknown_value("mode", mode, get_args(DealMode)))
        self._mode = mode
        super().__init__(mapping, Defaults(empty=empty))

    @property
    def constants(self) -> frozenset[str]:
        """The fields that have the same value in every row."""
        fields = () if self._plan is None else self._plan.fields
        return frozenset(line.target.name for line in fields if line.column is None)

    def _compiled(self, mapping: Any) -> tuple[Field, ...]:
        check_names(mapping, target_of, example="{'deal_id': 'id'}")
        lines = tuple(self._line(name, spec) for name, spec in mapping.items())
        wrong = what_is_wrong(self._mode, [line.target for line in lines])
        if wrong:
            raise SourceError(f"mapping: {'; '.join(wrong)}")
        return lines

    def _line(self, name: Any, spec: Any) -> Field:
        target = target_of(name)
        if target.section is Section.ATTRIBUTES:
            return field_of(name, spec, self._defaults, target=target_of)
        try:
            return _own_field(target, spec)
        except (ValueError, ConversionError) as wrong:
            raise SourceError(f"mapping[{name!r}]: {wrong}") from None

    def _steps_of(self, columns: tuple[Any, ...]) -> Steps:
        is_extract = "pipelineId" in columns and "stageId" in columns
        lines: list[Field] = []
        problems: list[Problem] = []
        left_out: list[str] = []
        for column in columns:
            target = _target_of_column(column, is_extract=is_extract)
            if isinstance(target, Problem):
                problems.append(target)
            elif target is None:
                left_out.append(column)
            elif target.section is Section.ATTRIBUTES:
                lines.append(column_field(target, column, self._defaults))
            else:
                lines.append(_own_field(target, column))
        fix = "give the load a mapping"
        wrong = what_is_wrong(self._mode, [line.target for line in lines])
        problems += [Problem("row", "", text, fix) for text in wrong]
        return Steps(tuple(lines), tuple(problems), tuple(left_out))

    def _record(self, found: tuple[dict[str, Any], ...]) -> Deal:
        own, attributes = found[Section.FIELDS], found[Section.ATTRIBUTES]
        amount = attributes.get("pb_amount")
        if isinstance(amount, int) and not isinstance(amount, bool):
            attributes["pb_amount"] = str(amount)
        problems = [*_missing(self._mode, own), *_inexact(attributes)]
        if problems:
            columns = self.field_columns
            named = (replace(problem, column=columns.get(problem.field, "")) for problem in problems)
            raise InvalidRow(*named, key=self._key(found, ()))
        return Deal(**own, attributes=attributes)

    def _key(self, found: tuple[dict[str, Any], ...], wrong: Collection[str]) -> str | None:
        own = found[Section.FIELDS]
        if "deal_id" in own:
            return Deal(deal_id=own["deal_id"]).key
        is_certain = "pipeline_id" in own and not own.keys().isdisjoint(CONTACT) and "deal_id" not in wrong
        return Deal(**own).key if is_certain else None


def target_of(name: Any) -> Target:
    """The field of a deal that a key of a mapping names.

    :raises SourceError: if it is not a field
    """
    if not isinstance(name, str) or not name.strip() or name != name.strip():
        raise SourceError(f"mapping[{name!r}]: a field's name must be text, not empty and without space around it")
    if name in FIELDS:
        return Target(Section.FIELDS, name)
    if name in MEANT:
        raise SourceError(
            f"mapping[{name!r}]: did you mean {MEANT[name]!r}? An attribute of this name is written 'attributes.{name}'"
        )
    prefix, dot, rest = name.partition(".")
    if prefix == "attributes" and rest:
        name = rest
    elif dot:
        raise SourceError(f"mapping[{name!r}]: a name with a dot is written 'attributes.{name}'")
    if name in validation.RESERVED_DEAL_ATTRIBUTES:
        raise SourceError(f"mapping[{name!r}]: no attribute can have this name: the CRM's calls use it")
    return Target(Section.ATTRIBUTES, name)


def _target_of_column(column: Any, *, is_extract: bool) -> Target | Problem | None:
    """The field of a column without a mapping; None if it is left out."""
    if not isinstance(column, str) or not column.strip() or shared_name(column) is not None:
        return Problem(str(column), "", "no field can have the name of this column", "give the load a mapping")
    if is_nameless(column):
        return None
    if is_extract and column in IN_EXTRACT:
        return Target(Section.FIELDS, IN_EXTRACT[column])
    if is_extract and not column.startswith("attributes."):
        return None
    try:
        return target_of(column)
    except SourceError as wrong:
        return Problem(column, "", str(wrong).partition(": ")[2], "give the load a mapping")


def what_is_wrong(mode: str, targets: Collection[Target]) -> list[str]:
    """Problems of a mode: fields that it needs and that are missing, and fields that it does not write."""
    own = {target.name for target in targets if target.section is Section.FIELDS}
    attributes = any(target.section is Section.ATTRIBUTES for target in targets)
    contact = "contact_id or contact_email"
    has_contact = bool(own.intersection(CONTACT))
    needed: dict[str, bool] = {"deal_id": "deal_id" in own} if mode in ("move", "update") else {}
    if mode == "move":
        needed["stage_id"] = "stage_id" in own
    if mode == "create" or (mode == "upsert" and "deal_id" not in own):
        needed |= {contact: has_contact, "pipeline_id": "pipeline_id" in own, "stage_id": "stage_id" in own}
    wrong = [f"mode={mode!r} needs {name}" for name, there in needed.items() if not there]
    unused = {"move": {*CONTACT, "pipeline_id"}, "update": {"pipeline_id"}, "create": {"deal_id"}}.get(mode, set())
    wrong += [f"mode={mode!r} does not write {name}; leave it out" for name in FIELDS if name in own & unused]
    if mode == "move" and attributes:
        wrong.append("mode='move' writes the stage only; use mode='update' to write attributes too")
    if own.issuperset(CONTACT):
        wrong.append("name the contact by contact_id or by contact_email, not by both")
    if mode == "update" and own == {"deal_id"} and not attributes:
        wrong.append("nothing to write; add stage_id, a contact or attributes")
    return wrong


def _own_field(target: Target, spec: Any) -> Field:
    """The line of a field that is not an attribute: an id or an address."""
    if isinstance(spec, str):
        spec = {"column": spec}
    if not isinstance(spec, Mapping):
        raise ValueError(f'give a column\'s name, or a mapping such as {{"column": "id"}}, not {type(spec).__name__}')
    if "constant" in spec:
        if target.name in OWN:
            raise ValueError("all rows would be one deal; name a column")
        _uuid(spec["constant"])
        return constant_field(target, spec)
    if others := [option for option in spec if option not in ("column", "optional")]:
        raise ValueError(unknown("option", others[0], ("column", "optional", "constant")))
    column, optional = spec.get("column"), spec.get("optional", False)
    if not isinstance(column, str) or not column or not isinstance(optional, bool):
        raise ValueError("name the source's column, or give a 'constant'; 'optional' is true or false")
    convert = converters.email() if target.name == "contact_email" else _uuid
    read = read_column(column, convert, lambda given: LEFT_OUT, optional=optional)
    return Field(target, column, optional, read, {"column": column, "optional": optional})


def _uuid(value: Any) -> str:
    try:
        return validation.uuid(value, "the value")
    except CrmInvalidValueError:
        raise ConversionError(
            "not a UUID", "copy the id from the CRM (like 123e4567-e89b-12d3-a456-426614174000)"
        ) from None


def _missing(mode: str, own: Mapping[str, Any]) -> Iterator[Problem]:
    """What a row lacks for its mode."""
    if mode in ("move", "update"):
        needed: tuple[str, ...] = ("deal_id", "stage_id") if mode == "move" else ("deal_id",)
    else:
        needed = () if "deal_id" in own else ("pipeline_id", "stage_id")
        if "deal_id" not in own and not own.keys() & set(CONTACT):
            yield Problem("contact", "", "empty", "give the contact's id or address, or leave out the row")
    for name in needed:
        if name not in own:
            yield Problem(name, "", "empty", "give it a value, or leave out the row")


_NO_ZONE = re.compile(r"\d{4}-?\d\d-?\d\d[Tt _]\d\d(:?\d\d(:?\d\d([.,]\d+)?)?)?")
"""A date with a time and no zone."""


def _inexact(attributes: Mapping[str, Any]) -> Iterator[Problem]:
    """Values that the CRM could read as another amount or another time."""
    amount, closing = attributes.get("pb_amount"), attributes.get("pb_closingDate")
    if isinstance(amount, (float, bool, list, dict)):
        fix = "give the digits as text, a decimal or a whole number, or use the type number"
        what = "a float, which cannot hold every decimal exactly" if isinstance(amount, float) else "not an amount"
        yield Problem("pb_amount", "", what, fix)
    if isinstance(closing, str) and _NO_ZONE.fullmatch(closing):
        fix = "give it the type datetime with a timezone"
        yield Problem("pb_closingDate", "", "a time without a time zone", fix)
