"""The names of a task's arguments: one that it does not have is refused with the nearest that it has, not its value."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable

from crm_provider.suggest import nearest


def check_names(operator: type, given: Iterable[str]) -> None:
    """Refuse arguments that an operator does not have. Airflow does so, too, but shows their values.

    :param given: names; those that begin with ``_`` are between Airflow and itself
    :raises TypeError: if there are any; it names the nearest that it has
    """
    known = _names(operator)
    wrong = [name for name in given if name not in known and not name.startswith("_")]
    if wrong:
        raise TypeError(f"{operator.__name__} has no argument {', '.join(_hinted(name, known) for name in wrong)}")


@functools.cache
def _names(operator: type) -> frozenset[str]:
    """What the ``__init__`` of the operator and those of its bases take by name."""
    made = [vars(base)["__init__"] for base in operator.__mro__[:-1] if "__init__" in vars(base)]
    parameters = (parameter for init in made for parameter in inspect.signature(init).parameters.values())
    named = {one.name for one in parameters if one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD)}
    return frozenset(named - {"self"})


def _hinted(name: str, known: Iterable[str]) -> str:
    close = nearest(name, sorted(known))
    return f"{name!r} (did you mean {close!r}?)" if close else repr(name)
