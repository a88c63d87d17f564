from datetime import timedelta

from airflow.sdk import DAG

from crm_provider.operators.load import CrmLoadContactsOperator

with DAG(
    "ours",
    default_args={"retries": 3, "retry_delay": timedelta(seconds=1)},
    params={"file": "/data/leads.csv", "rejects": "/data/rejects.jsonl", "state": "/data/leads.state"},
):
    CrmLoadContactsOperator(
        task_id="load", source="{{ params.file }}", rejects_path="{{ params.rejects }}", state_path="{{ params.state }}"
    )
