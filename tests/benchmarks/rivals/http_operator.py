import csv
import json
from datetime import timedelta
from urllib.parse import quote

from airflow.providers.http.operators.http import HttpOperator
from airflow.sdk import DAG, task

ARGS = {
    "http_conn_id": "crm_http",
    "headers": {"x-api-key": "{{ conn.crm_http.password }}", "Content-Type": "application/json"},
    "extra_options": {"check_response": False, "timeout": 30},
    "max_active_tis_per_dagrun": 1,
    "retries": 3,
    "retry_delay": timedelta(seconds=1),
}


def known(response):
    sent = json.loads(response.request.body)
    return {**sent, "existed": response.status_code == 409}


with DAG("http_operator", default_args=ARGS, params={"file": "/data/leads.csv"}):

    @task
    def bodies(params):
        with open(params["file"], newline="", encoding="utf-8") as file:
            return [
                json.dumps({"email": row.pop("email"), "attributes": {k: v for k, v in row.items() if v}})
                for row in csv.DictReader(file)
            ]

    create = HttpOperator.partial(
        task_id="create",
        method="POST",
        endpoint="contacts",
        response_check=lambda response: response.ok or response.status_code == 409,
        response_filter=known,
    ).expand(data=bodies())

    @task(trigger_rule="all_done")
    def updates(created):
        return [
            {"endpoint": f"contacts/{quote(one['email'], safe='')}", "data": json.dumps(one["attributes"])}
            for one in created
            if one["existed"]
        ]

    update = HttpOperator.partial(
        task_id="update", method="PUT", response_check=lambda response: response.ok
    ).expand_kwargs(updates(create.output))

    @task(trigger_rule="one_failed", retries=0)
    def watch():
        raise RuntimeError("not all rows were loaded")

    [create, update] >> watch()
