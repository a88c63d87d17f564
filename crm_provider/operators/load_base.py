"""What all load operators share: arguments that are checked at DAG parse, and the end of a load as a task state."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from crm_provider import errors as e
from crm_provider._compat import AirflowRuntimeError, Context
from crm_provider.errors.on_error import Work
from crm_provider.files.lock import InUse
from crm_provider.files.paths import AnyPath, indexed
from crm_provider.load.kinds.kind import Kind
from crm_provider.load.options import ERRORS_IN_A_ROW, Duplicates, OnInvalid
from crm_provider.load.report import LoadInterrupted, LoadStopped, LoadUnsaved, TooManyRejects
from crm_provider.load.rows import NoSuchFile, SourceError
from crm_provider.observability.assets import note_load
from crm_provider.observability.lineage import Lineage, LoadLineage
from crm_provider.observability.links import CrmRejectsLink, CrmReportLink
from crm_provider.operators.base import CrmOperator
from crm_provider.tasks.arguments import rendered
from crm_provider.tasks.mixins import naming_task
from crm_provider.tasks.outcome import (
    Facts,
    fail,
    fail_without_retry,
    publish_reason,
    raise_for_decision,
    report_other,
    short_traceback,
)
from crm_provider.tasks.templates import (
    check_rendered,
    comes_later,
    is_mapped,
    path_of,
    path_text,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from crm_provider.hooks.load_run import LoadRun
    from crm_provider.load.sources.source import Source
    from crm_provider.load.workers import CancelToken
    from crm_provider.tasks.arguments import CrmRowArguments, PathArgument, Templated

ARGUMENTS = (
    "mapping", "full_refresh", "duplicates", "on_invalid", "max_rejects", "rejects_path", "outcomes_path",
    "outcome_keys", "state_path", "report_path", "checkpoint_path", "errors_in_a_row", "dry_run",
)  # fmt: skip
"""Arguments of all loads that are checked together, with those of their kind."""


class CrmLoadOperator(LoadLineage, CrmOperator):
    """Base of the loads.

    XCom, also if too many rows were rejected or an error stopped the load: numbers of rows by outcome (their sum is
    ``rows``) and of errors by type, calls, duration, and paths. It never holds a row.

    :param mapping: field of the CRM -> column, or a mapping with ``column``, ``type``, ...; None: the columns' names
        decide
    :param full_refresh: with ``state_path``: send every row and rebuild the state file
    :param duplicates: which of several rows for one record is sent: the ``last``, the ``first``, or none (``reject``)
    :param on_invalid: ``reject`` rows that are not valid, or ``stop`` before the first call
    :param max_rejects: most rejected rows with which the task succeeds: a number or a share such as ``"1%"``
    :param rejects_path: file for the rejected rows, unchanged, each with the reason
    :param outcomes_path: file for the outcome of every row (JSON lines, CSV or Parquet, by its suffix)
    :param outcome_keys: columns of the source that ``outcomes_path`` shows, to join it with
    :param state_path: file that remembers what was loaded: the next run leaves out the rows that did not change
    :param report_path: file for a Markdown report; by default in the site's ``report_directory``, else beside the
        rejects file
    :param checkpoint_path: file that a retry resumes from, instead of Airflow's task state store
    :param errors_in_a_row: the load stops after this many consecutive rows that failed because of the server
    :param dry_run: check all rows and plan, but write nothing
    :raises ValueError: if an argument is not valid; at DAG parse if the argument is known then
    """

    work = Work.LOAD
    kind: Kind
    """Of the records that the rows become."""
    template_fields: Sequence[str] = (
        "mapping", "rejects_path", "outcomes_path", "outcome_keys", "state_path", "report_path", "checkpoint_path",
        *CrmOperator.template_fields,
    )  # fmt: skip
    template_fields_renderers: ClassVar[dict[str, str]] = {"mapping": "json"}
    operator_extra_links = (CrmRejectsLink(), CrmReportLink())

    source_files: Sequence[AnyPath] = ()
    """The files that are read, once they are known."""

    _cancel_token: CancelToken | None = None
    _map_index = -1
    """Of the task instance, once it runs."""

    def __init__(
        self,
        *,
        mapping: Templated[Mapping[str, Any]] | None = None,
        full_refresh: bool = False,
        duplicates: Duplicates = "last",
        on_invalid: OnInvalid = "reject",
        max_rejects: int | str = 0,
        rejects_path: PathArgument | None = None,
        outcomes_path: PathArgument | None = None,
        outcome_keys: Templated[str | Sequence[str]] = (),
        state_path: PathArgument | None = None,
        report_path: PathArgument | None = None,
        checkpoint_path: PathArgument | None = None,
        errors_in_a_row: int = ERRORS_IN_A_ROW,
        dry_run: bool = False,
        **kwargs: Unpack[CrmRowArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.mapping = rendered(mapping)
        self.full_refresh, self.duplicates = full_refresh, duplicates
        self.on_invalid, self.max_rejects = on_invalid, max_rejects
        self.rejects_path = path_text(rejects_path)
        self.outcomes_path, self.outcome_keys = path_text(outcomes_path), rendered(outcome_keys)
        self.state_path = path_text(state_path)
        self.report_path = path_text(report_path)
        self.checkpoint_path = path_text(checkpoint_path)
        paths = {
            "rejects": rejects_path, "outcomes": outcomes_path, "state": state_path, "report": report_path,
            "checkpoint": checkpoint_path,
        }  # fmt: skip
        self._own_paths = frozenset(f"{name}_path" for name, path in paths.items() if "map_index" in str(path))
        self.errors_in_a_row = errors_in_a_row
        self.checks_only = dry_run  # Airflow's operators have a method dry_run

    def check_at_parse(self, *, mode: str = "upsert") -> None:
        """Check the arguments and set the policy: the last step of ``__init__`` of a subclass.

        :raises ValueError: if an argument is not valid
        """
        self.set_error_policy(self.on_error, mode=mode, operator=self.policy_operator())
        if not is_mapped(self):
            with naming_task(type(self), self.task_id):
                self.kind.check_arguments(self._arguments(), later=comes_later)

    @classmethod
    def check_mapped(cls, given: Mapping[str, Any]) -> None:
        with naming_task(cls, given.get("task_id")):
            kind = cls.kind_of(given)
            known = {name: given[name] for name in (*ARGUMENTS, *kind.arguments) if name in given}
            kind.check_arguments(known, later=comes_later, complete=False)

    def policy_operator(self) -> str | None:
        """The operator whose rules apply, None for this one."""
        return None

    @classmethod
    def kind_of(cls, given: Mapping[str, Any]) -> Kind:  # noqa: ARG003 - an operator may have an argument for it
        """The kind of record that a task with these arguments loads."""
        return cls.kind

    # -- the run ---------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def open_source(self) -> Source:
        """The rows."""

    def lineage_inputs(self) -> Lineage:
        """The source of the rows, for OpenLineage; None if it has no name."""
        return None

    @short_traceback
    def execute(self, context: Context) -> Any:
        """Load, and end according to the counts and the error policy."""
        try:
            check_rendered(self)
            self.kind.check_arguments(self._arguments(), later=lambda _: False)  # what came from templates, too
            result = self.call(context)
        except (InUse, NoSuchFile) as unready:  # may change: Airflow gives up this try, or a file arrives
            publish_reason(unready, context)
            fail(unready, context, remark=_nothing_sent(context))
        except (LoadUnsaved, LoadInterrupted) as ended:
            fail(ended, context, facts=self._files())
        except LoadStopped as stopped:
            raise_for_decision(stopped.error, stopped.decision, context, facts=self._files())
        except SourceError as wrong:
            publish_reason(wrong, context)
            says = "" if "nothing was sent" in str(wrong) else f". {_nothing_sent(context)}"
            fail_without_retry(str(wrong), cause=wrong, happened=f"{str(wrong).rstrip('.')}{says}")
        except e.CrmError as error:
            from crm_provider.load.row_results import decide_run

            raise_for_decision(error, decide_run(error, self.error_policy), context)
        except Exception as other:  # of a source such as a database, a skip, or a published result
            if self.last_result is None:
                report_other(other, context)
            raise
        context["crm_result"] = result  # type: ignore[typeddict-unknown-key]
        return result

    def call(self, context: Context) -> dict[str, Any]:
        run = self._prepared(context)
        try:
            result = run.run()
        except TooManyRejects as many:
            self._push_result(run, context)
            facts = [("What to do", many.advice), ("Report", many.result.get("report_path"))]
            fail_without_retry(str(many), happened=many.problem, facts=facts, why=many.why_no_retry)
        except LoadUnsaved as unsaved:
            if run.result is None:
                publish_reason(unsaved.unwritten, context)
            else:
                self._push_result(run, context)
            raise
        except LoadStopped:
            self._push_result(run, context)
            raise
        except LoadInterrupted:
            with suppress(AirflowRuntimeError):  # Airflow may accept nothing more from a task that it has ended
                self._push_result(run, context)
            raise
        finally:
            self.last_result, self.source_files = run.result, run.source_files
        if self.outlets:
            note_load(self, context, result)
        return dict(result)

    def on_kill(self) -> None:
        """Stop the load because Airflow ends the task; the next try continues from there."""
        if self._cancel_token is not None:
            self._cancel_token.set()

    # -- before ----------------------------------------------------------------------------------------------

    def _arguments(self) -> dict[str, Any]:
        names = [name for name in (*ARGUMENTS, *self.kind.arguments) if name != "dry_run"]
        return {**{name: getattr(self, name) for name in names}, "dry_run": self.checks_only}

    def _prepared(self, context: Context) -> LoadRun:
        from crm_provider.hooks.load_run import LoadRun
        from crm_provider.tasks.state import checkpoints_for, site_report

        ti = context["ti"]
        self._map_index = -1 if ti.map_index is None else ti.map_index
        checkpoint = self._path("checkpoint_path")
        run = LoadRun(
            kind=self.kind,
            given={**self._arguments(), "suppression": getattr(self, "suppression", None)},
            policy=self.error_policy,
            crm_conn_id=self.crm_conn_id,
            bulk_client=self.hook.bulk_client,
            open_source=self.open_source,
            path=self._path,
            report_path=self._path("report_path") or site_report(ti),
            checkpoints=partial(checkpoints_for, context, path=checkpoint),
            context=context,
            timeout=self.execution_timeout,
        )
        self._cancel_token = run.cancel_token
        return run

    def _path(self, name: str) -> AnyPath | None:
        """A file that the load writes. Each instance of a mapped task has its own.

        Without ``map_index`` in the template, all instances would write the same file and overwrite each other's rows.

        :raises SourceError: if it is not a path, or the file is deleted with the task's pod before anyone can read it
        """
        from crm_provider.tasks.state import check_kept

        value = getattr(self, name)
        if value is None:
            return None
        path = path_of(value, name)
        if not self.checks_only:
            check_kept({name: path})
        if self._map_index < 0 or name in self._own_paths:
            return path
        return indexed(path, self._map_index)

    def _files(self) -> Facts:
        """The files for people that a load which ended early has written."""
        result = self.last_result or {}
        return [("Rejects", result.get("rejects_path")), ("Report", result.get("report_path"))]

    def _push_result(self, run: LoadRun, context: Context) -> None:
        """Push the XCom of a load that fails: Airflow pushes only what ``execute`` returns."""
        if self.do_xcom_push:
            context["ti"].xcom_push(key="return_value", value=run.result)


def _nothing_sent(context: Context) -> str:
    """The remark about an error that was found before the first row was sent."""
    ti = context["ti"]
    is_first = ti.try_number == 1 and ti.get_first_reschedule_date(context) is None
    return "Nothing was sent." if is_first else "Nothing was sent this time."
