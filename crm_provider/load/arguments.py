"""A load's arguments as users give them, checked as far as they are known: when the DAG is read, and when it runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from crm_provider.client.validation import several
from crm_provider.files.paths import as_path
from crm_provider.load.mapping import Mapper
from crm_provider.load.options import LoadOptions
from crm_provider.load.rejects import RejectsFile
from crm_provider.load.rows import SourceError

_OPTIONS = frozenset(field.name for field in fields(LoadOptions))
_DEFAULTS = ("empty", "region", "lowercase_email")


def check_arguments(given: Mapping[str, Any], *, later: Callable[[Any], bool], complete: bool = True) -> None:
    """Check what can be checked.

    :param given: the arguments by name
    :param later: whether a value is known only when the task runs
    :param complete: whether an argument that is not given has its default; not so in a mapped task
    :raises SourceError: naming the argument, the problem and the fix
    """
    known = {name: value for name, value in given.items() if not later(value)}
    options_of(known).checked_lists()
    if "mapping" not in given or "mapping" in known:
        mapper_of(known)
    _check_rejects_path(known.get("rejects_path"))
    _check_paths_differ(known)
    if complete:
        _check_full_refresh(given)


FILES = ("source", "rejects", "rejects_path", "state_path", "report_path", "checkpoint_path")
"""Arguments that name files of a load, each for itself."""


def _check_paths_differ(known: Mapping[str, Any]) -> None:
    named: dict[str, str] = {}
    for argument in FILES:
        path = known.get(argument)
        if isinstance(path, (str, os.PathLike)):
            other = named.setdefault(str(path), argument)
            if other != argument:
                raise SourceError(f"{argument} is the file of {other}, which would be overwritten; give each its own")


def options_of(given: Mapping[str, Any]) -> LoadOptions:
    """The options among the arguments.

    :raises SourceError: if one is not valid, or two contradict each other
    """
    found = {name: value for name, value in given.items() if name in _OPTIONS}
    lists = found.get("list_ids") or ()
    found["list_ids"] = several(lists)
    return LoadOptions(**found)


def mapper_of(given: Mapping[str, Any]) -> Mapper:
    """The mapping among the arguments, ready for use.

    :raises SourceError: if a line of it makes no sense
    """
    return Mapper(given.get("mapping"), **{name: given[name] for name in _DEFAULTS if name in given})


def _check_full_refresh(given: Mapping[str, Any]) -> None:
    if given.get("full_refresh") and given.get("state_path") is None:
        raise SourceError("full_refresh=True needs state_path: the file that tells the next run what was loaded")


def _check_rejects_path(path: Any) -> None:
    if path is None or (isinstance(path, str) and "://" in path):
        return
    try:
        RejectsFile(as_path(path))
    except ValueError as wrong:
        raise SourceError(f"rejects_path: {wrong}") from None
