"""The page CRM inside Airflow: access rights, and its content after real loads."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from page_users import Users

from crm_provider.operators.extract import CrmExtractContactsOperator
from crm_provider.operators.load import CrmLoadContactsOperator, CrmRetryRejectsOperator
from crm_provider.sandbox import Sandbox
from crm_provider.testing import run_dag
from crm_provider.ui.syncs import PAGE_SIZE

SetStored = Callable[[str, str, str], None]
XSS = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def loads(airflow_db: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two loads: one without rejects, and one with a row that the CRM rejects and a row without an address."""
    from airflow.sdk import DAG

    rows = [{"email": "one@example.com"}, {"email": "two@example.com"}]
    with DAG("page_good", schedule=None) as good:
        CrmLoadContactsOperator(task_id="load", source=rows)
    with DAG("page_bad", schedule=None) as bad:
        CrmLoadContactsOperator(
            task_id="load",
            source=[*rows, {"email": "refused@example.com"}, {"email": "none"}],
            rejects_path=str(tmp_path_factory.mktemp("page") / f"{'rejects'}&{'co'}.jsonl"),
        )
    with Sandbox(rate=None) as crm, pytest.MonkeyPatch.context() as patch:
        crm.add_fault(effect="error", error="INVALID_INPUT", email="refused@example.com")
        patch.setenv("AIRFLOW_CONN_CRM_DEFAULT", crm.connection_json(rate_store="off"))
        patch.setenv("NO_PROXY", "127.0.0.1")
        return {"good": run_dag(good), "bad": run_dag(bad)}


RUN = {"dag_id": "page_bad", "task_id": "load"}
"""Query of ``/sync`` for the load with rejects."""


def run_page(client: TestClient, loads: dict[str, Any], name: str = "bad") -> Any:
    """The page of one run of a load."""
    return client.get("/run", params={**RUN, "dag_id": f"page_{name}", "run_id": loads[name].dag_run.run_id})


PATHS = ["/", "/policy", "/sync?dag_id=page_good&task_id=load", "/run?dag_id=page_good&task_id=load&run_id=x"]


def test_page_without_a_login_shows_nothing(users: Users, loads: Any) -> None:
    for path in PATHS:
        response = users.client(None).get(path)
        assert (path, response.status_code) == (path, 401)
        assert "You are not logged in" in response.text, path
        assert "page_good" not in response.text, path


def test_user_without_access_to_the_website_cannot_open_the_page(users: Users, loads: Any) -> None:
    for path in PATHS:
        response = users.client("eve", role=None).get(path)
        assert (path, response.status_code) == (path, 403)
        assert "You may not see this page" in response.text, path
        assert "page_good" not in response.text, path
        assert "INVALID_INPUT" not in response.text, path


def test_user_with_access_to_the_website_can_open_the_page(users: Users, loads: Any) -> None:
    for role in ("viewer", "user", "op", "admin"):
        client = users.client("ann", role=role)
        assert "page_good" in client.get("/").text, role
        assert client.get("/policy").status_code == 200, role


def test_every_path_except_static_files_checks_the_user(users: Users) -> None:
    """The test fails for a new page that does not check the user."""
    from crm_provider.ui.access import current_user
    from crm_provider.ui.app import ASSETS

    open_paths = {
        route.path
        for route in users.app.routes
        if current_user not in [dependency.call for dependency in route.dependant.dependencies]
    }
    assert open_paths == {"/{name}"}
    assert set(ASSETS) == {"page.css", "page.js", "icon.svg"}


def test_invalid_token_is_rejected(users: Users) -> None:
    client = users.client(None)
    response = client.get("/", headers={"Authorization": "Bearer nonsense"})
    assert response.status_code == 403
    assert "Your login has expired" in response.text
    assert client.get("/", cookies={"_token": "nonsense"}).status_code in (401, 403)


