"""Modules that a DAG file imports at parse: those that define tasks, not those that only run them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

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


def test_dag_parse_imports_no_runtime_modules(airflow_db: Path) -> None:
    info = get_provider_info()
    modules = [name for part in ("operators", "sensors") for group in info[part] for name in group["python-modules"]]
    imports = "".join(f"import {name}\n" for name in modules)
    program = (
        f"import json, sys\nimport airflow.sdk\nfrom airflow.sdk import DAG, BaseOperator\nbefore = set(sys.modules)\n"
        f"{imports}{DAG_FILE}\nprint(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "crm_provider.operators.load" in loaded
    assert loaded & ONLY_WHEN_RUN == set()
