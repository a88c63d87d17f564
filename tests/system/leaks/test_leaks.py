"""A real Airflow stores no key, and row values only where the DAG's author put them.

All processes of Airflow run at level DEBUG, with its database, encryption, log files, triggerer, metrics, traces and
lineage. The tests search each file, each column of each table, and each exported span and metric.
``tests/unit/test_client.py`` and ``tests/unit/test_key_in_reprs.py`` show that the client itself never shows the data
that it sends, even without Airflow's masking.
"""

from __future__ import annotations

import json
import re
import sqlite3
import stat
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from airflow_runs import Run
from airflow_stack import AirflowStack

from crm_provider.sandbox import Sandbox, ids

from .mirror import SHORT, SPELLINGS, collector, mirror
from .searching import columns_of, files_below, pattern_of, search

pytest.importorskip("airflow.providers.openlineage", reason="an optional extra")

KEY = "Zq8x+Keyplanted/77==%27"
VALUES = {
    "email": "zq8xlocal.part+tag@zq8xdomain.example",
    "name": "Zq8xforename O'Zq8xsurname Ünïq",
    "phone": "+4930987654321",
    "webhook": "Zq8xwebhook",
}
REDIS_PASSWORD = "Zq8xredispass"
CONTROL = "Zq8ycontrol"

AWAITED = "Awaited"
"""The list that the deferred sensors wait for."""

SECRETS = ("Keyplanted", "Zq8xwebhook", "Zq8xredispass")
PERSONAL = ("zq8xlocal", "zq8xdomain", "zq8xforename", "zq8xsurname", "30987654321")

CASES = {
    "ok": 1, "m422": 2, "m403": 6, "m502": 6, "m418": 6, "m200": 6, "m500": 6, "m302": 6, "drop": 6, "slow": 6,
    "refused": 6,
}  # fmt: skip
"""Server -> its share of the operators: 1 for all operators, 6 for every sixth."""

MIRRORED = {
    "m422": "422", "m403": "403-message", "m502": "502-html", "m418": "418-list", "m200": "200-text",
    "m500": "500-message", "m302": "302", "drop": "drop", "slow": "slow",
}  # fmt: skip

ASKED_FOR = re.compile(
    r"leads\.csv|leads\.db|headless\.csv|extract_ok\.csv|.*\.rejects\.(csv|jsonl)|out/.*\.again\.jsonl"
)
"""Files of the user: sources, an extract, rejects."""

SHOWN = (
    b"INVALID_INPUT (422)", b"FORBIDDEN (403)", b"BAD_GATEWAY (502)", b"HTTP_418", b"HTTP_200", b"HTTP_302",
    b"INTERNAL_SERVER_ERROR (500)", b"CONNECTION", b"TIMEOUT", b"cannot be kept in Redis",
)  # fmt: skip
"""Parts of the failures in the tasks' logs."""

AUTHORS_COLUMNS = {
    "rendered_task_instance_fields.rendered_fields",  # template fields with the author's values
    "serialized_dag.data",  # the author's DAG
    "trigger.kwargs",  # template fields of a deferred sensor, while it waits
}

AUTHORS_LINE = re.compile(
    rb"Returned value was: \[\{'contact_email'|key='return_value', value=\[\{'contact_email'"
    rb"|SetRenderedFields\(|DeferTask\("
)
"""Airflow logs results of the author's own tasks, and at level DEBUG rendered fields and triggers."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The users' files."""
    made = tmp_path_factory.mktemp("leaks")
    (made / "out").mkdir(mode=0o700)
    people = [(f"{n}{VALUES['email']}", VALUES["name"], VALUES["phone"]) for n in range(3)]
    lines = [
        "mail;name;phone",
        *map(";".join, people),
        ";".join(people[0]),
        f"{VALUES['name']};;",
        f"{VALUES['email']};a;b;c",
    ]
    (made / "leads.csv").write_text("\n".join(lines))
    (made / "headless.csv").write_text("\n".join(map(";".join, people)))
    with closing(sqlite3.connect(made / "leads.db")) as base, base:
        base.execute("CREATE TABLE leads (mail, name, phone)")
        base.executemany("INSERT INTO leads VALUES (?, ?, ?)", [*people, ("no address", VALUES["name"], "x")])
    return made


