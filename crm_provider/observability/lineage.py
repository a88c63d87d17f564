"""OpenLineage for loads and extracts: inputs, outputs and row counts.

Airflow's OpenLineage provider (``pip install 'airflow-provider-crm[openlineage]'``) calls the operators; without it
nothing is imported. It does so in a separate process, where connections must not be read. So lineage contains only
what the task already knows.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from crm_provider.observability.assets import SCHEME, crm_assets, dataset_of
from crm_provider.observability.links import ALIASES

Lineage: TypeAlias = Any
"""``OperatorLineage`` of Airflow's OpenLineage provider; None without the provider."""

MAX_FILES = 100
"""Maximum number of files listed one by one; beyond it only the task's argument is reported."""


class _ReportsLineage:
    """The methods that Airflow's OpenLineage provider calls."""

    @abc.abstractmethod
    def _lineage(self, *, failed: bool = False) -> Lineage:
        """Inputs and outputs, with counts if they are known."""

    def get_openlineage_facets_on_start(self) -> Lineage:
        return self._lineage()

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Lineage:
        return self._lineage()

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> Lineage:
        return self._lineage(failed=True)


class LoadLineage(_ReportsLineage):
    """Lineage of operators that load records. A failed load has written the rows that it counted."""

    def _lineage(self, *, failed: bool = False) -> Lineage:
        return lineage_of_load(self)


class ExtractLineage(_ReportsLineage):
    """Lineage of operators that extract a listing into a file. A failed extract leaves no file."""

    def _lineage(self, *, failed: bool = False) -> Lineage:
        return lineage_of_extract(self, failed=failed)


class TableLineage(_ReportsLineage):
    """Lineage of operators that write a listing into a table. A failed transfer leaves the table as it was."""

    def _lineage(self, *, failed: bool = False) -> Lineage:
        return lineage_of_table(self, failed=failed)


def lineage_of_load(operator: Any) -> Lineage:
    """The known inputs and outputs of a load; None without the OpenLineage provider."""
    try:
        from airflow.providers.openlineage.extractors import OperatorLineage
    except ImportError:
        return None
    found = operator.lineage_inputs()
    result = operator.last_result or {}
    inputs = found.inputs if found is not None else []
    if len(inputs) == 1 and "rows" in result:
        inputs = [_counted_input(inputs[0], int(result["rows"]))]
    outputs = []
    written = _crm_dataset(operator, operator.kind.options.records, operator.outlets)
    if written is not None and not operator.checks_only:
        names = [name for name in ("created", "updated", "deleted") if name in result]
        count = sum(int(result[name]) for name in names) if names else None
        outputs = [_counted_output(*written, count)]
    return OperatorLineage(inputs=inputs, outputs=outputs, job_facets=found.job_facets if found is not None else {})


def lineage_of_extract(operator: Any, *, failed: bool = False) -> Lineage:
    """The known input and output of an extract; None without the OpenLineage provider."""
    try:
        from airflow.providers.openlineage.extractors import OperatorLineage
    except ImportError:
        return None
    from airflow.providers.common.compat.openlineage.facet import InputDataset

    result = operator.last_result or {}
    count = int(result["records"]) if "records" in result else None
    read = _crm_dataset(operator, operator.listing, operator.inlets)
    inputs = [] if read is None else [_counted_input(InputDataset(namespace=read[0], name=read[1]), count)]
    changes = result.get("changes")
    written = count if changes is None else sum(int(changes[kind]) for kind in ("created", "updated", "deleted"))
    is_known = bool(result) or not operator.has_instances()  # the index is inserted when the instance runs
    outputs = [_counted_output(*file_dataset(str(operator.target)), written)] if is_known and not failed else []
    return OperatorLineage(inputs=inputs, outputs=outputs)


def lineage_of_table(operator: Any, *, failed: bool = False) -> Lineage:
    """The listing that is read and the table that is written; None without the OpenLineage provider."""
    try:
        from airflow.providers.openlineage.extractors import OperatorLineage
    except ImportError:
        return None
    from airflow.providers.common.compat.openlineage.facet import InputDataset

    result = operator.last_result or {}
    read = _crm_dataset(operator, operator.listing, operator.inlets)
    records = int(result["records"]) if "records" in result else None
    inputs = [] if read is None else [_counted_input(InputDataset(namespace=read[0], name=read[1]), records)]
    hook, connection = operator.database
    if failed or hook is None:
        return OperatorLineage(inputs=inputs)
    rows = int(result["rows"]) if "rows" in result else None
    found = lineage_of_query(f"INSERT INTO {operator.table} (id) VALUES (1)", hook, connection)  # noqa: S608 - never run
    outputs = [_counted_output(dataset.namespace, dataset.name, rows) for dataset in found.outputs]
    return OperatorLineage(inputs=inputs, outputs=outputs)


