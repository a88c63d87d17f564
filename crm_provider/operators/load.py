"""Loads from files, lists, and the rejects of an earlier load: contacts, deals, and deletions of contacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from crm_provider._compat import Context
from crm_provider.files.paths import AnyPath
from crm_provider.load.kinds.contacts import CONTACTS
from crm_provider.load.kinds.deals import DEALS
from crm_provider.load.kinds.deletions import DELETIONS
from crm_provider.load.kinds.kind import Kind
from crm_provider.load.mapping.fields import Empty
from crm_provider.load.rejected_files import RejectedFiles, find_rejects, mapped_instead, read_rejects_of
from crm_provider.load.rejects.file import NoRejects, RejectedRows
from crm_provider.load.rows import SourceError, rows_text
from crm_provider.observability.lineage import Lineage, lineage_of_files
from crm_provider.operators.load_base import CrmLoadOperator
from crm_provider.operators.load_kinds import CrmContactLoadOperator, CrmDealLoadOperator, HidesSuppression, LoadsFiles
from crm_provider.tasks.arguments import rendered
from crm_provider.tasks.mixins import naming_task
from crm_provider.tasks.outcome import short_traceback, skip
from crm_provider.tasks.templates import comes_later, is_mapped, path_of
from crm_provider.values.suggest import check_choice

if TYPE_CHECKING:
    from typing import TypeAlias

    from airflow.sdk.definitions.mappedoperator import OperatorPartial
    from typing_extensions import Unpack

    from crm_provider.load.mapping.deal_mapper import DealMode
    from crm_provider.load.options import Mode, PlanName
    from crm_provider.load.sources.source import Source
    from crm_provider.tasks.arguments import (
        ContactLoadArguments,
        DealLoadArguments,
        LoadArguments,
        PathArgument,
        PathsOrAddresses,
        PathsOrRows,
        Templated,
    )

    RejectsArgument: TypeAlias = PathArgument | Sequence[PathArgument | None] | None
    """A rejects file, a pattern, or a list of both."""

Only = Literal["retryable", "all"]
KindName = Literal["contacts", "deals", "deletions"]


class CrmLoadContactsOperator(LoadsFiles, CrmContactLoadOperator):
    """Load contacts from files or from a list of rows.

    >>> CrmLoadContactsOperator(
    ...     task_id="load",
    ...     source="s3://aws_default@bucket/leads-{{ dag_run.run_after | ds }}.csv",
    ...     mapping={"email": "E-mail", "name": "Nome"},
    ...     rejects_path="/var/crm/rejects-{{ run_id }}.jsonl",
    ... )

    Further parameters and the XCom: :class:`~crm_provider.operators.load_base.CrmLoadOperator`.
    """

    template_fields: Sequence[str] = ("source", *CrmContactLoadOperator.template_fields)
    policy_name = "CrmLoadContactsOperator"

    def __init__(
        self,
        *,
        source: PathsOrRows,
        source_format: str | None = None,
        source_options: Mapping[str, Any] | None = None,
        **kwargs: Unpack[ContactLoadArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.set_source(source, source_format, source_options)

    if TYPE_CHECKING:

        @classmethod
        def partial(
            cls,
            *,
            source: PathsOrRows = ...,
            source_format: str | None = ...,
            source_options: Mapping[str, Any] | None = ...,
            **kwargs: Unpack[ContactLoadArguments],
        ) -> OperatorPartial: ...


class CrmLoadDealsOperator(LoadsFiles, CrmDealLoadOperator):
    """Load deals from files or from a list of rows: move, update or create them, or both (``upsert``).

    >>> CrmLoadDealsOperator(
    ...     task_id="won",
    ...     source="/data/won-{{ dag_run.run_after | ds }}.csv",
    ...     mapping={"deal_id": "deal", "stage_id": {"constant": "123e4567-e89b-12d3-a456-426614174000"}},
    ...     mode="move",
    ...     rejects_path="/var/crm/rejects-{{ run_id }}.jsonl",
    ... )

    Further parameters and the XCom: :class:`~crm_provider.operators.load_base.CrmLoadOperator`.
    """

    template_fields: Sequence[str] = ("source", *CrmDealLoadOperator.template_fields)
    policy_name = "CrmLoadDealsOperator"

    def __init__(
        self,
        *,
        source: PathsOrRows,
        source_format: str | None = None,
        source_options: Mapping[str, Any] | None = None,
        **kwargs: Unpack[DealLoadArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.set_source(source, source_format, source_options)

    if TYPE_CHECKING:

        @classmethod
        def partial(
            cls,
            *,
            source: PathsOrRows = ...,
            source_format: str | None = ...,
            source_options: Mapping[str, Any] | None = ...,
            **kwargs: Unpack[DealLoadArguments],
        ) -> OperatorPartial: ...


class CrmDeleteContactsOperator(LoadsFiles, CrmLoadOperator):
    """Delete the contacts with the addresses of a source, such as the requests under a privacy law.

    All contacts are read first, and then every contact that matches an address, in any spelling, is deleted. A
    contact that no longer exists counts as unchanged.

    >>> CrmDeleteContactsOperator(task_id="erase", source="/data/erasure-{{ ds }}.csv", max_deletes=50)

    Further parameters and the XCom: :class:`~crm_provider.operators.load_base.CrmLoadOperator`.

    :param mapping: ``{"email": <column>}``; None: the column ``email``
    :param max_deletes: most contacts that all tries together may delete; if there are more, none is deleted
    :param every_spelling: read all contacts (ten per call) and delete all spellings of an address; False makes one
        call for each given address
    """

    template_fields: Sequence[str] = ("source", *CrmLoadOperator.template_fields)
    policy_name = "CrmDeleteContactsOperator"
    kind = DELETIONS

    def __init__(
        self,
        *,
        source: PathsOrRows,
        max_deletes: int,
        every_spelling: bool = True,
        source_format: str | None = None,
        source_options: Mapping[str, Any] | None = None,
        **kwargs: Unpack[LoadArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.set_source(source, source_format, source_options)
        self.max_deletes, self.every_spelling = max_deletes, every_spelling
        self.check_at_parse(mode="delete")

    if TYPE_CHECKING:

        @classmethod
        def partial(
            cls,
            *,
            source: PathsOrRows = ...,
            max_deletes: int = ...,
            every_spelling: bool = ...,
            source_format: str | None = ...,
            source_options: Mapping[str, Any] | None = ...,
            **kwargs: Unpack[LoadArguments],
        ) -> OperatorPartial: ...


class CrmRetryRejectsOperator(HidesSuppression, CrmLoadOperator):
    """Send the rows of rejects files again, as they are or corrected.

    The task is skipped if there is no such file, because no row was rejected. Give it the kind, the mapping, the mode
    and the other options of the load that rejected the rows. Further parameters and the XCom:
    :class:`~crm_provider.operators.load_base.CrmLoadOperator`.

    :param rejects: the rejects file, for example ``"{{ ti.xcom_pull('load')['rejects_path'] }}"``; a pattern for those
        of a mapped load, ``"/data/rejects-{{ run_id }}.*.jsonl"``; or a list of both
    :param only: ``retryable``: rows that may succeed as they are; ``all``: also rows that need a correction first
    :param kind: the records of the load: ``contacts``, ``deals`` or ``deletions`` (of contacts)
    :param mode: of the load that rejected the rows; for deletions it has no meaning
    :param plan: as for the load
    :param empty: as for the load
    :param region: of contacts: country of phone numbers without ``+`` unless the mapping says it: ``"BR"``
    :param lowercase_email: of contacts: convert addresses to lower case
    :param suppression: of contacts: addresses, or hashes of them, that are never written to
    :param list_ids: of contacts: segmentation lists that each contact is added to
    :param resubscribe: of contacts: also add contacts to the lists that the CRM shows as unsubscribed or blacklisted
    :param only_from_stages: of deals: stages that a deal may leave
    :param max_deletes: of deletions: most contacts that all tries together may delete
    :param every_spelling: of deletions: delete all spellings of an address
    """

    template_fields: Sequence[str] = (
        "rejects", "suppression", "list_ids", "only_from_stages", *CrmLoadOperator.template_fields,
    )  # fmt: skip
    policy_name = "CrmRetryRejectsOperator"
    _rows: RejectedRows | RejectedFiles | None = None

    def __init__(
        self,
        *,
        rejects: RejectsArgument,
        only: Only = "retryable",
        kind: KindName = "contacts",
        mode: Mode | DealMode = "upsert",
        plan: PlanName = "auto",
        empty: Empty = "skip",
        region: str | None = None,
        lowercase_email: bool = False,
        suppression: PathsOrAddresses | None = None,
        list_ids: Templated[str | Sequence[str]] = (),
        resubscribe: bool = False,
        only_from_stages: Templated[str | Sequence[str]] = (),
        max_deletes: int = 0,
        every_spelling: bool = True,
        **kwargs: Unpack[LoadArguments],
    ) -> None:
        super().__init__(**kwargs)
        with naming_task(type(self), self.task_id):
            check_choice("only", only, get_args(Only))
            self.kind = _kind_named(kind)
        self.rejects, self.only = rejects, only
        self.mode, self.plan, self.empty = mode, plan, empty
        self.region, self.lowercase_email, self.suppression = region, lowercase_email, suppression
        self.list_ids, self.resubscribe = rendered(list_ids), resubscribe
        self.only_from_stages = rendered(only_from_stages)
        self.max_deletes, self.every_spelling = max_deletes, every_spelling
        with naming_task(type(self), self.task_id):
            self._refuse_options_of_others()
        self.check_at_parse(mode=mode)
        known = not any(comes_later(path) or "://" in str(path) for path in (rejects, self.rejects_path))
        if known and not is_mapped(self):
            with naming_task(type(self), self.task_id):
                self._check_paths(_given_paths(rejects))

    if TYPE_CHECKING:

        @classmethod
        def partial(
            cls,
            *,
            rejects: RejectsArgument = ...,
            only: Only = ...,
            kind: KindName = ...,
            mode: Mode | DealMode = ...,
            plan: PlanName = ...,
            empty: Empty = ...,
            region: str | None = ...,
            lowercase_email: bool = ...,
            suppression: PathsOrAddresses | None = ...,
            list_ids: Templated[str | Sequence[str]] = ...,
            resubscribe: bool = ...,
            only_from_stages: Templated[str | Sequence[str]] = ...,
            max_deletes: int = ...,
            every_spelling: bool = ...,
            **kwargs: Unpack[LoadArguments],
        ) -> OperatorPartial: ...

    @classmethod
    def kind_of(cls, given: Mapping[str, Any]) -> Kind:
        return _kind_named(given.get("kind", "contacts"))

    def policy_operator(self) -> str | None:
        """Rows of kinds other than contacts follow the rules of the load that rejected them."""
        return {DEALS.name: "CrmLoadDealsOperator", DELETIONS.name: "CrmDeleteContactsOperator"}.get(self.kind.name)

    def _refuse_options_of_others(self) -> None:
        """Refuse options of other kinds of records, which would be ignored silently."""
        for option, kind in OPTIONS_OF.items():
            given = not self.every_spelling if option == "every_spelling" else getattr(self, option)
            if kind != self.kind.name and given:
                raise SourceError(f"{option} is for kind={kind!r}, not {self.kind.name!r}; leave it out")

    @short_traceback
    def execute(self, context: Context) -> Any:
        if not _given_paths(self.rejects):  # the XCom of a load without rejected rows
            skip("Nothing to send: the earlier load has no rejects file.", context=context)
        return super().execute(context)

    def open_source(self) -> Source:
        from crm_provider.tasks.state import check_kept

        given = _given_paths(self.rejects)
        for path in given:
            check_kept({"rejects": path})  # of a load in another pod: a missing file proves nothing
        paths = find_rejects(given)
        self._check_paths(paths)
        self.source_files = paths
        try:
            self._rows = read_rejects_of(paths, retryable_only=self.only == "retryable", kind=self.kind.name)
        except NoRejects as nothing:
            if hint := mapped_instead(given):
                raise SourceError(f"rejects: {nothing}, but {hint}") from None
            skip(f"Nothing to send: {nothing}.", cause=nothing)
        return self._rows

    def call(self, context: Context) -> dict[str, Any]:
        result = super().call(context)
        if self._rows is not None and self._rows.left_out:
            self.log.warning(
                "Left out %s that cannot succeed unchanged. Correct them in the rejects file; only='all' sends them.",
                rows_text(self._rows.left_out),
            )
        return {**result, "left_out": 0 if self._rows is None else self._rows.left_out}

    def lineage_inputs(self) -> Lineage:
        return lineage_of_files(self.rejects, self.source_files)

    def _check_paths(self, rejects: Sequence[AnyPath]) -> None:
        own = self._path("rejects_path")
        if own is not None and any(_same_file(own, path) for path in rejects):
            raise SourceError(
                "rejects_path is the file that rejects reads; use another path for the rows that fail again"
            )


def _given_paths(rejects: Any) -> list[AnyPath]:
    """The paths and patterns of the argument, without those of loads without rejected rows."""
    given = rejects if isinstance(rejects, (list, tuple)) else [rejects]
    return [path_of(path, "rejects") for path in given if path not in (None, "", "None")]


def _same_file(one: AnyPath, other: AnyPath) -> bool:
    """Whether two paths, in any spelling, are the same file."""
    if isinstance(one, Path) and isinstance(other, Path):
        return one.resolve() == other.resolve()
    return str(one) == str(other)


OPTIONS_OF: Mapping[str, str] = {
    "region": "contacts", "lowercase_email": "contacts", "suppression": "contacts", "list_ids": "contacts",
    "resubscribe": "contacts", "only_from_stages": "deals", "max_deletes": "deletions", "every_spelling": "deletions",
}  # fmt: skip
"""Options of one kind of record."""


def _kind_named(name: Any) -> Kind:
    kinds = {kind.name: kind for kind in (CONTACTS, DEALS, DELETIONS)}
    check_choice("kind", name, tuple(kinds))
    return kinds[name]