def test_page_shows_the_results_of_a_load(users: Users, loads: Any) -> None:
    assert loads["good"].state == "success"
    assert loads["bad"].state == "failed"
    assert loads["bad"]["load"].result["crm_conn_id"] == "crm_default"
    client = users.client()
    text = client.get("/").text
    for expected in ("page_good / load", "page_bad / load", "2 created", "too many rejects", "crm_default"):
        assert expected in text, expected
    text = client.get("/sync", params=RUN).text
    for expected in ("Runs, the newest first", "2 unchanged, 2 rejected", "paused"):
        assert expected in text, expected
    text = run_page(client, loads).text
    for expected in (
        "INVALID_INPUT", "send a valid body with all required fields", 'href="/airflow/dags/page_bad/runs/',
        "rejects&amp;co.jsonl", "CrmRetryRejectsOperator(", "2 of 4 rows were rejected", "is not a valid email address",
        "apply: neither the task nor the site sets an action for an error.", "What it does",
    ):  # fmt: skip
        assert expected in text, expected
    assert "@example.com" not in text, "the page contains no row value"


class Broken:
    """A source that raises an error with a value in its message."""

    name, columns = "broken", None

    def rows(self) -> Any:
        raise ZeroDivisionError("ada@example.com")


def test_page_shows_why_a_load_failed_before_its_first_call(
    users: Users, run_dag: Callable[..., Any], crm: Sandbox, tmp_path: Path
) -> None:
    from airflow.sdk import DAG

    crm.add_fault(effect="error", error="UNAUTHORIZED")
    with DAG("page_early", schedule=None) as dag:
        CrmLoadContactsOperator(task_id="unread", source=str(tmp_path / "*.csv"), retries=0)
        CrmLoadContactsOperator(task_id="refused", source=[{"email": f"{n}@example.com"} for n in range(60)])
        CrmExtractContactsOperator(task_id="extract", target=str(tmp_path / "contacts.jsonl"))
        CrmExtractContactsOperator(task_id="unwritable", target="/proc/no/contacts.jsonl")
        CrmLoadContactsOperator(task_id="broken", source=Broken(), retries=0)
        CrmRetryRejectsOperator(task_id="resend", rejects=str(tmp_path / "no.jsonl"))
    done = run_dag(dag)
    assert done["unread"].xcoms["crm_reason"]["error"] == "NoSuchFile"
    reasons = {
        "unread": "no file matches", "refused": "Stopped: ", "extract": "Decided by", "unwritable": "/proc/no",
        "broken": "ZeroDivisionError: see the task&#39;s log",
    }  # fmt: skip
    for task, expected in reasons.items():
        key = {"dag_id": "page_early", "task_id": task, "run_id": done.dag_run.run_id}
        text = users.client().get("/run", params=key).text
        assert "failed" in text or "stopped" in text
        assert expected in text, task
        assert "@example.com" not in text
    for path in ("/", "/sync", "/run"):
        key = {"dag_id": "page_early", "task_id": "resend", "run_id": done.dag_run.run_id}
        assert "Nothing to send: there is no rejects file" in users.client().get(path, params=key).text, path
    assert users.client().get("/", params={"state": "failed", "dag": "page_early"}).text.count("data-live=") == 6


def test_page_supports_search_filters_and_paging(users: Users, loads: Any) -> None:
    client = users.client()
    for query, good, bad in (
        ({"q": "GOOD"}, True, False), ({"dag": "page_bad"}, False, True),
        ({"state": "failed", "q": "page"}, False, True),
        ({"connection": "crm_default", "days": "1", "state": "success"}, True, False), ({"q": "nothing"}, False, False),
    ):  # fmt: skip
        text = client.get("/", params=query).text
        shown = [f">page_{name} / load</a>" in text for name in ("good", "bad")]
        assert shown == [good, bad], query
    for state, found in (("", True), ("failed", True), ("success", False), ("rejects", False), ("running", False)):
        text = client.get("/sync", params={**RUN, "state": state}).text
        assert ('<th scope="row"' in text) == found, state
    assert "No run matches" in client.get("/sync", params={**RUN, "page": "9"}).text


