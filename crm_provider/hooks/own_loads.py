"""Loads that a user's own code runs: in a task, with the checkpoints of the task, or in a script."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from crm_provider import config
from crm_provider._compat import Context
from crm_provider.errors.on_error import Work
from crm_provider.errors.policy import ErrorPolicy, with_mode
from crm_provider.files.paths import AnyPath, indexed
from crm_provider.hooks.load_run import WRITTEN_PATHS, LoadRun
from crm_provider.load.kinds.kind import Kind
from crm_provider.load.report import LoadStopped
from crm_provider.load.rows import is_table
from crm_provider.load.sources.arrow_tables import ArrowSource
from crm_provider.load.sources.memory import IteratorSource
from crm_provider.load.sources.options import ROWS, FileOptions
from crm_provider.load.sources.source import Source, open_source
from crm_provider.load.state.checkpoint import Checkpoints, FileCheckpoints, NoCheckpoints
from crm_provider.tasks.arguments import ContactLoadSettings, DealLoadSettings, hinted
from crm_provider.tasks.outcome import current_context
from crm_provider.tasks.state import STATE_KEY, checkpoints_for, lost_files, site_report
from crm_provider.tasks.templates import path_of, with_connection

if TYPE_CHECKING:
    from crm_provider.client.client import CrmClient

log = logging.getLogger(__name__)

COUNT = "crm_loads"
"""Key in a task's context of the number of loads that this try has started."""


class Connection(Protocol):
    """The part of the hook that a load needs."""

    crm_conn_id: str

    @property
    def bulk_client(self) -> Callable[..., CrmClient]: ...


def load_rows(
    hook: Connection,
    kind: Kind,
    rows: Any,
    given: Mapping[str, Any],
    *,
    on_error: Any = None,
    source_format: str | None = None,
    source_options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Load rows; parameters, result and errors are those of :meth:`~crm_provider.hooks.crm.CrmHook.load_contacts`."""
    _check_names(kind, given)
    arguments = {"outcomes_path": None, "state_path": None, **given}
    if isinstance(rows, str):
        arguments["source"] = rows
    kind.check_arguments(arguments, later=lambda _: False)
    context = current_context()
    files = _Files(arguments, context)
    for problem in lost_files({name: files.path(name) for name in (*WRITTEN_PATHS, "report_path")}):
        log.warning("%s, unless this task uses the file itself.", problem)
    run = LoadRun(
        kind=kind,
        given=arguments,
        policy=_policy(kind, on_error, arguments.get("mode")),
        crm_conn_id=hook.crm_conn_id,
        bulk_client=hook.bulk_client,
        open_source=lambda: _opened(rows, source_format, source_options),
        path=files.path,
        report_path=files.path("report_path") or (None if context is None else site_report(context["ti"])),
        checkpoints=files.checkpoints,
        context=context,
        timeout=None if context is None else context["task"].execution_timeout,
    )
    try:
        return run.run()
    except LoadStopped as stopped:
        raise stopped.error from stopped


SETTINGS_OF = {"contacts": ContactLoadSettings, "deals": DealLoadSettings}
"""The arguments of a load, by the kind of record."""


def _check_names(kind: Kind, given: Mapping[str, Any]) -> None:
    """Refuse arguments that loads do not have; no value is shown.

    :raises TypeError: naming the first, and the nearest valid one
    """
    known = SETTINGS_OF[kind.name].__annotations__
    for name in given:
        if name not in known:
            raise TypeError(f"a load has no argument {hinted(name, known)}")


def _policy(kind: Kind, on_error: Any, mode: Any) -> ErrorPolicy:
    operator = with_mode(f"CrmLoad{kind.name.capitalize()}Operator", mode or kind.options().mode)
    return ErrorPolicy(on_error or {}, work=Work.LOAD, operator=operator, site=config.on_error(Work.LOAD))


def _opened(rows: Any, source_format: str | None, source_options: Mapping[str, Any] | None) -> Source:
    if isinstance(rows, Iterator) and source_format is None:
        source = ArrowSource if is_table(rows) else IteratorSource  # an Arrow stream is both
        return source(rows, null_values=FileOptions.of(source_options, format=ROWS).null_values)
    return open_source(with_connection(rows), format=source_format, options=source_options)


class _Files:
    """The files that the load writes, and its checkpoints.

    In a mapped task each instance has its own files: its index precedes the suffix.
    """

    def __init__(self, given: Mapping[str, Any], context: Context | None) -> None:
        self._given, self._context = given, context
        index = None if context is None else context["ti"].map_index
        self._index = -1 if index is None else index

    def path(self, name: str) -> AnyPath | None:
        value = self._given.get(name)
        if value is None:
            return None
        path = path_of(value, name)
        return path if self._index < 0 else indexed(path, self._index)

    def checkpoints(self, beside: AnyPath | None) -> Checkpoints:
        """In a task, each load has its own in the task's store, by order. In a script it is a file, if one is given."""
        path = self.path("checkpoint_path")
        if self._context is None:
            return NoCheckpoints() if path is None else FileCheckpoints(path)
        context: Any = self._context
        context[COUNT] = number = context.get(COUNT, 0) + 1
        key = STATE_KEY if number == 1 else f"{STATE_KEY}_{number}"
        return checkpoints_for(self._context, path=path, beside=beside, key=key)
