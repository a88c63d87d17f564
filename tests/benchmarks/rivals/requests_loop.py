import csv
import time
from collections import Counter
from datetime import timedelta
from urllib.parse import quote

import requests
import tenacity
from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG, Connection
from airflow.sdk.exceptions import AirflowFailException

SECONDS_PER_CALL = 0.2


def is_temporary(error):
    if isinstance(error, requests.HTTPError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    return isinstance(error, requests.ConnectionError | requests.Timeout | requests.exceptions.ChunkedEncodingError)


@tenacity.retry(
    retry=tenacity.retry_if_exception(is_temporary),
    wait=tenacity.wait_exponential_jitter(initial=0.5, max=10),
    stop=tenacity.stop_after_attempt(5),
    reraise=True,
)
def call(session, method, url, body):
    started = time.monotonic()
    response = session.request(method, url, json=body, timeout=30)
    time.sleep(max(0, SECONDS_PER_CALL - (time.monotonic() - started)))
    if response.status_code != 409:
        response.raise_for_status()
    return response


def upsert(session, url, email, attributes):
    response = call(session, "POST", url, {"email": email, "attributes": attributes})
    if response.status_code != 409:
        return "created"
    call(session, "PUT", f"{url}/{quote(email, safe='')}", attributes).raise_for_status()
    return "updated"


def load(params, ti):
    connection = Connection.get("crm_http")
    counts, failed = Counter(), []
    with requests.Session() as session, open(params["file"], newline="", encoding="utf-8") as file:
        session.headers["x-api-key"] = connection.password
        for row in csv.DictReader(file):
            email = row.pop("email")
            attributes = {name: value for name, value in row.items() if value}
            try:
                counts[upsert(session, f"{connection.host}/contacts", email, attributes)] += 1
            except requests.RequestException as error:
                failed.append({"email": email, "error": str(error)})
    ti.xcom_push(key="counts", value=dict(counts))
    if failed:
        with open(params["rejects"], "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["email", "error"])
            writer.writeheader()
            writer.writerows(failed)
        raise AirflowFailException(f"{len(failed)} rows were not loaded: {params['rejects']}")


with DAG(
    "requests_loop",
    default_args={"retries": 3, "retry_delay": timedelta(seconds=1)},
    params={"file": "/data/leads.csv", "rejects": "/data/rejects.csv"},
):
    PythonOperator(task_id="load", python_callable=load)
