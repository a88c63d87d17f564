"""The page CRM in a real browser on a real Airflow, in light and dark, large and small."""

from __future__ import annotations

import json
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import browser as browsers
import pytest
from airflow_stack import AirflowStack
from browser import click, picture, text_of, wait_for

from crm_provider.sandbox import Sandbox

webdriver = pytest.importorskip("selenium.webdriver", reason="needs the extra 'system'")
pytestmark = pytest.mark.skipif(not browsers.is_there(), reason=browsers.HOW_TO_GET_IT)

RATE = 50
PROGRESS = "left at the pace so far" if find_spec("airflow.models.task_state_store") else "shows how far it is"
"""The text for a running load. Airflow 3.3 and newer provides more."""

USER, PASSWORD = "ann", "her password"
ROLES = {USER: "admin", "vera": "viewer", "eve": ""}
AUTH_MANAGER = """
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager


class Fenced(SimpleAuthManager):
    def is_authorized_dag(self, *, user, details=None, **asked):
        fenced = user.username == "vera" and details is not None and details.id == "crm_partners"
        return not fenced and super().is_authorized_dag(user=user, details=details, **asked)
"""
"""Airflow's auth manager with one DAG that one user may not see. By roles alone, viewers see all DAGs."""

DAG_FILE = """
from datetime import timedelta

from airflow.sdk import DAG

from crm_provider.operators.extract import CrmExtractContactsOperator
from crm_provider.operators.load import CrmLoadContactsOperator


def rows(name, number, **more):
    return [{"mail": f"{name}-{i}@example.com", "name": f"Person {i}", **more} for i in range(number)]


NO_RETRY = {"retries": 0, "mapping": {"email": "mail", "name": "name"}}

with DAG("crm_partners", schedule=None, default_args=NO_RETRY):
    CrmLoadContactsOperator(task_id="load", crm_conn_id="crm_partner", source=rows("partner", 60))

with DAG("crm_leads", schedule=None, default_args=NO_RETRY):
    leads = rows("lead", 150) + rows("partner", 40) + rows("lead", 12) + rows("refused", 3) + [{"mail": "none"}] * 5
    CrmLoadContactsOperator(
        task_id="load_leads",
        source=leads,
        suppression=[f"lead-{i}@example.com" for i in range(140, 148)],
        rejects_path="FOLDER/rejects-{{ dag_run.dag_id }}.jsonl",
        state_path="FOLDER/state.db",
    )

with DAG("crm_nightly", schedule="0 3 * * *", catchup=False, default_args=NO_RETRY):
    CrmLoadContactsOperator(
        task_id="load",
        source="FOLDER/nightly.csv",
        max_rejects="5%",
        rejects_path="FOLDER/nightly-{{ run_id }}.jsonl",
        on_error={"INVALID_INPUT": "reject"},
    )

with DAG("crm_empty", schedule=None, default_args=NO_RETRY):
    CrmLoadContactsOperator(task_id="load", source=[])

with DAG("crm_dry", schedule=None, default_args=NO_RETRY):
    CrmLoadContactsOperator(task_id="load", source=rows("dry", 3000), dry_run=True)

with DAG("crm_early", schedule=None, default_args={"retries": 0}):
    CrmLoadContactsOperator(task_id="load", source="FOLDER/missing.csv")

with DAG("crm_warehouse", schedule=None, default_args={"retries": 0}):
    CrmExtractContactsOperator(task_id="extract", target="FOLDER/contacts.jsonl")

with DAG("crm_slow", schedule=None, default_args=NO_RETRY):
    CrmLoadContactsOperator(task_id="load", crm_conn_id="crm_slow", source=rows("slow", 5000))
"""


RUNS = [
    ("crm_partners", "success"), ("crm_leads", "failed"), ("crm_nightly", "success"), ("crm_empty", "success"),
    ("crm_empty", "success"), ("crm_dry", "success"), ("crm_early", "failed"), ("crm_warehouse", "success"),
    ("crm_nightly", "success"), ("crm_nightly", "success"), ("crm_nightly", "success"), ("crm_nightly", "success"),
]  # fmt: skip
"""DAG runs and their final states. Too many leads are rejected."""

SAME_COLOUR = """
const colour = (element) => element.ownerDocument.defaultView.getComputedStyle(element).backgroundColor;
return colour(document.body) === colour(window.parent.document.documentElement);
"""