@pytest.fixture(scope="module")
def left(airflow_stack: Callable[..., AirflowStack], tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Any:
    """Everything that a full run leaves behind."""
    dags = tmp_path_factory.mktemp("dags")
    (dags / "leak_dag.py").write_text(Path(__file__).with_name("leak_dag.py").read_text())
    seen: list[str] = []
    taken: list[tuple[str, bytes]] = []
    with ExitStack() as running:
        mirrored = running.enter_context(mirror(seen))
        telemetry = running.enter_context(collector(taken))
        sandbox = running.enter_context(Sandbox(rate=None, api_key=KEY))
        people(sandbox)
        stack = airflow_stack(dags, env=environment(folder, telemetry))
        configure(stack, sandbox.url, mirrored, folder)
        deferred = start(stack, "leaks_deferred")
        in_bulk, full = start(stack, "leaks_in_bulk"), start(stack, "leaks")
        waiting = database_while_waiting(stack, deferred)
        sandbox.store.add_to_lists(VALUES["email"], [ids.list_id(AWAITED)])
        runs = {run: stack.api.wait(run, id_, timeout=1200) for run, id_ in (deferred, in_bulk, full)}
        for last in ("leaks_in_tables", "leaks_control"):  # last, because they delete the contacts of the others
            stack.api.wait_for_dag(last)
        runs["leaks_in_tables"] = stack.api.run_dag("leaks_in_tables")
        runs["leaks_control"] = stack.api.run_dag("leaks_control")
        page = crm_page(stack)
        stack.stop(patience=5)
    places = files_below(stack.home) | files_below(folder)
    database = columns_of(stack.home / "airflow.db")
    return {
        "runs": runs,
        "files": places,
        "columns": database,
        "waiting": waiting,
        "telemetry": {f"{n} {path}": data for n, (path, data) in enumerate(taken)},
        "page": page,
        "seen": "\n".join(seen),
        "folder": folder,
    }


# -- setup ----------------------------------------------------------------------------------------------------


def people(sandbox: Sandbox) -> None:
    """Contacts that exist before the run, so that the order of the tasks does not matter."""
    known = {"name": VALUES["name"], "phone": VALUES["phone"]}
    contact = sandbox.store.create_contact(VALUES["email"], attributes=known)
    sandbox.store.add_to_lists(contact.email, [ids.list_id("Newsletter")])
    sandbox.store.add_list(AWAITED)
    sandbox.store.create_contact(f"x{VALUES['email']}")
    sandbox.store.create_deal(
        contact_id=contact.id, pipeline_id=ids.pipeline_id("Sales"), stage_id=ids.stage_id("Sales", "New")
    )


def environment(folder: Path, telemetry: str) -> dict[str, str]:
    lineage = {"type": "file", "log_file_path": str(folder / "out" / "lineage.log"), "append": True}
    (folder / "tmp").mkdir()
    return {
        "LEAKS_FOLDER": str(folder),
        "LEAKS_CASES": json.dumps(CASES),
        "LEAKS_CONTROL": CONTROL,
        "PLANTED": json.dumps({**VALUES, "key": "not in the environment"}),
        "TMPDIR": str(folder / "tmp"),
        "AIRFLOW__CORE__PARALLELISM": "8",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG",
        "AIRFLOW__METRICS__OTEL_ON": "True",
        "AIRFLOW__METRICS__OTEL_INTERVAL_MILLISECONDS": "10000",
        "AIRFLOW__TRACES__OTEL_ON": "True",
        "OTEL_EXPORTER_OTLP_ENDPOINT": telemetry,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_TRACES_EXPORTER": "otlp_proto_http",
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(lineage),
        "AIRFLOW__CRM__REPORT_DIRECTORY": str(folder / "reports"),
    }


def configure(stack: AirflowStack, sandbox: str, mirrored: str, folder: Path) -> None:
    """Create connections and variables in Airflow's database, like a user."""

    def connection(name: str, host: str, **extra: Any) -> dict[str, Any]:
        given = {"requests_per_second": 100, "timeout": 20, **extra}
        return {
            "connection_id": f"crm_{name}",
            "conn_type": "crm",
            "host": host,
            "password": KEY,
            "extra": json.dumps(given),
        }

    made = [connection("ok", sandbox), connection("refused", "http://127.0.0.1:1/v2")]
    made += [
        connection(name, f"{mirrored}/{path}", **({"timeout": SHORT} if name == "slow" else {}))
        for name, path in MIRRORED.items()
    ]
    made += [connection("redis", sandbox, rate_store=f"redis://:{REDIS_PASSWORD}@127.0.0.1:1/0")]
    made += [{"connection_id": "leaks_db", "conn_type": "sqlite", "host": str(folder / "leads.db")}]
    for body in made:
        stack.api.request("POST", "/api/v2/connections", body)
    for body in made[:3]:
        stack.api.request(
            "POST", "/api/v2/connections/test", {**body, "port": 0} if "127.0.0.1:1" in body["host"] else body
        )
    hook = {name: f"{VALUES['webhook']}-{name}" for name in ("webhook_id", "channel_uid", "workflow_id")}
    for key, value in {**hook, "leaks_email": VALUES["email"]}.items():
        stack.api.request("POST", "/api/v2/variables", {"key": key, "value": value})


def start(stack: AirflowStack, dag_id: str) -> tuple[str, str]:
    stack.api.wait_for_dag(dag_id)
    return dag_id, stack.api.trigger(dag_id)


def database_while_waiting(stack: AirflowStack, run: tuple[str, str]) -> dict[str, bytes]:
    """The database while a sensor is deferred, when it contains the trigger."""
    stack.api.wait(*run, until=lambda run: run["waits_ok"].state == "deferred" or run.finished, timeout=600)
    copy = stack.home / "waiting.db"
    with closing(sqlite3.connect(stack.home / "airflow.db")) as base, closing(sqlite3.connect(copy)) as target:
        base.backup(target)
    found = columns_of(copy)
    for made in stack.home.glob("waiting.db*"):
        made.unlink()
    return found


def crm_page(stack: AirflowStack) -> bytes:
    """The page CRM."""
    request = urllib.request.Request(f"{stack.url}/crm/", headers={"Authorization": f"Bearer {stack.api.token}"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as response:
        return bytes(response.read())


# -- the run and the search work -----------------------------------------------------------------------------------


def test_all_runs_ended_as_planned(left: dict[str, Any]) -> None:
    """Otherwise the searches below would find nothing and prove nothing."""
    runs: dict[str, Run] = left["runs"]
    states = {name: state for run in runs.values() for name, state in run.states().items()}
    fine = ("rows", "leaky", "no_redis", "deals", "lists", "waits_ok", "deals_ok", "erase_ok", "table_ok")
    assert {name: states[name] for name in fine} == dict.fromkeys(fine, "success")
    assert [name for name, state in states.items() if state not in ("success", "skipped", "failed")] == []
    assert {name for name in states if name.endswith("_m422")} & {
        name for name, s in states.items() if s == "success"
    } == set()
    for kind in ("upsert", "add", "move", "delete", "verify", "start", "extract", "load", "list", "members", "contact"):
        assert states.get(f"{kind}_ok", states.get(f"{kind}_ok[0]")) == "success", kind
    logs = b"".join(data for name, data in left["files"].items() if name.startswith("logs/"))
    for type_ in SHOWN:
        assert type_ in logs, type_


def test_crm_received_keys_and_values(left: dict[str, Any]) -> None:
    name, hook = json.dumps(VALUES["name"])[1:-1], f"{VALUES['webhook']}-workflow_id"
    for text in (f"x-api-key: {KEY}", VALUES["email"], name, hook):
        assert text in left["seen"], "the server received and returned it"
    assert set(MIRRORED.values()) <= {line.split(" ")[0] for line in left["seen"].splitlines()}


def test_search_finds_values_in_allowed_places(left: dict[str, Any]) -> None:
    """The search finds values in the places where the author or the user put them."""
    found = search(pattern_of(PERSONAL), {**left["files"], **left["columns"], **left["waiting"]})
    assert found.keys() >= AUTHORS_COLUMNS
    assert found.keys() >= {"leads.csv", "extract_ok.csv", "out/m422.rejects.csv", "out/m422.again.jsonl"}


def test_search_finds_the_control_text_everywhere(left: dict[str, Any]) -> None:
    """One task leaks a control text in every way, and the search finds each of them."""
    control = pattern_of([CONTROL])
    files = search(control, left["files"])
    assert "out/control.txt" in files
    assert "airflow.db" in files
    assert any("task_id=leaky" in name for name in files)
    assert any(name.startswith("components/") for name in files)
    columns = search(control, left["columns"])
    assert columns.keys() >= {"xcom.value", "rendered_task_instance_fields.rendered_fields", "serialized_dag.data"}
    kinds = {name.split(" ")[1] for name in search(control, left["telemetry"])}
    assert kinds >= {"/v1/traces", "/v1/metrics"}
    assert "leaks" in str(left["page"])


def test_search_finds_every_encoding() -> None:
    pattern = pattern_of([CONTROL])
    texts = [
        f"{before}{spell(CONTROL)}{CONTROL}"[: -len(CONTROL)] for spell in SPELLINGS for before in ("", "x", "=%2F")
    ]
    texts += [SPELLINGS[-1](f"{before}{CONTROL} and more") for before in ("", "x", "xy", "xyz")]
    texts += [CONTROL.encode().hex(), CONTROL.swapcase(), f"\\n{CONTROL}_x"]
    places = {str(n): text.encode() for n, text in enumerate(texts)}
    assert [text for n, text in enumerate(texts) if str(n) not in search(pattern, places)] == []
    assert search(pattern, {"": b"Zq8y, and control"}) == {}


# -- nothing leaks -------------------------------------------------------------------------------------------------


def test_secrets_are_stored_nowhere(left: dict[str, Any]) -> None:
    """Not in files, including the database files, nor in telemetry, nor on the page."""
    places = {**left["files"], **left["columns"], **left["waiting"], **left["telemetry"], "page": left["page"]}
    assert search(pattern_of(SECRETS), places) == {}


def test_secrets_in_the_database_are_encrypted(left: dict[str, Any]) -> None:
    """Otherwise the test above could pass because the secrets were not stored at all."""
    for column in ("connection.password", "connection.extra", "variable.val"):
        kept = [line for line in left["columns"][column].splitlines() if line != b"None"]
        assert len(kept) >= 4
        assert all(line.startswith(b"gAAAA") for line in kept), column


def test_personal_data_is_only_in_files_of_the_user(left: dict[str, Any]) -> None:
    files = {name: data for name, data in left["files"].items() if not ASKED_FOR.fullmatch(name)}
    files = {name: without_authors_lines(data) for name, data in files.items() if not name.startswith("airflow.db")}
    assert search(pattern_of(PERSONAL), files) == {}


def test_personal_data_is_only_in_columns_of_the_author(left: dict[str, Any]) -> None:
    for columns in (left["columns"], left["waiting"]):
        own = {name: data for name, data in columns.items() if name not in AUTHORS_COLUMNS}
        own["xcom.value"] = b"\n".join(
            line for line in own["xcom.value"].splitlines() if b'[{"contact_email"' not in line
        )
        assert search(pattern_of(PERSONAL), own) == {}


def test_personal_data_is_not_in_telemetry_or_on_the_page(left: dict[str, Any]) -> None:
    assert search(pattern_of(PERSONAL), {**left["telemetry"], "page": left["page"]}) == {}


def test_files_of_loads_are_private(left: dict[str, Any]) -> None:
    """Independent of Airflow's umask."""
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in left["folder"].glob("out/m422.*")}
    assert len(modes) >= 4
    assert set(modes.values()) == {0o600}
    stores = [*left["folder"].glob("tmp/crm-provider-*")]
    assert [stat.S_IMODE(store.stat().st_mode) for store in stores] == [0o700]
    assert {stat.S_IMODE(path.stat().st_mode) for path in stores[0].iterdir()} == {0o600}


def without_authors_lines(data: bytes) -> bytes:
    return b"\n".join(line for line in data.splitlines() if not AUTHORS_LINE.search(line))
