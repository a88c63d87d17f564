"""Reads all contacts into a table of the warehouse."""

from __future__ import annotations

from airflow.sdk import DAG

from crm_provider.transfers.crm_to_sql import CrmToSqlOperator

with DAG(
    "crm_to_sql",
    schedule=None,
    default_args={"retries": 3},
    max_active_runs=1,
):
    CrmToSqlOperator(
        task_id="crm_to_sql",
        listing="contacts",
        sql_conn_id="warehouse",
        table="crm_contacts",
        mode="merge",
        create_table=True,
        columns={
            "id": {},
            "email": {},
            "createdAt": {"column": "created_at"},
            "attributes.name": "varchar(200)",
        },
    )
