"""The fields of the CRM that a mapping can name."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from crm_provider.client import validation
from crm_provider.load.rows import SourceError
from crm_provider.values.suggest import nearest


class Place(IntEnum):
    """Where in a contact a field is."""

    EMAIL = 0
    ATTRIBUTES = 1
    ORIGIN = 2


@dataclass(frozen=True)
class Target:
    """A field of the CRM."""

    place: Place
    name: str

    @property
    def label(self) -> str:
        """The shortest name that a user can write for it."""
        if self.place is Place.ORIGIN:
            return f"origin.{self.name}"
        return f"attributes.{self.name}" if "." in self.name else self.name

    @property
    def path(self) -> str:
        """The unmistakable name: the same for two spellings of one field."""
        return f"attributes.{self.name}" if self.place is Place.ATTRIBUTES else self.label


def target_of(name: Any) -> Target:
    """The field that a mapping's key names.

    :raises SourceError: if it names none
    """
    if not isinstance(name, str) or not name.strip() or name != name.strip():
        raise SourceError(f"mapping[{name!r}]: a field's name must be text, not empty and without space around it")
    if name == "email":
        return Target(Place.EMAIL, name)
    prefix, dot, rest = name.partition(".")
    if prefix == "origin" and rest:
        return Target(Place.ORIGIN, rest)
    if prefix == "attributes" and rest:
        return Target(Place.ATTRIBUTES, _attribute(rest, name))
    if dot:
        hint = nearest(prefix, ("origin", "attributes")) or "attributes"
        meant = f"attributes.{name}" if hint == "attributes" and prefix[:4] != "attr" else f"{hint}.{rest}"
        raise SourceError(
            f"mapping[{name!r}]: a name with a dot starts with 'origin.' or 'attributes.'; did you mean {meant!r}?"
        )
    if name in validation.RESERVED_ATTRIBUTES:
        raise SourceError(f"mapping[{name!r}]: name a single field of it; did you mean '{name}.<name>'?")
    return Target(Place.ATTRIBUTES, name)


def _attribute(name: str, key: str) -> str:
    if name in validation.RESERVED_ATTRIBUTES:
        raise SourceError(
            f"mapping[{key!r}]: no attribute can be called {name!r}: the CRM's calls use that name for something else; "
            "choose another"
        )
    return name
