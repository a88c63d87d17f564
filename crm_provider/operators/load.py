"""Loads of contacts from files, lists, and the rejects of an earlier load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from crm_provider._compat import Context
from crm_provider.files.parquet import check_pyarrow
from crm_provider.files.paths import AnyPath
from crm_provider.load.rejected_files import RejectedFiles, find_rejects, read_rejects_of
from crm_provider.load.rejects.file import NoRejects, RejectedRows
from crm_provider.load.rows import SourceError
from crm_provider.load.sources.options import checked_format
from crm_provider.observability.lineage import Lineage, lineage_of_files
from crm_provider.operators.load_base import CrmLoadOperator
from crm_provider.tasks.outcome import skip
from crm_provider.tasks.templates import comes_later, hide_rows, is_mapped, path_of, unmask, with_connection

if TYPE_CHECKING:
    from typing import TypeAlias

    from airflow.sdk.definitions.mappedoperator import OperatorPartial
    from typing_extensions import Unpack

    from crm_provider.load.sources.source import Source
    from crm_provider.tasks.arguments import LoadArguments, PathArgument, PathsOrRows

    RejectsArgument: TypeAlias = PathArgument | Sequence[PathArgument | None] | None
    """A rejects file, a pattern, or a list of both."""

Only = Literal["retryable", "all"]


class CrmLoadContactsOperator(CrmLoadOperator):
    """Load contacts from files or from a list of rows.

    >>> CrmLoadContactsOperator(
    ...     task_id="load",
    ...     source="s3://aws_default@bucket/leads-{{ dag_run.run_after | ds }}.csv",
    ...     mapping={"email": "E-mail", "name": "Nome"},
    ...     rejects_path="/var/crm/rejects-{{ run_id }}.jsonl",
    ... )

    Further parameters and the XCom: :class:`~crm_provider.operators.load_base.CrmLoadOperator`.

    :param source: path, URL or pattern of files (CSV, JSON lines, Parquet; also gzip), a list of them, a list of rows,
        or a table that speaks Arrow's C stream (pandas, polars, DuckDB, pyarrow), also another task's result. Of rows
        Airflow stores and shows only how many there are
    :param source_format: ``csv``, ``tsv``, ``jsonl`` or ``parquet``, where the name of the file does not tell
    :param source_options: how the files are to be read: ``delimiter``, ``encoding``, ``quotechar``, ``header``,
        ``skip_lines`` (notes before the header line), ``null_values`` (words that stand for no value, also in a list
        of rows): :class:`~crm_provider.load.sources.options.FileOptions`
    """

    template_fields: Sequence[str] = ("source", *CrmLoadOperator.template_fields)
    policy_name = "CrmLoadContactsOperator"

    def __init__(
        self,
        *,
        source: PathsOrRows,
        source_format: str | None = None,
        source_options: Mapping[str, Any] | None = None,
        **kwargs: Unpack[LoadArguments],
    ) -> None:
        super().__init__(**kwargs)
        check_pyarrow(source, checked_format(source_format))
        self.source = source
        self.source_format, self.source_options = source_format, source_options

    if TYPE_CHECKING:

        @classmethod
        def partial(
            cls,
            *,
            source: PathsOrRows = ...,
            source_format: str | None = ...,
            source_options: Mapping[str, Any] | None = ...,
            **kwargs: Unpack[LoadArguments],
        ) -> OperatorPartial: ...

    @property
    def source(self) -> Any:
        """As Airflow shows it: of rows only how many there are."""
        return self._source

    @source.setter
    def source(self, value: Any) -> None:
        self._source = hide_rows(value)

    def _arguments(self) -> dict[str, Any]:
        return {**super()._arguments(), "source": getattr(self, "_source", None)}

    def open_source(self) -> Source:
        from crm_provider.load.sources.source import open_source

        source = unmask(self.source)
        if isinstance(source, str) and source.lstrip().startswith("[{"):
            raise SourceError(
                "source: the template made a text of a list of rows; give the task's output (source=extract.output), "
                "or set render_template_as_native_obj=True for the DAG"
            )
        return open_source(with_connection(source), format=self.source_format, options=self.source_options)

    def lineage_inputs(self) -> Lineage:
        return lineage_of_files(self.source, self.source_files)  # not what is hidden in it: rows have no name


class CrmRetryRejectsOperator(CrmLoadOperator):
    """Send the rows of rejects files again, as they are or corrected.

    The task is skipped if there is no such file, because no row was rejected. Give it the mapping and the mode of the
    load that rejected the rows. Further parameters and the XCom:
    :class:`~crm_provider.operators.load_base.CrmLoadOperator`.

    :param rejects: the rejects file, for example ``"{{ ti.xcom_pull('load')['rejects_path'] }}"``; a pattern for those
        of a mapped load, ``"/data/rejects-{{ run_id }}.*.jsonl"``; or a list of both
    :param only: ``retryable``: rows that may succeed as they are; ``all``: also rows that need a correction first
    """

    template_fields: Sequence[str] = ("rejects", *CrmLoadOperator.template_fields)
    policy_name = "CrmRetryRejectsOperator"
    _rows: RejectedRows | RejectedFiles | None = None

    def __init__(self, *, rejects: RejectsArgument, only: Only = "retryable", **kwargs: Unpack[LoadArguments]) -> None:
        super().__init__(**kwargs)
        if only not in get_args(Only):
            raise SourceError(f"only={only!r} is unknown; use one of {', '.join(get_args(Only))}")
        self.rejects = rejects
        self.only = only
        known = not any(comes_later(path) or "://" in str(path) for path in (rejects, self.rejects_path))
        if known and not is_mapped(self):
            self._check_paths(_given_paths(rejects))

    if TYPE_CHECKING:

        @classmethod
        def partial(
            cls,
            *,
            rejects: RejectsArgument = ...,
            only: Only = ...,
            **kwargs: Unpack[LoadArguments],
        ) -> OperatorPartial: ...

    def execute(self, context: Context) -> Any:
        if not _given_paths(self.rejects):  # the XCom of a load that rejected no row
            skip("Nothing to send: the load before has no rejects file.")
        return super().execute(context)

    def open_source(self) -> Source:
        paths = find_rejects(_given_paths(self.rejects))
        self._check_paths(paths)
        self.source_files = paths
        try:
            self._rows = read_rejects_of(paths, retryable_only=self.only == "retryable")
        except NoRejects as nothing:
            skip(f"Nothing to send: {nothing}.", cause=nothing)
        return self._rows

    def call(self, context: Context) -> dict[str, Any]:
        result = super().call(context)
        if self._rows is not None and self._rows.left_out:
            self.log.warning(
                "%d row(s) of the rejects file are not retryable and were left out: correct them, and send them with "
                "only='all'.",
                self._rows.left_out,
            )
        return {**result, "left_out": 0 if self._rows is None else self._rows.left_out}

    def lineage_inputs(self) -> Lineage:
        return lineage_of_files(self.rejects, self.source_files)

    def _check_paths(self, rejects: Sequence[AnyPath]) -> None:
        own = self._path("rejects_path")
        if own is not None and any(_same_file(own, path) for path in rejects):
            raise SourceError(
                "rejects_path is the file that rejects reads; give the rows that fail again a file of their own"
            )


def _given_paths(rejects: Any) -> list[AnyPath]:
    """The paths and patterns of the argument, without those of loads that rejected no row."""
    given = rejects if isinstance(rejects, (list, tuple)) else [rejects]
    return [path_of(path, "rejects") for path in given if path not in (None, "", "None")]


def _same_file(one: AnyPath, other: AnyPath) -> bool:
    """Whether two paths are one file, however they are written."""
    if isinstance(one, Path) and isinstance(other, Path):
        return one.resolve() == other.resolve()
    return str(one) == str(other)