def lineage_of_files(given: Any, opened: Sequence[Any] = ()) -> Lineage:
    """The files that a load reads.

    :param given: the task's argument: a path, a pattern or a list of them; rows have no dataset
    :param opened: the files found for it
    """
    try:
        from airflow.providers.openlineage.extractors import OperatorLineage
    except ImportError:
        return None
    from airflow.providers.common.compat.openlineage.facet import InputDataset

    paths = list(opened) if 0 < len(opened) <= MAX_FILES else given
    if not isinstance(paths, (list, tuple)):
        paths = [paths]
    texts = [str(path) for path in paths if isinstance(path, str) or hasattr(path, "parts")]
    datasets = [file_dataset(text) for text in texts]
    return OperatorLineage(inputs=[InputDataset(namespace=namespace, name=name) for namespace, name in datasets])


def lineage_of_query(sql: str, hook: Any, connection: Any) -> Lineage:
    """A query and the tables that it reads, if the database's hook supports OpenLineage.

    :param hook: the database hook; None if it was not opened yet
    """
    try:
        from airflow.providers.openlineage.extractors import OperatorLineage
        from airflow.providers.openlineage.sqlparser import SQLParser
    except ImportError:
        return None
    from airflow.providers.common.compat.openlineage.facet import SQLJobFacet

    describe = getattr(hook, "get_openlineage_database_info", None)
    database = describe(connection) if describe is not None else None
    if database is None:
        return OperatorLineage(job_facets={"sql": SQLJobFacet(query=SQLParser.normalize_sql(sql))})
    parser = SQLParser(
        dialect=hook.get_openlineage_database_dialect(connection), default_schema=hook.get_openlineage_default_schema()
    )
    return parser.generate_openlineage_metadata_from_sql(
        sql=sql, hook=hook, database_info=database, database=None, sqlalchemy_engine=None, use_connection=False
    )


def file_dataset(path: str) -> tuple[str, str]:
    """Namespace and name of a file's dataset, without the connection in its URL.

    >>> file_dataset("s3://aws_default@bucket/in/leads.csv")
    ('s3://bucket', 'in/leads.csv')
    """
    scheme, found, rest = path.partition("://")
    if not found or scheme in ("file", "local"):
        return "file", str(PurePosixPath(rest if found else path))
    authority, _, key = rest.partition("/")
    return f"{ALIASES.get(scheme, scheme)}://{authority.rpartition('@')[2]}", key or "/"


def _crm_dataset(operator: Any, listing: str, assets: Any) -> tuple[str, str] | None:
    """The dataset of the task's asset, else of the host of a connection that was read."""
    for asset in crm_assets(assets, listing):
        return dataset_of(asset.uri)
    hook: Any = vars(operator).get("hook")  # not created here: that would read the connection
    base_url = getattr(hook, "base_url", None)
    return None if base_url is None else (f"{SCHEME}://{urlsplit(base_url).netloc}", listing)


def _counted_input(dataset: Any, count: int | None) -> Any:
    from airflow.providers.common.compat.openlineage.facet import InputDataset

    facets: Mapping[str, Any] = getattr(dataset, "inputFacets", None) or {}
    if count is not None:
        from openlineage.client.facet_v2 import data_quality_metrics_input_dataset as metrics

        facet = metrics.DataQualityMetricsInputDatasetFacet(columnMetrics={}, rowCount=count)
        facets = {**facets, "dataQualityMetrics": facet}
    return InputDataset(
        namespace=dataset.namespace, name=dataset.name, facets=dataset.facets or {}, inputFacets=dict(facets)
    )


def _counted_output(namespace: str, name: str, count: int | None) -> Any:
    from airflow.providers.common.compat.openlineage.facet import OutputDataset, OutputStatisticsOutputDatasetFacet

    facets: Any = {} if count is None else {"outputStatistics": OutputStatisticsOutputDatasetFacet(rowCount=count)}
    return OutputDataset(namespace=namespace, name=name, outputFacets=facets)