def test_filter_for_rejects_uses_the_database(users: Users, loads: Any, set_stored: SetStored) -> None:
    for rejected, state in (
        ("3", "rejects"), ("0", "success"), ("null", "success"), ('{"a": 1}', "rejects"),
        ('0, "dry_run": true, "would_fail": true', "rejects"), ('0, "dry_run": true, "would_fail": false', "success"),
    ):  # fmt: skip
        set_stored("task_instance", "state", "success")
        set_stored("xcom", "value", f'{{"rows": 3, "rejected": {rejected}}}')
        for asked in ("rejects", "success"):
            text = users.client().get("/sync", params={**RUN, "state": asked}).text
            assert ('<th scope="row"' in text) == (asked == state), rejected


def test_unknown_syncs_and_runs_are_not_found(users: Users, loads: Any) -> None:
    run_id = loads["bad"].dag_run.run_id
    for path, query in (
        ("/sync", {}), ("/sync", {"dag_id": "page_bad", "task_id": "other"}), ("/run", RUN),
        ("/run", {**RUN, "run_id": run_id, "map_index": "3"}), ("/run", {**RUN, "run_id": run_id, "map_index": "x"}),
    ):  # fmt: skip
        response = users.client().get(path, params=query)
        assert (response.status_code, "Not found" in response.text) == (404, True), query


def test_page_hides_dags_that_the_user_may_not_read(users: Users, loads: Any) -> None:
    users.may = lambda *, user, details, **_: user.username == "ann" and details.id == "page_good"
    assert "page_good" in users.client("ann").get("/").text
    assert "page_bad" not in users.client("ann").get("/").text
    assert "No syncs yet" in users.client("bob").get("/").text


def test_pages_of_an_unreadable_dag_are_not_found(users: Users, loads: Any) -> None:
    users.may = lambda *, details, **_: details.id == "page_good"
    assert users.client().get("/sync", params=RUN).status_code == 404
    assert run_page(users.client(), loads).status_code == 404
    assert run_page(users.client(), loads, "good").status_code == 200


def test_user_without_access_to_xcoms_sees_no_results(users: Users, loads: Any) -> None:
    users.may = lambda *, access_entity, **_: access_entity.value != "XCOM"
    assert "No syncs yet" in users.client().get("/").text


def test_page_requests_read_rights_on_dags_with_loads_only(users: Users, loads: Any) -> None:
    asked: list[tuple[str, str]] = []
    users.may = lambda *, method, details, **_: not asked.append((method, details.id))
    users.client().get("/")
    assert {method for method, _ in asked} == {"GET"}
    assert {"page_good", "page_bad"} <= {dag_id for _, dag_id in asked}


