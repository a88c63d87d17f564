"""The lines of a mapping: which field of the CRM gets which column, and how its value is converted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from crm_provider.client import validation
from crm_provider.errors import CrmInvalidValueError
from crm_provider.load.mapping import converters, formats
from crm_provider.load.mapping.columns import ERROR_FIX, is_error_value, value_at, without_formula
from crm_provider.load.mapping.converters import Conversion, is_empty
from crm_provider.load.rows import SourceError, UnreadableValue
from crm_provider.values.addresses import is_plain_address
from crm_provider.values.json_values import ConversionError, whole_text
from crm_provider.values.suggest import nearest, unknown


class Section(IntEnum):
    """The part of a record that a field belongs to."""

    EMAIL = 0
    ATTRIBUTES = 1
    ORIGIN = 2
    FIELDS = 3
    """Of the record itself, such as an id."""


@dataclass(frozen=True)
class Target:
    """A field of the CRM."""

    section: Section
    name: str

    @property
    def label(self) -> str:
        """The shortest name that a user can write for it."""
        if self.section is Section.ORIGIN:
            return f"origin.{self.name}"
        return f"attributes.{self.name}" if "." in self.name else self.name

    @property
    def path(self) -> str:
        """The full name: the same for all spellings of a field."""
        return f"attributes.{self.name}" if self.section is Section.ATTRIBUTES else self.label


def target_of(name: Any) -> Target:
    """The field that a key of a mapping names.

    :raises SourceError: if it is not a field
    """
    if not isinstance(name, str) or not name.strip() or name != name.strip():
        raise SourceError(f"mapping[{name!r}]: a field's name must be text, not empty and without space around it")
    if name == "email":
        return Target(Section.EMAIL, name)
    prefix, dot, rest = name.partition(".")
    if prefix == "origin" and rest:
        return Target(Section.ORIGIN, rest)
    if prefix == "attributes" and rest:
        return Target(Section.ATTRIBUTES, _attribute(rest, name))
    if dot:
        hint = nearest(prefix, ("origin", "attributes")) or "attributes"
        meant = f"attributes.{name}" if hint == "attributes" and prefix[:4] != "attr" else f"{hint}.{rest}"
        raise SourceError(
            f"mapping[{name!r}]: a name with a dot starts with 'origin.' or 'attributes.'; did you mean {meant!r}?"
        )
    if name in validation.RESERVED_ATTRIBUTES:
        raise SourceError(f"mapping[{name!r}]: name a single field of it; did you mean '{name}.<name>'?")
    return Target(Section.ATTRIBUTES, name)


def _attribute(name: str, key: str) -> str:
    if name in validation.RESERVED_ATTRIBUTES:
        raise SourceError(
            f"mapping[{key!r}]: no attribute can be called {name!r}: the CRM's calls use that name for something else; "
            "choose another"
        )
    return name


Empty = Literal["skip", "clear", "null", "keep"]
"""What an empty value becomes.

