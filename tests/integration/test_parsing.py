"""Modules that a DAG file imports at parse: those that define tasks, not those that only run them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from crm_provider.get_provider_info import get_provider_info

DAG_FILE = """
from airflow.sdk import DAG
from crm_provider.operators.contacts import CrmUpsertContactOperator
from crm_provider.operators.extract import CrmExtractContactsOperator
from crm_provider.operators.load import CrmLoadContactsOperator
from crm_provider.sensors.deals import CrmDealStageSensor
from crm_provider.transfers.crm_to_sql import CrmToSqlOperator
from crm_provider.transfers.sql_to_crm import SqlToCrmContactsOperator

with DAG("parsed"):
    CrmUpsertContactOperator(task_id="write", contact_email="ada@example.com")
    CrmExtractContactsOperator(task_id="extract", target="/data/contacts.csv")
    CrmDealStageSensor(task_id="wait", deal_id="{{ params.deal }}", stage_ids="{{ params.stage }}", deferrable=True)
    CrmLoadContactsOperator(task_id="load", source="/data/l.csv", mapping={"email": "E"}, rejects_path="/data/r.jsonl")
    CrmToSqlOperator(task_id="table", listing="deals", sql_conn_id="database", table="deals", mode="replace")
    SqlToCrmContactsOperator(task_id="transfer", sql="SELECT 1", sql_conn_id="database")
"""

ONLY_WHEN_RUN = {
    "airflow.triggers.base",
    "crm_provider.client.client",
    "crm_provider.hooks.crm",
    "crm_provider.load.job",
    "crm_provider.extract.extractor",
    "crm_provider.extract.reader",
    "crm_provider.load.sources.source",
    "crm_provider.rate_limit",
    "crm_provider.waiting.poller",
    "crm_provider.client.transport",
    "openlineage",
    "phonenumbers",
    "pyarrow",
    "redis",
    "requests",
}


EXAMPLES = sorted(map(str, (Path(__file__).resolve().parents[2] / "example_dags").glob("*.py")))

PROGRAM = """
import json, runpy, sys, warnings
import airflow.sdk
from airflow.sdk import DAG, BaseOperator

def new():
    return sorted(set(sys.modules) - before)

before, found = set(sys.modules), {}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    IMPORTS
    found["operators"] = new()
    for file in sys.argv[1:]:
        runpy.run_path(file)
    found["examples"] = new()
    import crm_provider.ui.plugin
    found["plugin"] = new()
found["warnings"] = [
    str(warning.message) for warning in caught if "crm_provider" in warning.filename or warning.filename in sys.argv
]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def parsed(airflow_db: Path) -> dict[str, list[str]]:
    """Modules beyond those of Airflow after each step of one process, and warnings about this package."""
    info = get_provider_info()
    modules = [name for part in ("operators", "sensors") for group in info[part] for name in group["python-modules"]]
    imports = "".join(f"import {name}\n" for name in modules) + DAG_FILE
    program = PROGRAM.replace("IMPORTS", f"exec({imports!r})")
    done = subprocess.run(
        [sys.executable, "-c", program, *EXAMPLES], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_dag_parse_imports_no_runtime_modules(parsed: dict[str, list[str]]) -> None:
    assert "crm_provider.operators.load" in parsed["operators"]
    assert ONLY_WHEN_RUN & set(parsed["operators"]) == set()


def test_example_dags_parse_without_warnings_and_runtime_modules(parsed: dict[str, list[str]]) -> None:
    assert len(EXAMPLES) == 6
    assert parsed["warnings"] == []
    assert {"crm_provider.sandbox", "requests"} & set(parsed["examples"]) == set()


def test_operators_and_the_plugin_do_not_import_the_page(parsed: dict[str, list[str]]) -> None:
    assert not [name for name in parsed["examples"] if name.startswith("crm_provider.ui")]
    assert "crm_provider.ui.plugin" in parsed["plugin"]
    assert {"crm_provider.ui.app", "crm_provider.ui.query"} & set(parsed["plugin"]) == set()
