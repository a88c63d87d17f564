"""Whether the CRM shows the values that were sent: one idea of equality for contacts and deals, hook and loads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def shows(attributes: Any, wanted: Mapping[str, Any] | None) -> bool:
    """Whether attributes as the CRM shows them have all of these values: writing them would change nothing.

    :param attributes: of a record; anything but a mapping counts as none
    :param wanted: name -> value as it would be sent
    """
    found = attributes if isinstance(attributes, Mapping) else {}
    return all(name in found and same_value(found[name], value) for name, value in (wanted or {}).items())


def same_value(found: Any, wanted: Any) -> bool:
    """Whether two JSON values are the same. A number and its text count as equal, true and 1 do not.

    >>> same_value("5", 5), same_value(True, 1), same_value([True], [1])
    (True, False, False)
    """
    if _is_plain(found) and _is_plain(wanted) and isinstance(found, str) is not isinstance(wanted, str):
        return str(found) == str(wanted)
    return _same_json(found, wanted)


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)


def _same_json(found: Any, wanted: Any) -> bool:
    """Equality as JSON has it: a boolean is no number, at any depth."""
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        return found.keys() == wanted.keys() and all(_same_json(found[name], wanted[name]) for name in found)
    if isinstance(found, (list, tuple)) and isinstance(wanted, (list, tuple)):
        return len(found) == len(wanted) and all(map(_same_json, found, wanted))
    return bool(found == wanted)