@pytest.fixture(scope="module")
def stack(
    airflow_stack: Callable[..., AirflowStack], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AirflowStack]:
    dags = tmp_path_factory.mktemp("dags")
    with (
        Sandbox(seed="empty", rate=RATE) as crm,
        Sandbox(seed="empty", rate=RATE) as slow,
        tempfile.TemporaryDirectory(prefix="crm-") as temporary,  # a short path, because screenshots show it
    ):
        folder = Path(temporary)
        nightly = [f"nightly-{number}@example.com,Person {number}" for number in range(90)]
        refused = [f"refused-{number}@example.com,Person {number}" for number in range(2)]
        (folder / "nightly.csv").write_text("\n".join(["mail,name", *nightly, *refused, "none,Nobody", ""]))
        (dags / "loads.py").write_text(DAG_FILE.replace("FOLDER", temporary))
        crm.add_fault(effect="error", error="INVALID_INPUT", email="refused-*")
        connection = crm.connection_json(requests_per_second=RATE)
        names = {"DEFAULT": connection, "PARTNER": connection, "SLOW": slow.connection_json(requests_per_second=20)}
        (folder / "passwords.json").write_text(json.dumps(dict.fromkeys(ROLES, PASSWORD)))
        (folder / "fenced.py").write_text(AUTH_MANAGER)
        env = {
            **{f"AIRFLOW_CONN_CRM_{name}": text for name, text in names.items()},
            "AIRFLOW__CRM__REPORT_DIRECTORY": str(folder),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
            "AIRFLOW__CORE__AUTH_MANAGER": "fenced.Fenced",
            "PYTHONPATH": str(folder),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{name}:{role}" for name, role in ROLES.items()),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(folder / "passwords.json"),
        }
        stack = airflow_stack(dags, env=env)
        stack.api.token = token_of(stack, USER)
        yield stack
        stack.stop()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    with browsers.open_browser(tmp_path / "chromium") as running:
        yield running


@pytest.mark.parametrize("path", ["/crm/", "/crm/policy"])
def test_page_needs_a_login_and_access_to_airflow(stack: AirflowStack, path: str) -> None:
    assert get(stack, path)[0] == 401
    assert "You are not logged in" in get(stack, path)[1]
    assert get(stack, path, token="nonsense")[0] == 403
    status, text = get(stack, path, token=token_of(stack, "eve"))
    assert status == 403
    assert "You may not see this page" in text
    assert "INVALID_INPUT" not in text


def test_page_in_a_browser(stack: AirflowStack, browser: Any) -> None:
    log_in(browser, stack)
    open_page(browser, stack)
    browsers.complaints(browser)  # Airflow's own errors of the first calls without a login
    assert "No syncs yet" in text_of(browser)
    picture(browser, "page-empty.png")

    for dag, state in RUNS:
        run = stack.api.run_dag(dag)
        assert run.state == state, f"{dag}: {stack.api.log(run, run.tasks[0])}"
    slow = stack.api.trigger("crm_slow")
    stack.api.wait("crm_slow", slow, until=lambda run: run["load"].state == "running")
    wait_for(lambda: PROGRESS in read_again(browser, stack))

    words = text_of(browser)
    for expected in (
        "crm_leads / load_leads", "too many rejects", "crm_partner", "60 created", "crm_slow", "running",
        "success with rejects", "dry run", "crm_warehouse / extract", "missing.csv", "crm_nightly",
    ):  # fmt: skip
        assert expected in words, f"{expected} in: {words}"
    assert "@example.com" not in browser.page_source, "the page contains no row value"
    look_at(browser, "page")

    before = text_of(browser, "tr[data-live='crm_slow/load']")
    browser.execute_script("document.body.dataset.same = 'yes'")
    wait_for(lambda: text_of(browser, "tr[data-live='crm_slow/load']") != before)
    assert browser.execute_script("return document.body.dataset.same") == "yes", "the page was not reloaded"

    click(browser, "link text", "crm_empty / load")
    wait_for(lambda: "runs without rows" in text_of(browser))
    click(browser, "link text", "Syncs")
    click(browser, "link text", "crm_nightly / load")
    wait_for(lambda: "Runs, the newest first" in text_of(browser))
    look_at(browser, "page-sync")
    click(browser, "css selector", ".runs th[scope=row] a")
    wait_for(lambda: "Send the rejected rows again" in text_of(browser))
    words = text_of(browser)
    for expected in ("INVALID_INPUT", 'only="all"', "reject by on_error of the task", "nightly.csv, line 94 (row 93)"):
        assert expected in words, f"{expected} in: {words}"
    assert "@example.com" not in browser.page_source, "the page contains no row value"
    look_at(browser, "page-run")

    browser.get(f"{stack.url}/crm/policy?operator=CrmDealStageSensor")
    look_at(browser, "policy")
    assert "DEAL_NOT_FOUND" in text_of(browser)
    assert browsers.complaints(browser) == []


