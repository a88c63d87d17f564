"""The page "CRM" as an application inside Airflow: who sees what, and what is in it after real loads."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from crm_provider.operators.load import CrmLoadContactsOperator
from crm_provider.sandbox import Sandbox
from crm_provider.ui.query import LIMIT

XSS = "<script>alert(1)</script>"


class Users:
    """Logs users of Airflow in, and says which DAGs they may read.

    :param app: with the page
    """

    def __init__(self, app: Any, manager: Any) -> None:
        self.app, self.manager = app, manager
        self.may: Callable[..., bool] = lambda **asked: True

    def client(self, name: str | None = "ann", *, role: str | None = "viewer") -> TestClient:
        headers = {}
        if name is not None:
            from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

            user = SimpleAuthManagerUser(username=name, role=role)
            headers["Authorization"] = f"Bearer {self.manager.generate_jwt(user)}"
        return TestClient(self.app, headers=headers)


@pytest.fixture
def users(airflow_db: Path, monkeypatch: pytest.MonkeyPatch) -> Users:
    from airflow.api_fastapi.app import init_auth_manager

    from crm_provider.ui.app import make_app

    manager = init_auth_manager()
    users = Users(make_app(base="/airflow"), manager)

    def is_authorized(**asked: Any) -> bool:
        return users.may(**asked)

    monkeypatch.setattr(manager, "is_authorized_dag", is_authorized)
    return users


@pytest.fixture
def loads(run_dag: Callable[..., Any], crm: Sandbox, tmp_path: Path) -> dict[str, Any]:
    """Two loads: one that all rows of are written, and one with a row that the CRM refuses and one that is none."""
    from airflow.sdk import DAG

    crm.add_fault(effect="error", error="INVALID_INPUT", email="refused@example.com")
    rows = [{"email": "one@example.com"}, {"email": "two@example.com"}]
    with DAG("page_good", schedule=None) as good:
        CrmLoadContactsOperator(task_id="load", source=rows)
    with DAG("page_bad", schedule=None) as bad:
        CrmLoadContactsOperator(
            task_id="load",
            source=[*rows, {"email": "refused@example.com"}, {"email": "none"}],
            rejects_path=str(tmp_path / f"{'rejects'}&{'co'}.jsonl"),
        )
    return {"good": run_dag(good), "bad": run_dag(bad)}


@pytest.mark.parametrize("path", ["/", "/policy"])
def test_nobody_sees_anything_without_a_login(users: Users, loads: Any, path: str) -> None:
    answer = users.client(None).get(path)
    assert answer.status_code == 401
    assert "You are not logged in" in answer.text
    assert "page_good" not in answer.text


@pytest.mark.parametrize("path", ["/", "/policy"])
def test_who_has_no_right_to_see_the_website_does_not_see_the_page(users: Users, loads: Any, path: str) -> None:
    answer = users.client("eve", role=None).get(path)
    assert answer.status_code == 403
    assert "You may not see this page" in answer.text
    assert "page_good" not in answer.text
    assert "INVALID_INPUT" not in answer.text


@pytest.mark.parametrize("role", ["viewer", "user", "op", "admin"])
def test_who_may_see_the_website_sees_the_page(users: Users, loads: Any, role: str) -> None:
    client = users.client("ann", role=role)
    assert "page_good" in client.get("/").text
    assert client.get("/policy").status_code == 200


def test_every_path_but_the_known_files_asks_who_it_is(users: Users) -> None:
    """A page that is added and forgets to ask fails here."""
    from crm_provider.ui.app import ASSETS, current_user

    open_paths = {
        route.path
        for route in users.app.routes
        if current_user not in [dependency.call for dependency in route.dependant.dependencies]
    }
    assert open_paths == {"/{name}"}
    assert set(ASSETS) == {"page.css", "page.js", "icon.svg"}


def test_a_token_that_is_none(users: Users) -> None:
    client = users.client(None)
    answer = client.get("/", headers={"Authorization": "Bearer nonsense"})
    assert answer.status_code == 403
    assert "Your login is not valid any more" in answer.text
    assert client.get("/", cookies={"_token": "nonsense"}).status_code in (401, 403)


def test_what_a_load_has_done(users: Users, loads: Any) -> None:
    assert loads["good"].state == "success"
    assert loads["bad"].state == "failed"
    assert loads["bad"]["load"].result["crm_conn_id"] == "crm_default"
    answer = users.client().get("/")
    assert answer.status_code == 200
    text = answer.text
    for expected in (
        "<h2>crm_default</h2>", "page_good / load", "page_bad / load", "INVALID_INPUT", "2 created",
        "send a valid body with all required fields", 'href="/airflow/dags/page_bad/runs/', "rejects&amp;co.jsonl",
    ):  # fmt: skip
        assert expected in text, expected
    assert "@example.com" not in text, "no value of a row"


def test_a_dag_that_the_user_may_not_read(users: Users, loads: Any) -> None:
    users.may = lambda *, user, details, **_: user.username == "ann" and details.id == "page_good"
    assert "page_good" in users.client("ann").get("/").text
    assert "page_bad" not in users.client("ann").get("/").text
    assert "No loads yet" in users.client("bob").get("/").text


def test_a_user_who_may_not_read_xcoms(users: Users, loads: Any) -> None:
    users.may = lambda *, access_entity, **_: access_entity.value != "XCOM"
    assert "No loads yet" in users.client().get("/").text


def test_only_reading_is_asked_for_and_only_about_dags_with_loads(users: Users, loads: Any) -> None:
    asked: list[tuple[str, str]] = []
    users.may = lambda *, method, details, **_: not asked.append((method, details.id))
    users.client().get("/")
    assert {method for method, _ in asked} == {"GET"}
    assert {"page_good", "page_bad"} <= {dag_id for _, dag_id in asked}


def test_what_is_shown_is_text(users: Users, loads: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from crm_provider.ui import app, reading

    real = app.recent_loads

    def with_markup(*arguments: Any, **keywords: Any) -> list[reading.Found]:
        result = {
            "rows": 1, "rejected": 1, "errors": {XSS: 1}, "problems": {XSS: 1}, "plan": {"name": XSS},
            "rejects_path": XSS, "report_path": f'"{XSS}', "crm_conn_id": XSS,
        }  # fmt: skip
        found = real(*arguments, **keywords)[0]
        return [
            reading.Found(
                dag_id=XSS, task_id=XSS, run_id=f'"{XSS}', map_index=-1, operator=XSS, state=XSS, start=found.start,
                end=None, result=json.dumps(result),
            )
        ]  # fmt: skip

    monkeypatch.setattr(app, "recent_loads", with_markup)
    text = users.client().get("/").text
    assert "<script>alert" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 7
    links = re.findall(r"""href=["']?([^"'\s>]*)""", text)
    assert links
    assert [link for link in links if not link.startswith("/airflow/")] == [], "all lead into this Airflow"


def set_stored(table: str, column: str, text: str) -> None:
    """Replace a JSON text that Airflow has stored for the load ``page_bad``, as any task's author could."""
    import sqlalchemy
    from airflow.utils.session import create_session

    with create_session() as session:
        statement = sqlalchemy.text(f"UPDATE {table} SET {column} = :text WHERE dag_id = 'page_bad'")
        session.execute(statement, {"text": text})


def of_load(**parts: Any) -> str:
    return json.dumps({"rows": 1, "rejected": 0, **parts})


HOSTILE = {
    "a number beyond float": of_load(seconds=10**400),
    "4,300 digits": of_load(calls=7).replace("7", "9" * 4300),
    "half a character": of_load(errors={"\ud800": 1}),
    "an object as connection": of_load(crm_conn_id={}),
    "44 MB of types": of_load(errors={f"T{number}": 1 for number in range(300_000)}),
    "a path of 10 MB": of_load(rejects_path="/" * 10**7),
    "deep nesting": "[" * 100_000,
}


def test_one_record_does_not_take_down_the_page(users: Users, loads: Any) -> None:
    set_stored("rendered_task_instance_fields", "rendered_fields", '{"crm_conn_id": {"a": NaN}}')
    for attack, text in HOSTILE.items():
        set_stored("xcom", "value", text)
        answer = users.client().get("/")
        assert (attack, answer.status_code) == (attack, 200)
        assert "page_bad / load" in answer.text
        assert "Its result cannot be read" in answer.text, attack
        assert "page_good / load" in answer.text
        assert "2 created" in answer.text, "the rest of the page is as ever"


def test_what_is_shown_of_one_load_is_bounded(users: Users, loads: Any) -> None:
    set_stored("xcom", "value", of_load(errors={f"T{number}": 1 for number in range(10_000)}))
    text = users.client().get("/").text
    assert "9,980 more types" in text
    assert len(text) < LIMIT * 10_000


def test_no_object_is_built_from_an_xcom(users: Users, loads: Any) -> None:
    """Airflow's own decoder would import the module of the class, if its name begins with ``airflow.``."""
    module = "airflow.example_dags.example_skip_dag"
    thing = {"__classname__": f"{module}.EmptySkipOperator", "__version__": 1, "__data__": {}}
    for text in (json.dumps(thing), json.dumps(json.dumps(thing))):
        set_stored("xcom", "value", text)
        assert users.client().get("/").status_code == 200
    assert module not in sys.modules


def test_a_failure_of_the_page_has_the_headers_too(users: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    from crm_provider.ui import app

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(app, "recent_loads", fail)
    login = users.client().headers["Authorization"]
    client = TestClient(users.app, headers={"Authorization": login}, raise_server_exceptions=False)
    answer = client.get("/")
    assert answer.status_code == 500
    assert "The page cannot be shown" in answer.text
    assert "a secret" not in answer.text
    assert {name: answer.headers[name] for name in app.HEADERS} == app.HEADERS


def test_headers(users: Users) -> None:
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


@pytest.mark.parametrize("path", ["/", "/policy"])
def test_nothing_comes_from_elsewhere(users: Users, loads: Any, path: str) -> None:
    text = users.client().get(path).text
    assert "://" not in text
    assert " style=" not in text
    assert " onclick" not in text


def test_a_failure_is_not_a_page(users: Users) -> None:
    assert users.client().get("/missing").status_code == 404
    assert users.client().get("/..%2fapp.py").status_code == 404
    assert users.client().get("/loads.html").status_code == 404
    assert users.client().post("/").status_code == 405


def test_the_policy_of_an_operator(users: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CRM__ON_ERROR", '{"sensor": {"DEAL_NOT_FOUND": "skip"}}')
    text = users.client().get("/policy", params={"operator": "CrmDealStageSensor"}).text
    assert "<option selected>CrmDealStageSensor</option>" in text
    assert "airflow.cfg [crm] on_error[DEAL_NOT_FOUND]" in text
    other = users.client().get("/policy", params={"operator": XSS}).text
    assert "<option selected>CrmLoadContactsOperator</option>" in other
    assert "alert" not in other


def test_a_site_policy_that_is_wrong(users: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CRM__ON_ERROR", "not json")
    text = users.client().get("/policy").text
    assert 'role="alert"' in text
    assert "section [crm], option on_error" in text
    assert "INVALID_INPUT" in text


def test_who_does_not_show_the_page_does_not_load_it(airflow_db: Path) -> None:
    program = (
        "import sys, crm_provider.operators.load, crm_provider.sensors.lists\n"
        "assert 'crm_provider.ui' not in sys.modules\n"
        "import crm_provider.ui.plugin\n"
        "assert not {'crm_provider.ui.app', 'crm_provider.ui.query'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_airflow_finds_the_plugin() -> None:
    from airflow import plugins_manager

    from crm_provider.ui import plugin

    assert plugins_manager.is_valid_plugin(plugin.CrmPlugin)
    assert plugin.CrmPlugin.external_views[0]["href"] == f"{plugin.base_path()}/crm/"
    assert plugin.CrmPlugin.fastapi_apps[0]["url_prefix"] == "/crm"


def test_the_page_is_made_on_its_first_request() -> None:
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