``skip`` leaves the field out, so the CRM keeps its value. ``clear`` sends an empty text: the API does not document how
to clear a field, a text field takes an empty text, and a null might silently count as "not given". A field of another
type may refuse it, which rejects the row; use ``null`` there. ``keep`` sends the value as it is.
"""

EMPTIES: tuple[Empty, ...] = get_args(Empty)

LEFT_OUT = object()
"""Marks a field that is not sent."""

_MISSING = object()


@dataclass(frozen=True)
class Defaults:
    """Settings of the whole mapping, for lines that do not have their own."""

    empty: Empty = "skip"
    region: str | None = None
    lowercase_email: bool = False

    texts: ClassVar[frozenset[str]] = frozenset()
    """Attributes that are text only."""


class ContactDefaults(Defaults):
    """Settings of a mapping to contacts."""

    texts = frozenset({"phone"})


@dataclass(frozen=True)
class Field:
    """A line of a mapping, checked.

    :param column: of the source; None for a constant
    :param optional: whether a row may lack the column
    :param read: takes the row's values, returns a JSON value or :data:`LEFT_OUT`, raises :class:`ConversionError`
    :param data: the line as plain data, with the defaults that apply to it
    :param as_written: whether ``read`` returns an ASCII text of the column without the space around it and otherwise
        unchanged, unless it is empty or begins with one of :data:`FORMULA_SIGNS`
    :param is_same: with ``as_written``: whether this holds for a text without the space around it; None: for all texts
    """

    target: Target
    column: str | None
    optional: bool
    read: Callable[[Mapping[str, Any]], Any]
    data: Mapping[str, Any]
    as_written: bool = False
    is_same: Callable[[str], bool] | None = None


Maker: TypeAlias = Callable[[dict[str, Any], Defaults], Conversion]

TYPES: Mapping[str, tuple[tuple[str, ...], Maker]] = {
    # name of a type: (its options, how they make a conversion)
    "auto": ((), lambda options, defaults: converters.auto),
    "text": ((), lambda options, defaults: converters.text),
    "number": (("decimal", "thousands"), lambda options, defaults: converters.number(**options)),
    "integer": (("decimal", "thousands"), lambda options, defaults: converters.integer(**options)),
    "boolean": (("true", "false"), lambda options, defaults: converters.remembered(converters.boolean(**options))),
    "date": (("format",), lambda options, defaults: converters.remembered(formats.day(**options))),
    "datetime": (("format", "timezone"), lambda options, defaults: _moment(options)),
    "phone": (("region",), lambda options, defaults: formats.phone(region=options.get("region", defaults.region))),
    "email": ((), lambda options, defaults: converters.email(lowercase=defaults.lowercase_email)),
    "json": ((), lambda options, defaults: converters.as_json),
}
"""The types that a line of a mapping can have."""

_COMMON = ("column", "type", "empty", "default", "optional")
_WORDS = ("true", "false")  # their values are words; the other options of types are single texts


def check_names(mapping: Any, target: Callable[[Any], Target], *, example: str) -> None:
    """Check that a mapping has lines, each for a field of its own.

    :param target: the field that a key names
    :param example: of a mapping, for the message
    :raises SourceError: naming what is wrong
    """
    if not isinstance(mapping, Mapping) or not mapping:
        found = "empty" if isinstance(mapping, Mapping) else f"a {type(mapping).__name__}"
        raise SourceError(f"mapping must be a mapping of field to column, such as {example}, but is {found}")
    names: dict[str, Any] = {}
    for name in mapping:
        other = names.setdefault(target(name).path, name)
        if other is not name:
            raise SourceError(f"mapping[{name!r}] and mapping[{other!r}] are the same field; leave one of them out")


def field_of(name: Any, spec: Any, defaults: Defaults, *, target: Callable[[Any], Target] = target_of) -> Field:
    """A line of a mapping.

    :param target: the field that a key names
    :raises SourceError: naming the field, the problem and the nearest valid choice
    """
    found = target(name)
    try:
        return _field(found, spec, defaults)
    except ValueError as wrong:
        raise SourceError(f"mapping[{name!r}]: {wrong}") from None


def column_field(target: Target, column: str, defaults: Defaults) -> Field:
    """The line for a column that needs no conversion."""
    return _field(target, {"column": column}, defaults)


def nested_field(target: Target, column: str) -> Field:
    """The line for a column that should hold nested fields, which have become separate columns."""

    def read(row: Mapping[str, Any]) -> Any:
        value = row.get(column)
        if not is_empty(value) and (value or not isinstance(value, Mapping)):
            raise ConversionError("not a nested value", "give the load a mapping")
        return LEFT_OUT

    return Field(target, column, True, read, {"column": column})


def _field(target: Target, spec: Any, defaults: Defaults) -> Field:
    if isinstance(spec, str):
        spec = {"column": spec}
    if not isinstance(spec, Mapping):
        raise ValueError(f'give a column\'s name, or a mapping such as {{"column": "tel"}}, but not {_type(spec)}')
    if "constant" in spec:
        return constant_field(target, spec)
    kind, options = _checked(target, spec)
    convert = _conversion(target, kind, options, defaults)
    column, optional, empty = spec["column"], spec.get("optional", False), spec.get("empty", defaults.empty)
    data = {"column": column, "type": kind, **options, "optional": optional}
    if target.section is Section.EMAIL:
        read, is_same = read_column(column, convert, _no_email), None if defaults.lowercase_email else is_plain_address
        return Field(target, column, False, read, data, is_same is not None, is_same)
    if kind == "phone":
        data = {"region": defaults.region, **data}
    if "default" in spec:
        fallback = _default(spec["default"], convert)
        data["default"] = fallback(None)
    else:
        fallback, data["empty"] = _fallback(empty), empty
    read = read_column(column, convert, fallback, optional=optional)
    if convert is converters.only_text:
        return Field(target, column, optional, read, data, True, converters.is_e164)
    return Field(target, column, optional, read, data, convert is converters.auto)


def _checked(target: Target, spec: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The type of a line and that type's options.

    :raises ValueError: if something in it is wrong
    """
    kind = spec.get("type", "email" if target.section is Section.EMAIL else "auto")
    if not isinstance(kind, str) or kind not in TYPES:
        raise ValueError(unknown("type", kind, TYPES))
    own = TYPES[kind][0]
    for option in spec:
        if option not in (*_COMMON, *own):
            users = [repr(name) for name, (options, _) in TYPES.items() if option in options]
            if users:
                raise ValueError(f"option {option!r} needs the type {' or '.join(users)}, not {kind!r}")
            raise ValueError(unknown("option", option, (*_COMMON, *own, "constant")))
    _check_column(spec)
    if target.section is Section.EMAIL and (
        soft := [name for name in ("empty", "default", "optional") if name in spec]
    ):
        raise ValueError(f"every row needs its own email; leave out {', '.join(map(repr, soft))}")
    if "empty" in spec and spec["empty"] not in EMPTIES:
        raise ValueError(unknown("empty", spec["empty"], EMPTIES))
    if "empty" in spec and "default" in spec:
        raise ValueError("'default' says already what an empty value becomes; leave out 'empty'")
    if not isinstance(spec.get("optional", False), bool):
        raise ValueError(f"'optional' must be true or false, not {_type(spec['optional'])}")
    return kind, {option: _option(option, spec[option]) for option in own if option in spec}


