"""What the loads of each kind of record share: arguments, and files as their source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from crm_provider.files.parquet import check_pyarrow
from crm_provider.load.kinds.contacts import CONTACTS
from crm_provider.load.kinds.deals import DEALS
from crm_provider.load.mapping.fields import Empty
from crm_provider.load.options import Mode, PlanName
from crm_provider.load.rows import SourceError
from crm_provider.load.sources.options import check_options, checked_format
from crm_provider.observability.lineage import Lineage, lineage_of_files
from crm_provider.operators.load_base import CrmLoadOperator
from crm_provider.tasks.arguments import rendered
from crm_provider.tasks.mixins import naming_task
from crm_provider.tasks.templates import hide_list, hide_rows, is_mapped, with_connection

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from crm_provider.load.mapping.deal_mapper import DealMode
    from crm_provider.load.sources.source import Source
    from crm_provider.tasks.arguments import LoadArguments, PathsOrAddresses, PathsOrRows, Templated


class HidesSuppression:
    """The suppression list of an operator, whose addresses are never shown."""

    if TYPE_CHECKING:
        task_id: str

    @property
    def suppression(self) -> Any:
        """As Airflow shows it: for a list only its length."""
        return self._suppression

    @suppression.setter
    def suppression(self, value: Any) -> None:
        if value is ...:  # as a generated DAG has it
            with naming_task(type(self), self.task_id):
                raise SourceError("suppression is ..., a placeholder: give the addresses, or the path of a file")
        self._suppression = hide_list(value, "address", "addresses")


class CrmContactLoadOperator(HidesSuppression, CrmLoadOperator):
    """Base of the loads of contacts.

    Without a mapping, the column ``email`` is the address and all others are attributes:
    :class:`~crm_provider.load.mapping.mapper.Mapper`.

    :param mode: ``upsert``, ``create`` (existing contacts are left alone) or ``update`` (new ones are rejected)
    :param plan: ``auto`` takes the plan with the fewest calls; ``learned`` upserts in the order that the rows so far
        suggest; ``compare`` reads all contacts of the CRM first and sends only what differs
    :param empty: what an empty value becomes unless the mapping says it: ``skip``, ``clear`` or ``keep``
    :param region: country of phone numbers without ``+`` unless the mapping says it: ``"BR"``
    :param lowercase_email: convert addresses to lower case
    :param suppression: addresses, or hashes of them, that are never written to: a list, a path or a pattern of files
    :param list_ids: segmentation lists that each contact is added to
    :param resubscribe: also add contacts to the lists that the CRM shows as unsubscribed or blacklisted
    """

    kind = CONTACTS
    template_fields: Sequence[str] = ("suppression", "list_ids", *CrmLoadOperator.template_fields)

    def __init__(
        self,
        *,
        mode: Mode = "upsert",
        plan: PlanName = "auto",
        empty: Empty = "skip",
        region: str | None = None,
        lowercase_email: bool = False,
        suppression: PathsOrAddresses | None = None,
        list_ids: Templated[str | Sequence[str]] = (),
        resubscribe: bool = False,
        **kwargs: Unpack[LoadArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.mode, self.plan, self.empty = mode, plan, empty
        self.region, self.lowercase_email = region, lowercase_email
        self.suppression = suppression
        self.list_ids, self.resubscribe = rendered(list_ids), resubscribe
        self.check_at_parse(mode=mode)


class CrmDealLoadOperator(CrmLoadOperator):
    """Base of the loads of deals.

    The fields of the mapping are ``deal_id``, ``stage_id``, ``pipeline_id``, ``contact_id`` or ``contact_email``, and
    attributes: :class:`~crm_provider.load.mapping.deal_mapper.DealMapper`.

    :param mode: ``move``, ``update``, ``create``, or ``upsert`` (found by its id, or by its contact and pipeline)
    :param plan: ``auto`` takes the plan with the fewest calls; ``compare`` reads all deals of the CRM first and sends
        only what differs
    :param empty: what an empty value becomes unless the mapping says it: ``skip``, ``clear`` or ``keep``
    :param only_from_stages: stages that a deal may leave: a deal in another stage is left alone and counted as skipped
    """

    kind = DEALS
    template_fields: Sequence[str] = ("only_from_stages", *CrmLoadOperator.template_fields)

    def __init__(
        self,
        *,
        mode: DealMode = "upsert",
        plan: Literal["auto", "compare"] = "auto",
        empty: Empty = "skip",
        only_from_stages: Templated[str | Sequence[str]] = (),
        **kwargs: Unpack[LoadArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.mode, self.plan, self.empty = mode, plan, empty
        self.only_from_stages = rendered(only_from_stages)
        self.check_at_parse(mode=mode)


class LoadsFiles:
    """An operator whose source is files or rows.

    :param source: path, URL or pattern of files (CSV, JSON lines, Parquet; also gzip), a list of them, a list of rows,
        a table that speaks Arrow's C stream (pandas, polars, DuckDB, pyarrow), or another task's result. For rows,
        Airflow stores and shows only their number
    :param source_format: ``csv``, ``tsv``, ``jsonl`` or ``parquet``, if the file name does not show it
    :param source_options: how to read the files: ``delimiter``, ``encoding``, ``quotechar``, ``header``,
        ``skip_lines`` (notes before the header line), ``null_values`` (words that stand for no value, also in a list
        of rows): :class:`~crm_provider.load.sources.options.FileOptions`
    """

    if TYPE_CHECKING:
        task_id: str
        source_files: Sequence[Any]
        source_format: str | None
        source_options: Mapping[str, Any] | None

    def set_source(self, source: PathsOrRows, format_: str | None, options: Mapping[str, Any] | None) -> None:
        """Check and keep the arguments of the source."""
        with naming_task(type(self), self.task_id):
            check_pyarrow(source, checked_format(format_))
            if not is_mapped(self):
                check_options(source, format_, options)
        self.source = source
        self.source_format, self.source_options = format_, options

    @classmethod
    def check_mapped(cls, given: Mapping[str, Any]) -> None:
        super().check_mapped(given)  # type: ignore[misc]
        with naming_task(cls, given.get("task_id")):
            check_options(given.get("source"), given.get("source_format"), given.get("source_options"))

    @property
    def source(self) -> Any:
        """As Airflow shows it: for rows only their number."""
        return self._source

    @source.setter
    def source(self, value: Any) -> None:
        self._source = hide_rows(value)

    def _arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = super()._arguments()  # type: ignore[misc]
        return {**arguments, "source": getattr(self, "_source", None)}

    def open_source(self) -> Source:
        """The rows of the source."""
        from crm_provider.load.sources.source import open_source

        return open_source(with_connection(self.source), format=self.source_format, options=self.source_options)

    def lineage_inputs(self) -> Lineage:
        """The files; none for hidden rows, because rows have no name."""
        return lineage_of_files(self.source, self.source_files)
