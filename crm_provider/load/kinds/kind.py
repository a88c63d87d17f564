"""What the engine of a load needs for a kind of record: its options, its mapping, and the CRM's side of a try.

A new kind is a :class:`Kind`, with a :class:`~crm_provider.load.rows.Record`, a subclass of
:class:`~crm_provider.load.options.LoadOptions` and one of :class:`~crm_provider.load.kinds.remote.RemoteRecords`, which
is imported when a load runs: the parsing of a DAG file needs the description only.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from crm_provider.client import validation
from crm_provider.files.paths import as_path
from crm_provider.load.options import LoadOptions
from crm_provider.load.outcomes.file import check_outcomes
from crm_provider.load.rejects.file import RejectsFile
from crm_provider.load.rows import SourceError

if TYPE_CHECKING:
    from crm_provider.load.kinds.remote import RemoteRecords, TrySetup
    from crm_provider.load.preflight import RowMapper


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of record that a load can write.

    :param name: of the kind, as the rejects operator takes it
    :param arguments: of the options and the mapping; other kinds may not have them
    :param mapper: makes the mapping of it; called with the mapping and those of ``mapper_options`` that are given
    :param remote_class: the CRM's side of one try, as ``module:class``: a module that is imported when a load runs
    :param keeps_state: whether a state file may record that a row was loaded before
    :param limited_by: the argument that limits all tries of a run together, so that a retry needs a checkpoint
    """

    name: str
    options: type[LoadOptions]
    arguments: tuple[str, ...]
    mapper: Callable[..., RowMapper]
    mapper_options: tuple[str, ...]
    remote_class: str
    keeps_state: bool = True
    limited_by: str | None = None

    def remote(self, setup: TrySetup) -> RemoteRecords:
        """The CRM's side of one try."""
        module, _, name = self.remote_class.partition(":")
        made: RemoteRecords = getattr(importlib.import_module(module), name)(setup)
        return made

    def options_of(self, given: Mapping[str, Any]) -> LoadOptions:
        """The options among the arguments.

        :raises SourceError: if one is not valid, or two contradict each other
        """
        names = {field.name for field in fields(self.options)}
        return self.options(**{name: value for name, value in given.items() if name in names})

    def mapper_of(self, given: Mapping[str, Any]) -> RowMapper:
        """The mapping among the arguments, ready for use.

        :raises SourceError: if a line of it is not valid
        """
        return self.mapper(given.get("mapping"), **{n: given[n] for n in self.mapper_options if n in given})

    def check_arguments(self, given: Mapping[str, Any], *, later: Callable[[Any], bool], complete: bool = True) -> None:
        """Check what can be checked.

        :param given: the arguments by name
        :param later: whether a value is known only when the task runs
        :param complete: whether a missing argument has its default; False in a mapped task
        :raises SourceError: naming the argument, the problem and the fix
        """
        _check_switches(given)
        known = {name: value for name, value in given.items() if name in LIMITS or not later(value)}
        self.options_of(known).check()
        if "mapping" not in given or "mapping" in known:
            self.mapper_of(known)
        if not self.keeps_state and given.get("state_path") is not None:
            raise SourceError(f"state_path has no meaning for {self.name}: leave it out")
        _check_rejects_path(known.get("rejects_path"))
        if known.get("outcomes_path") is not None or known.get("outcome_keys"):
            check_outcomes(given, known)
        _check_paths_differ(known)
        if complete:
            _check_full_refresh(given)


SWITCHES = ("full_refresh", "dry_run", "lowercase_email", "resubscribe", "every_spelling")
"""Arguments of loads that are True or False. None of them is a template field."""

LIMITS = ("max_rejects", "max_deletes", "errors_in_a_row")
"""Numbers that are not template fields either."""


def _check_switches(given: Mapping[str, Any]) -> None:
    for name in SWITCHES:
        if not isinstance(given.get(name, False), bool):
            raise SourceError(validation.not_boolean(given[name], name))


FILES = ("source", "rejects", "rejects_path", "outcomes_path", "state_path", "report_path", "checkpoint_path")
"""Arguments that name files of a load; no two may name the same file."""


def _check_paths_differ(known: Mapping[str, Any]) -> None:
    named: dict[str, str] = {}
    for argument in FILES:
        path = known.get(argument)
        if isinstance(path, (str, os.PathLike)):
            other = named.setdefault(str(path), argument)
            if other != argument:
                raise SourceError(f"{argument} is the file of {other}, which would be overwritten; give each its own")


def _check_full_refresh(given: Mapping[str, Any]) -> None:
    if given.get("full_refresh") and given.get("state_path") is None:
        raise SourceError("full_refresh=True needs state_path: the file that records which rows were loaded")


def _check_rejects_path(path: Any) -> None:
    if path is None or (isinstance(path, str) and "://" in path):
        return
    try:
        RejectsFile(as_path(path))
    except ValueError as wrong:
        raise SourceError(f"rejects_path: {wrong}") from None
