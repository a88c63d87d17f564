"""Operators that read a whole listing of the CRM into a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import XComArg

from crm_provider import errors as e
from crm_provider._compat import Context
from crm_provider.client import validation
from crm_provider.errors.on_error import Action
from crm_provider.extract.writers import (
    ColumnTypes,
    Format,
    IfChanged,
    Since,
    check_changes_since,
    check_column_types,
    check_if_changed,
    checked_fields,
    format_of,
    known_format,
)
from crm_provider.files.parquet import check_pyarrow
from crm_provider.files.paths import AnyPath, as_path, indexed
from crm_provider.observability.assets import note_listing
from crm_provider.observability.lineage import ExtractLineage
from crm_provider.observability.links import CrmExtractedFileLink
from crm_provider.operators.base import CrmOperator
from crm_provider.tasks.arguments import rendered
from crm_provider.tasks.mixins import naming_task
from crm_provider.tasks.outcome import retries_left
from crm_provider.tasks.templates import comes_later, is_mapped, path_of, path_text, with_connection

if TYPE_CHECKING:
    from airflow.sdk.definitions.mappedoperator import OperatorPartial
    from typing_extensions import Unpack

    from crm_provider.client.client import CrmClient
    from crm_provider.client.pagination import Listing
    from crm_provider.extract.changes import ChangeTracker
    from crm_provider.extract.partial_pages import Owner
    from crm_provider.tasks.arguments import CrmArguments, PathArgument, Templated


class MappedOutputs:
    """An operator that writes a listing: as with loads, each instance of a mapped task has its own files."""

    if TYPE_CHECKING:
        task_id: str
        dag: Any
        get_closest_mapped_task_group: Callable[[], Any]

    _given: Mapping[str, Any] = MappingProxyType({})
    """Arguments as they were given, before they are rendered."""

    def note_given(self, **arguments: Any) -> None:
        """Note arguments before they are rendered."""
        self._given = arguments

    def is_shared(self, name: str, ti: Any, *, any_template: bool = True) -> bool:
        """Whether the instances of a mapped task have the same value of an argument.

        :param any_template: whether each template may differ between them; otherwise only those that use ``map_index``
        """
        value = self._given[name]
        if value is None or ti.map_index is None or ti.map_index < 0:
            return False
        is_text = isinstance(value, (str, AnyPath))
        if is_mapped(self):
            if name not in (fixed := self._fixed()) or fixed[name] != value:  # expand gives it
                return False
        elif not is_text and comes_later(value) and not _is_from_outside(value):
            return False
        return not (is_text and comes_later(value) and (any_template or "map_index" in str(value)))

    def _fixed(self) -> Mapping[str, Any]:
        """The arguments of ``partial``, and the defaults of the DAG and the task group."""
        task = self.dag.get_task(self.task_id)
        scopes = (getattr(scope, "default_args", None) or {} for scope in (task.dag, task.task_group))
        return {name: value for given in (*scopes, task.partial_kwargs) for name, value in given.items()}

    def has_instances(self) -> bool:
        """Whether the task is an instance of a mapped task, which is known before it runs."""
        return is_mapped(self) or self.get_closest_mapped_task_group() is not None

    def separate_files(self, ti: Any, *names: str) -> None:
        """Insert the index of the instance into the paths that all instances share."""
        for name in names:
            if self.is_shared(name, ti, any_template=False):
                setattr(self, name, indexed(path_of(getattr(self, name), name), ti.map_index))


def _is_from_outside(value: Any) -> bool:
    """Whether a value in a mapped task group is the result of a task outside of such groups."""
    sources = [task for task, _ in XComArg.iter_xcom_references(value)]
    is_plain = isinstance(value, XComArg) and bool(sources)
    return is_plain and all(task.get_closest_mapped_task_group() is None for task in sources)


class _ExtractOperator(ExtractLineage, MappedOutputs, CrmOperator):
    """Read a listing, ten records per call, into a file: JSON lines, CSV or Parquet.

    The file appears only when it is complete. A retry continues after the last page that was saved; a cleared task
    starts again. The XCom says whether the listing changed while it was read.

    XCom: ``{"records", "pages", "calls", "total", "total_at_start", "duplicates", "changed_during_read", "path",
    "seconds"}``, and ``"changes"`` with ``changes_since``: counts, no values.

    :param target: path or URL of the file (``s3://conn_id@bucket/contacts.csv.gz``), or an ``ObjectStoragePath``; its
        suffix decides the format
    :param fields: only these fields, by dotted names such as ``attributes.name``; in tables the columns, in this order
    :param format: ``jsonl``, ``csv`` or ``parquet``, if the suffix does not say it
    :param if_changed: if the listing changed while it was read: ``warn``, ``fail``, or ``restart`` at most twice and
        then fail
    :param changes_since: ``last``: write only the records that were created or changed since the last run, and the ids
        of those that were removed, with the kind of change in ``crm_change``. It still reads all pages
    :param state_path: file that remembers the records of the last run; one for each task
    :param formula_guard: CSV: put an apostrophe before text that a spreadsheet could take for a formula
    :param column_types: Parquet: columns of ``text``, or types ``inferred`` from the records (numbers, timestamps,
        lists, structs)
    :raises ValueError: if an option is not valid; at DAG parse
    """

    template_fields: Sequence[str] = ("target", "fields", "state_path", *CrmOperator.template_fields)
    operator_extra_links = (CrmExtractedFileLink(),)
    publishes_reasons = True
    listing: ClassVar[Listing]

    def __init__(
        self,
        *,
        target: PathArgument,
        fields: Templated[Sequence[str]] | None = None,
        format: Format | None = None,  # noqa: A002 - as in every library for tables
        if_changed: IfChanged = "warn",
        formula_guard: bool = False,
        column_types: ColumnTypes = "text",
        changes_since: Since | None = None,
        state_path: PathArgument | None = None,
        **kwargs: Unpack[CrmArguments],
    ) -> None:
        super().__init__(**kwargs)
        with naming_task(type(self), self.task_id):
            check_if_changed(if_changed)
            check_column_types(column_types, format or known_format(str(target)))
            if format is not None:
                format_of("", format)
            check_pyarrow(target, format)
            if not is_mapped(self) and isinstance(target, (str, AnyPath)) and not comes_later(target):
                format_of(str(target).rpartition("/")[2], format)
            if isinstance(fields, (list, tuple)) and not is_mapped(self):  # otherwise an XCom that does not exist yet
                checked_fields(fields)
            if not is_mapped(self):
                check_changes_since(changes_since, state_path, fields)
            self.formula_guard = validation.boolean(formula_guard, "formula_guard")
        self.note_given(target=target, state_path=state_path)
        self.target = path_text(target)
        self.fields = rendered(fields)
        self.format = format
        self.if_changed = if_changed
        self.column_types = column_types
        self.changes_since = changes_since
        self.state_path = path_text(state_path)

    if TYPE_CHECKING:

        @classmethod
        def partial(
            cls,
            *,
            target: PathArgument = ...,
            fields: Templated[Sequence[str]] | None = ...,
            format: Format | None = ...,  # noqa: A002 - as above
            if_changed: IfChanged = ...,
            formula_guard: bool = ...,
            column_types: ColumnTypes = ...,
            changes_since: Since | None = ...,
            state_path: PathArgument | None = ...,
            **kwargs: Unpack[CrmArguments],
        ) -> OperatorPartial: ...

    def call(self, context: Context) -> dict[str, Any]:
        from crm_provider.extract.extractor import Extractor

        check_files(target=self.target, state_path=self.state_path)
        self.separate_files(context["ti"], "target", "state_path")
        with self.hook.bulk_client() as client:
            extract = Extractor(
                client,
                self.listing,
                with_connection(self.target),
                fields=self.fields,
                format=self.format,
                if_changed=self.if_changed,
                formula_guard=self.formula_guard,
                column_types=self.column_types,
                owner=owner_of(context["ti"]),
                tracker=tracker_of(
                    client, self.listing, self.changes_since, self.state_path, self.fields, context["ti"]
                ),
            )
            try:
                result = dict(extract.run())
            except e.CrmError as error:
                if not goes_on(self, error, context["ti"]):
                    extract.discard()
                raise
            except Exception:  # for example of a full disk: Airflow retries it
                if not retries_left(context["ti"]):
                    extract.discard()
                raise
        note_listing(self, context, result)
        return result


class CrmExtractContactsOperator(_ExtractOperator):
    """Read all contacts into a file; parameters and XCom are those of :class:`_ExtractOperator`."""

    policy_name = "CrmExtractContactsOperator"
    listing = "contacts"


class CrmExtractDealsOperator(_ExtractOperator):
    """Read all deals into a file; parameters and XCom are those of :class:`_ExtractOperator`."""

    policy_name = "CrmExtractDealsOperator"
    listing = "deals"


class CrmExtractListsOperator(_ExtractOperator):
    """Read all segmentation lists into a file; parameters and XCom are those of :class:`_ExtractOperator`.

    It does not read their members: the lists of a contact are in its field ``segmentedListsIds``.
    """

    policy_name = "CrmExtractListsOperator"
    listing = "lists"


def tracker_of(
    client: CrmClient, listing: Listing, since: Any, state_path: Any, fields: Any, ti: Any, *, merges: bool = False
) -> ChangeTracker | None:
    """Compares a listing with that of the task's last run; None without ``changes_since``.

    :param merges: whether the output keeps what an earlier try has written
    :raises CrmInvalidValueError: if the arguments do not fit together, once templates are rendered
    """
    from crm_provider.extract.changes import ChangeTracker

    try:
        check_changes_since(since, state_path, fields)
        if state_path is None:
            return None
        path = as_path(with_connection(state_path))
        return ChangeTracker(path, client.settings, listing, owner_of(ti), merges=merges)
    except ValueError as wrong:
        raise e.CrmInvalidValueError(str(wrong)) from None


def check_files(**paths: Any) -> None:
    """Refuse files that are deleted with the pod of the task.

    :raises CrmInvalidValueError: naming the argument; also if one is not a path
    """
    from crm_provider.tasks.state import check_kept

    try:
        check_kept({name: path_of(path, name) for name, path in paths.items() if path is not None})
    except ValueError as wrong:
        raise e.CrmInvalidValueError(str(wrong)) from None


def goes_on(operator: CrmOperator, error: e.CrmError, ti: Any) -> bool:
    """Whether another try, or this one after a wait, can use the pages read so far."""
    waits = isinstance(error, e.CrmThrottledError)
    return operator.decide(error).action is Action.RETRY and (waits or retries_left(ti) > 0)


def owner_of(ti: Any) -> Owner:
    """The task instance. Clearing the task raises ``max_tries``; a retry or a reschedule does not."""
    from crm_provider.extract.partial_pages import Owner
    from crm_provider.tasks.state import identity_of

    return Owner(work=identity_of(ti), epoch=int(ti.max_tries or 0))