def test_page_escapes_all_values(users: Users, loads: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from crm_provider.ui import stored, views

    result = {
        "kind": XSS, "rows": 1, "rejected": 1, "errors": {XSS: 1}, "problems": {XSS: 1}, "rejects_path": XSS,
        "plan": {"name": XSS, "words": XSS, "why": XSS}, "report_path": f'"{XSS}', "crm_conn_id": XSS, "ending": XSS,
        "samples": [{"row": 1, "place": XSS, "type": XSS, "message": XSS}], "resend": XSS, XSS: 7,
        "error_policy": {"operator": "CrmLoadContactsOperator", "on_error": {"INVALID_INPUT": "skip"}},
        "state_path": "javascript:alert(1)", "path": "https://elsewhere.example.com/x",
    }  # fmt: skip

    def with_markup(found: stored.StoredTask, **_: Any) -> stored.StoredTask:
        return stored.StoredTask(
            dag_id=XSS, task_id=XSS, run_id=f'"{XSS}', map_index=-1, operator=XSS, state="failed", start=found.start,
            end=None, result=json.dumps(result), failure=json.dumps({"message": XSS, "origin": XSS}),
        )  # fmt: skip

    real = views.read
    monkeypatch.setattr(views, "read", lambda found, **keywords: real(with_markup(found), **keywords))
    client = users.client()
    for response in (client.get("/"), client.get("/sync", params=RUN), run_page(client, loads)):
        assert response.status_code == 200
        text = response.text
        assert "<script>alert" not in text
        assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 4
        links = re.findall(r"""href=["']?([^"'\s>]*)""", text)
        assert links
        inside = ("/airflow/", "#main")
        assert [link for link in links if not link.startswith(inside)] == [], "all links stay in this Airflow"


def test_file_links_follow_the_site_setting(
    users: Users, loads: Any, monkeypatch: pytest.MonkeyPatch, set_stored: SetStored
) -> None:
    links = {"/data/": "https://files.example.com/", "/code/": "javascript:alert(1)//"}
    monkeypatch.setenv("AIRFLOW__CRM__FILE_LINKS", json.dumps(links))
    set_stored(
        "xcom", "value", of_load(rejects_path="/data/a b.jsonl", state_path="/code/x", report_path="http://x.org/")
    )
    text = run_page(users.client(), loads).text
    assert re.findall(r'href="(\w+:[^"]*)"', text) in (["https://files.example.com/a%20b.jsonl"], [])
    assert ("javascript" in links["/code/"]) and "javascript:" not in text


@pytest.fixture
def set_stored(loads: Any) -> Iterator[SetStored]:
    """Replaces a JSON text of the load ``page_bad`` in Airflow's database, as any task author could, for one test."""
    import sqlalchemy
    from airflow.utils.session import create_session

    before: dict[tuple[str, str], list[dict[str, Any]]] = {}

    def replace(table: str, column: str, text: str) -> None:
        with create_session() as session:
            if (table, column) not in before:
                query = f"SELECT rowid AS place, {column} AS text FROM {table} WHERE dag_id = 'page_bad'"
                before[table, column] = [dict(row) for row in session.execute(sqlalchemy.text(query)).mappings()]
            statement = f"UPDATE {table} SET {column} = :text WHERE dag_id = 'page_bad'"
            session.execute(sqlalchemy.text(statement), {"text": text})

    yield replace
    with create_session() as session:
        for (table, column), rows in before.items():
            session.execute(sqlalchemy.text(f"UPDATE {table} SET {column} = :text WHERE rowid = :place"), rows)


def of_load(**parts: Any) -> str:
    return json.dumps({"rows": 1, "rejected": 0, **parts})


HOSTILE = {
    "a number beyond float": of_load(seconds=10**400),
    "4,300 digits": of_load(calls=7).replace("7", "9" * 4300),
    "half a character": of_load(errors={"\ud800": 1}),
    "an object as connection": of_load(crm_conn_id={}),
    "more types than are read": of_load(errors={f"T{number}": 1 for number in range(50_000)}),
    "a path of 1 MB": of_load(rejects_path="/" * 10**6),
    "deep nesting": "[" * 100_000,
}


def test_invalid_record_does_not_break_the_page(users: Users, loads: Any, set_stored: SetStored) -> None:
    set_stored("rendered_task_instance_fields", "rendered_fields", '{"crm_conn_id": {"a": NaN}}')
    for attack, text in HOSTILE.items():
        set_stored("xcom", "value", text)
        client = users.client()
        response = client.get("/")
        assert (attack, response.status_code) == (attack, 200)
        assert "page_bad / load" in response.text
        assert "2 created" in response.text, "the rest of the page is unchanged"
        assert client.get("/sync", params=RUN).status_code == 200
        assert "Its result cannot be read" in run_page(client, loads).text, attack


def test_page_limits_the_output_per_load(users: Users, loads: Any, set_stored: SetStored) -> None:
    set_stored("xcom", "value", of_load(errors={f"T{number}": 1 for number in range(10_000)}))
    text = run_page(users.client(), loads).text
    assert "9,980 more types" in text
    assert len(text) < 100_000
    assert len(users.client().get("/").text) < PAGE_SIZE * 10_000


def test_page_names_the_rejects_file_only_if_there_is_one(users: Users, loads: Any, set_stored: SetStored) -> None:
    assert "Values of rows are only in the rejects file." in run_page(users.client(), loads).text
    set_stored("xcom", "value", of_load(rejected=1, samples=[{"row": 1, "type": "T", "message": "m"}]))
    assert "this load wrote no rejects file" in run_page(users.client(), loads).text


def test_list_shows_rows_of_which_none_is_done(users: Users, loads: Any, set_stored: SetStored) -> None:
    set_stored("xcom", "value", of_load(rows=3, ending="Stopped: x."))
    assert "3 rows, none done" in users.client().get("/").text


def test_xcoms_are_read_without_creating_objects(users: Users, loads: Any, set_stored: SetStored) -> None:
    """Airflow's own decoder would import the module of a class whose name begins with ``airflow.``."""
    module = "airflow.example_dags.example_skip_dag"
    thing = {"__classname__": f"{module}.EmptySkipOperator", "__version__": 1, "__data__": {}}
    for text in (json.dumps(thing), json.dumps(json.dumps(thing))):
        set_stored("xcom", "value", text)
        assert run_page(users.client(), loads).status_code == 200
    assert module not in sys.modules


def test_error_page_has_the_security_headers(users: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    from crm_provider.ui import app

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(app, "list_of_syncs", fail)
    login = users.client().headers["Authorization"]
    client = TestClient(users.app, headers={"Authorization": login}, raise_server_exceptions=False)
    response = client.get("/")
    assert response.status_code == 500
    assert "The page cannot be shown" in response.text
    assert "a secret" not in response.text
    assert {name: response.headers[name] for name in app.HEADERS} == app.HEADERS


def test_page_has_the_security_headers(users: Users) -> None:
    cases: list[tuple[str, str | None, str | None]] = [
        ("/", "ann", "viewer"), ("/policy", "ann", "viewer"), ("/", "eve", None), ("/page.js", None, None),
        ("/", None, None), ("/missing", None, None),
    ]  # fmt: skip
    for path, name, role in cases:
        headers = users.client(name, role=role).get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert "frame-ancestors 'self'" in policy
        assert headers["x-content-type-options"] == "nosniff"


def test_page_loads_nothing_from_other_hosts(users: Users, loads: Any) -> None:
    client = users.client()
    for response in (client.get("/"), client.get("/policy"), client.get("/sync", params=RUN), run_page(client, loads)):
        assert "://" not in response.text
        assert " style=" not in response.text
        assert " onclick" not in response.text


def test_unknown_paths_and_methods_return_errors(users: Users) -> None:
    assert users.client().get("/missing").status_code == 404
    assert users.client().get("/..%2fapp.py").status_code == 404
    assert users.client().get("/run.html").status_code == 404
    assert users.client().post("/").status_code == 405


def test_policy_page_shows_the_policy_of_an_operator(users: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CRM__ON_ERROR", '{"sensor": {"DEAL_NOT_FOUND": "skip"}}')
    text = users.client().get("/policy", params={"operator": "CrmDealStageSensor"}).text
    assert "<option selected>CrmDealStageSensor</option>" in text
    assert "airflow.cfg [crm] on_error[DEAL_NOT_FOUND]" in text
    other = users.client().get("/policy", params={"operator": XSS}).text
    assert "<option selected>CrmLoadContactsOperator</option>" in other
    assert "alert" not in other


def test_policy_page_reports_an_invalid_site_policy(users: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CRM__ON_ERROR", "not json")
    text = users.client().get("/policy").text
    assert 'role="alert"' in text
    assert "section [crm], option on_error" in text
    assert "INVALID_INPUT" in text


def test_airflow_discovers_the_plugin() -> None:
    from airflow import plugins_manager

    from crm_provider.ui import plugin

    assert plugins_manager.is_valid_plugin(plugin.CrmPlugin)
    assert plugin.CrmPlugin.external_views[0]["href"] == f"{plugin.base_path()}/crm/"
    assert plugin.CrmPlugin.fastapi_apps[0]["url_prefix"] == "/crm"


def test_page_is_created_at_the_first_request() -> None:
    from crm_provider.ui.plugin import LazyApp

    made: list[str] = []

    def make() -> Any:
        from fastapi import FastAPI

        made.append("app")
        return FastAPI()

    client = TestClient(LazyApp(make))
    assert made == []
    assert [client.get("/").status_code, client.get("/").status_code] == [404, 404]
    assert made == ["app"]