def test_start_button_resends_rejected_rows(stack: AirflowStack, browser: Any) -> None:
    """The DAG code of the page is copied into the DAG folder unchanged. Then the page starts the DAG."""
    log_in(browser, stack)
    run = stack.api.run_dag("crm_nightly")
    assert run.state == "success", stack.api.log(run, run.tasks[0])
    browser.get(f"{stack.url}/crm/run?dag_id=crm_nightly&task_id=load&run_id={quote(run.run_id)}")
    code = text_of(browser, "#resend")
    assert not browser.find_elements("css selector", "[data-start]")
    (Path(stack.env["AIRFLOW__CORE__DAGS_FOLDER"]) / "resend.py").write_text(code)
    stack.api.wait_for_dag("crm_nightly__load__resend")
    stack.api.request("PATCH", "/api/v2/dags/crm_nightly__load__resend", {"is_paused": False})

    browser.refresh()
    browsers.complaints(browser)
    click(browser, "css selector", "[data-start]")
    wait_for(lambda: "It starts a run with" in text_of(browser))
    for scheme in ("light", "dark"):
        browsers.set_colours(browser, scheme)
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", start_button(browser))
        picture(browser, f"page-resend-{scheme}.png")
    assert start_button(browser).text == "Start it now"
    start_button(browser).send_keys("\n")  # also by keyboard
    started = wait_for(lambda: links(browser, "/dags/crm_nightly__load__resend/runs/"))[0].text
    assert not start_button(browser).is_enabled(), "the DAG is not started twice"
    done = stack.api.wait("crm_nightly__load__resend", started)
    assert done.states() == {"resend": "failed"}, "the same rows are rejected again"
    assert stack.api.xcoms(done, done.tasks[0])["return_value"]["rejected"] == 3
    assert browsers.complaints(browser) == []


def start_button(browser: Any) -> Any:
    return browser.find_element("css selector", "[data-start]")


def look_at(browser: Any, name: str) -> None:
    """Keep screenshots of a page in light, dark and small."""
    for scheme in ("light", "dark"):
        browsers.set_colours(browser, scheme)
        picture(browser, f"{name}-{scheme}.png")
        assert is_dark(browser) == (scheme == "dark")
    browsers.set_colours(browser, "light")
    browsers.resize(browser, 390, 900)
    picture(browser, f"{name}-small.png")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390, "nothing sticks out"
    browsers.resize(browser, *browsers.SIZE)


def test_page_hides_loads_of_unreadable_dags_in_a_browser(stack: AirflowStack) -> None:
    seen = {name: get(stack, "/crm/", token=token_of(stack, name))[1] for name in (USER, "vera")}
    assert "crm_leads / load_leads" in seen[USER] and "crm_partners / load" in seen[USER]
    assert "crm_leads / load_leads" in seen["vera"]
    assert "crm_partner" not in seen["vera"], "neither the load nor its connection"
    path = "/crm/sync?dag_id=crm_partners&task_id=load"
    assert [get(stack, path, token=token_of(stack, name))[0] for name in (USER, "vera")] == [200, 404]


def test_page_inside_airflows_ui(stack: AirflowStack, browser: Any) -> None:
    log_in(browser, stack)
    click(browser, "css selector", "a[href*='/plugin/crm']")
    enter_frame(browser)
    browser.switch_to.default_content()
    for scheme in ("dark", "light"):
        browser.execute_script("localStorage.setItem('theme', arguments[0])", scheme)
        browser.refresh()
        enter_frame(browser)
        assert wait_for(lambda scheme=scheme: is_dark(browser) == (scheme == "dark"))
        assert browser.execute_script(SAME_COLOUR), "the page has Airflow's background colour"
        browser.switch_to.default_content()
        browsers.resize(browser, 1280, 820)
        picture(browser, f"page-in-airflow-{scheme}.png")
    enter_frame(browser)
    click(browser, "link text", "crm_leads / load_leads")
    click(browser, "css selector", ".runs th[scope=row] a")
    click(browser, "link text", "The task's log in Airflow")
    browser.switch_to.default_content()
    wait_for(lambda: "/dags/crm_leads/runs/" in browser.current_url)
    wait_for(lambda: "load_leads" in text_of(browser))
    picture(browser, "task.png")


# -- helpers ------------------------------------------------------------------------------------------------


def get(stack: AirflowStack, path: str, *, token: str | None = None) -> tuple[int, str]:
    """The status and text of a page."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(stack.url + path, headers=headers)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()


def token_of(stack: AirflowStack, name: str) -> str:
    login = {"username": name, "password": PASSWORD}
    return str(stack.api.request("POST", "/auth/token", login, authenticated=False)["access_token"])


def log_in(browser: Any, stack: AirflowStack) -> None:
    browser.get(stack.url)
    wait_for(lambda: browser.find_elements("name", "username"))[0].send_keys(USER)
    browser.find_element("name", "password").send_keys(PASSWORD, "\n")
    wait_for(lambda: links(browser, "/dags"))


def open_page(browser: Any, stack: AirflowStack) -> None:
    browser.get(f"{stack.url}/crm/")
    assert "crm/page.css" in browser.page_source


def read_again(browser: Any, stack: AirflowStack) -> str:
    open_page(browser, stack)
    return text_of(browser)


def enter_frame(browser: Any) -> None:
    """Switch the browser to the frame in which Airflow shows the page."""

    def has_entered() -> bool:
        browser.switch_to.default_content()
        browser.switch_to.frame(browser.find_element("css selector", "iframe[title=CRM]"))
        return "crm_leads" in text_of(browser)

    wait_for(has_entered)


def links(browser: Any, part: str) -> list[Any]:
    return browser.find_elements("css selector", f"a[href*='{part}']")


def is_dark(browser: Any) -> bool:
    script = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0] < 100"
    return bool(browser.execute_script(script))