def _check_column(spec: Mapping[str, Any]) -> None:
    column = spec.get("column")
    if not isinstance(column, str) or not column:
        found = "is missing" if column is None else "is empty" if column == "" else f"is {_type(column)}"
        raise ValueError(f"'column' {found}; name the source's column, or give a 'constant'")


def _option(option: str, value: Any) -> Any:
    if option in _WORDS:
        words = [value] if isinstance(value, str) else value
        if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
            raise ValueError(f"{option!r} must be a word or a list of words, not {_type(value)}")
        return list(words)
    if not isinstance(value, str):
        raise ValueError(f"{option!r} must be text, not {_type(value)}")
    return value


def _conversion(target: Target, kind: str, options: dict[str, Any], defaults: Defaults) -> Conversion:
    if kind == "auto" and target.section is Section.ATTRIBUTES and target.name in defaults.texts:
        return converters.only_text
    if target.section is not Section.EMAIL:
        return TYPES[kind][1](options, defaults)
    if kind != "email":
        raise ValueError(f"the contact's email has the type 'email', not {kind!r}; leave out 'type'")
    return TYPES["email"][1]({}, defaults)


def _moment(options: dict[str, Any]) -> Conversion:
    return formats.moment(format=options.get("format"), zone=options.get("timezone"))


def constant_field(target: Target, spec: Mapping[str, Any]) -> Field:
    if others := [repr(option) for option in spec if option != "constant"]:
        raise ValueError(f"a 'constant' is sent as it is; leave out {', '.join(others)}")
    if target.section is Section.EMAIL:
        raise ValueError("all rows would be one contact; name a column")
    try:
        value = validation.json_value(spec["constant"], "'constant'")
    except CrmInvalidValueError as wrong:
        raise ValueError(wrong.message) from None
    return Field(target, None, True, lambda row: value, {"constant": value})


def _default(given: Any, convert: Conversion) -> Callable[[Any], Any]:
    if is_empty(given):
        raise ValueError("'default' is empty; use 'empty' to say what an empty value becomes")
    try:
        value = convert(given.strip() if isinstance(given, str) else given)
    except ConversionError as wrong:
        raise ValueError(f"'default' is {wrong}") from None
    return lambda empty: value


def _fallback(empty: Empty) -> Callable[[Any], Any]:
    if empty == "keep":
        return lambda given: given if isinstance(given, str) else None  # JSON has no form for NaN
    value = {"skip": LEFT_OUT, "clear": "", "null": None}[empty]
    return lambda given: value


def _no_email(_given: Any) -> Any:
    raise ConversionError("empty", "give an email address, or leave out the row")


FORMULA_SIGNS = frozenset("#=E")
"""First characters of a failed formula (`#REF!`, `Err:502`), and of one that gives a text."""


def read_column(
    column: str, convert: Conversion, fallback: Callable[[Any], Any], *, optional: bool = False
) -> Callable[[Mapping[str, Any]], Any]:
    is_path, keeps_text = "." in column, convert is converters.auto
    other = "leave out the row" if fallback is _no_email else "make the field optional in the mapping"
    fix = f"add it to the row, or {other}"

    def read(row: Mapping[str, Any]) -> Any:
        given = row.get(column, _MISSING)
        if given is _MISSING and is_path:
            given = value_at(row, column, _MISSING)
        if isinstance(given, str):
            written = given.strip()
            if written[:1] in FORMULA_SIGNS:
                if is_error_value(written):
                    raise ConversionError("an error value of a spreadsheet", ERROR_FIX)
                written = without_formula(written)
            if not written:
                return fallback(given)
            text = written if written.isascii() else whole_text(written)
            return text if keeps_text else _without_error_values(convert(text))
        if given is _MISSING:
            if optional:
                return fallback(None)
            raise ConversionError("column missing", fix)
        if isinstance(given, UnreadableValue):
            raise ConversionError(
                "a value that Python cannot hold", "correct it, or cast it to text in the query or file"
            )
        return fallback(given) if is_empty(given) else _without_error_values(convert(given))

    return read


def _without_error_values(value: Any) -> Any:
    """The value; the parts of a list or an object are checked as a cell is.

    :raises ConversionError: if one is a spreadsheet's value for a failed formula
    """
    if not isinstance(value, str) and isinstance(value, (list, Mapping)):  # the second check is ten times slower
        for part in value.values() if isinstance(value, Mapping) else value:
            _without_error_values(part)
            if isinstance(part, str) and is_error_value(part.strip()):
                raise ConversionError("an error value of a spreadsheet", ERROR_FIX)
    return value


def _type(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"
