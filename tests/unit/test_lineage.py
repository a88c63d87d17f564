"""Lineage: datasets and counts of loads and extracts. OpenLineage is optional."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG

from crm_provider.observability.assets import create_asset
from crm_provider.observability.lineage import file_dataset, lineage_of_files, lineage_of_query
from crm_provider.operators.extract import CrmExtractDealsOperator
from crm_provider.operators.load import CrmLoadContactsOperator, CrmRetryRejectsOperator
from crm_provider.transfers.crm_to_sql import CrmToSqlOperator
from crm_provider.transfers.sql_to_crm import SqlToCrmContactsOperator

pytest.importorskip("airflow.providers.openlineage", reason="an optional extra")

HOST = "https://connect.pingback.com/v2"
RESULT = {"rows": 10, "created": 4, "updated": 3, "unchanged": 1, "rejected": 2}


def datasets(found: Any) -> list[tuple[str, str]]:
    return [(dataset.namespace, dataset.name) for dataset in found]


def ran(operator: Any, result: dict[str, Any] | None) -> Any:
    """An operator in the state after its run."""
    operator.hook.base_url = HOST
    operator.last_result = result
    return operator


@pytest.mark.parametrize(
    ("path", "dataset"),
    [
        ("/in/leads.csv", ("file", "/in/leads.csv")),
        ("file:///in/leads.csv", ("file", "/in/leads.csv")),
        ("s3://aws_default@bucket/in/leads.csv", ("s3://bucket", "in/leads.csv")),
        ("s3a://bucket/in/leads.csv", ("s3://bucket", "in/leads.csv")),
        ("gs://bucket", ("gs://bucket", "/")),
    ],
)
def test_file_is_a_dataset_without_its_connection(path: str, dataset: tuple[str, str]) -> None:
    assert file_dataset(path) == dataset


@pytest.mark.parametrize("when", ["complete", "failure"])
def test_lineage_of_a_finished_load(when: str) -> None:
    operator = ran(CrmLoadContactsOperator(task_id="load", source="/in/leads-*.csv"), RESULT)
    operator.source_files = (Path("/in/leads-1.csv"),)
    found = getattr(operator, f"get_openlineage_facets_on_{when}")(None)
    assert datasets(found.inputs) == [("file", "/in/leads-1.csv")]
    assert found.inputs[0].inputFacets["dataQualityMetrics"].rowCount == 10
    assert datasets(found.outputs) == [("crm://connect.pingback.com", "contacts")]
    assert found.outputs[0].outputFacets["outputStatistics"].rowCount == 7


def test_starting_load_has_only_its_arguments_and_outlets() -> None:
    operator = CrmLoadContactsOperator(task_id="load", source=["/in/a.csv", "s3://c@bucket/b.csv"])
    found = operator.get_openlineage_facets_on_start()
    assert datasets(found.inputs) == [("file", "/in/a.csv"), ("s3://bucket", "b.csv")]
    assert found.outputs == []
    assert "hook" not in vars(operator), "that would read the connection"
    operator.outlets = [create_asset(account="acme")]
    found = operator.get_openlineage_facets_on_start()
    assert datasets(found.outputs) == [("crm://connect.pingback.com", "acme/contacts")]
    assert found.outputs[0].outputFacets == {}


@pytest.mark.parametrize("source", [[{"email": "ada@example.com"}], '[{"email": "ada@example.com"}]'])
def test_in_memory_rows_have_no_name_and_are_not_shown(source: Any) -> None:
    found = ran(CrmLoadContactsOperator(task_id="load", source=source), RESULT).get_openlineage_facets_on_complete(None)
    assert found.inputs == []
    assert "ada" not in str(found)


def test_dry_run_writes_no_dataset() -> None:
    operator = ran(CrmLoadContactsOperator(task_id="load", source="/in/a.csv", dry_run=True), RESULT)
    assert operator.get_openlineage_facets_on_complete(None).outputs == []


def test_lineage_of_resent_rejects() -> None:
    operator = ran(CrmRetryRejectsOperator(task_id="again", rejects="/var/crm/r.jsonl"), None)
    assert datasets(operator.get_openlineage_facets_on_complete(None).inputs) == [("file", "/var/crm/r.jsonl")]


def test_many_files_are_reported_by_the_pattern() -> None:
    files = [Path(f"/in/{number}.csv") for number in range(101)]
    assert datasets(lineage_of_files("/in/*.csv", files[:100]).inputs)[0] == ("file", "/in/0.csv")
    assert datasets(lineage_of_files("/in/*.csv", files).inputs) == [("file", "/in/*.csv")]


class DatabaseHook:
    """As database hooks that support OpenLineage."""

    def get_openlineage_database_info(self, connection: Any) -> Any:
        from airflow.providers.openlineage.sqlparser import DatabaseInfo

        return DatabaseInfo(scheme="postgres", authority=f"{connection.host}:5432", database="shop")

    def get_openlineage_database_dialect(self, connection: Any) -> str:
        return "postgres"

    def get_openlineage_default_schema(self) -> str:
        return "public"


def test_query_reads_its_tables() -> None:
    sql = "SELECT email FROM people JOIN crm.leads USING (id) ORDER BY id;"
    operator = ran(SqlToCrmContactsOperator(task_id="load", sql=sql, sql_conn_id="shop"), RESULT)
    operator._database = DatabaseHook(), SimpleNamespace(host="db")
    found = operator.get_openlineage_facets_on_complete(None)
    assert sorted(datasets(found.inputs)) == [
        ("postgres://db:5432", "shop.crm.leads"),
        ("postgres://db:5432", "shop.public.people"),
    ]
    assert found.job_facets["sql"].query.startswith("SELECT email FROM people")
    assert datasets(found.outputs) == [("crm://connect.pingback.com", "contacts")]


def test_database_without_openlineage_support_reports_only_the_query() -> None:
    for hook in (None, object(), SimpleNamespace(get_openlineage_database_info=lambda connection: None)):
        found = lineage_of_query("SELECT 1", hook, None)
        assert (found.inputs, found.job_facets["sql"].query) == ([], "SELECT 1")


def test_lineage_of_an_extract() -> None:
    operator = CrmExtractDealsOperator(task_id="extract", target="s3://c@bucket/deals.csv", fields=["id"])
    start = operator.get_openlineage_facets_on_start()
    assert (start.inputs, datasets(start.outputs)) == ([], [("s3://bucket", "deals.csv")])
    done = ran(operator, {"records": 12}).get_openlineage_facets_on_complete(None)
    assert datasets(done.inputs) == [("crm://connect.pingback.com", "deals")]
    assert done.inputs[0].inputFacets["dataQualityMetrics"].rowCount == 12
    assert done.outputs[0].outputFacets["outputStatistics"].rowCount == 12
    failed = ran(operator, None).get_openlineage_facets_on_failure(None)
    assert (datasets(failed.inputs), failed.outputs) == ([("crm://connect.pingback.com", "deals")], [])
    with DAG("mapped", schedule=None):
        mapped = CrmExtractDealsOperator.partial(task_id="mapped", target="/deals.csv").expand(fields=[["id"]])
    instance = mapped.unmap({"fields": ["id"]})
    assert instance.get_openlineage_facets_on_start().outputs == [], "its file gets an index when it runs"
    assert len(ran(instance, {"records": 12}).get_openlineage_facets_on_complete(None).outputs) == 1


def test_lineage_of_a_table() -> None:
    operator = CrmToSqlOperator(task_id="t", listing="deals", sql_conn_id="db", table="sales.deals", mode="merge")
    assert operator.get_openlineage_facets_on_start().outputs == []
    ran(operator, {"records": 12, "rows": 5}).database = DatabaseHook(), SimpleNamespace(host="db")
    done = operator.get_openlineage_facets_on_complete(None)
    assert datasets(done.inputs) == [("crm://connect.pingback.com", "deals")]
    assert datasets(done.outputs) == [("postgres://db:5432", "shop.sales.deals")]
    assert done.outputs[0].outputFacets["outputStatistics"].rowCount == 5
    assert operator.get_openlineage_facets_on_failure(None).outputs == []


def test_openlineage_can_send_it() -> None:
    from openlineage.client.serde import Serde

    operator = ran(CrmLoadContactsOperator(task_id="load", source="/in/a.csv"), RESULT)
    found = operator.get_openlineage_facets_on_complete(None)
    sent = json.loads(Serde.to_json(found.outputs[0]))
    assert sent["outputFacets"]["outputStatistics"]["rowCount"] == 7
    assert json.loads(Serde.to_json(found.inputs[0]))["inputFacets"]["dataQualityMetrics"]["rowCount"] == 10


WITHOUT = """
import sys
PROVIDER = "airflow.providers.openlineage"
DISCOVERY = (PROVIDER, f"{PROVIDER}.get_provider_info")  # Airflow reads it of what is installed
def is_missing(name):
    return name.partition(".")[0] == "openlineage" or name.startswith(PROVIDER) and name not in DISCOVERY
class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if is_missing(name):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NotInstalled())
from crm_provider.operators.extract import CrmExtractDealsOperator
from crm_provider.operators.load import CrmLoadContactsOperator
from crm_provider.transfers.sql_to_crm import SqlToCrmContactsOperator
tried = [name for name in sys.modules if is_missing(name)]
for operator in (
    CrmLoadContactsOperator(task_id="a", source="/in/a.csv"),
    SqlToCrmContactsOperator(task_id="b", sql="SELECT 1", sql_conn_id="x"),
    CrmExtractDealsOperator(task_id="c", target="/out.csv", fields=["id"]),
):
    print(
        operator.get_openlineage_facets_on_start(),
        operator.get_openlineage_facets_on_complete(None),
        operator.get_openlineage_facets_on_failure(None),
    )
print("loaded", tried)
"""


def test_openlineage_is_optional() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-4:] == ["None None None"] * 3 + ["loaded []"]
