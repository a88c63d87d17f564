"""The connection form in a real browser: its fields, its test, and a DAG with the saved connection."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import browser as browsers
import pytest
from airflow_stack import AirflowStack
from browser import click, picture, text_of, wait_for
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from crm_provider.config import CONNECTION_DEFAULTS
from crm_provider.get_provider_info import CONN_FIELDS
from crm_provider.sandbox import Sandbox

pytest.importorskip("selenium.webdriver", reason="needs the extra 'system'")
pytestmark = pytest.mark.skipif(not browsers.is_there(), reason=browsers.HOW_TO_GET_IT)

ROOT = Path(__file__).resolve().parents[2]

FAULTY = SpecifierSet(">=3.3.1,<=3.3.2")
"""Versions of Airflow without a test of connections that have no port."""

DAG_FILE = """
from airflow.sdk import DAG

from crm_provider.operators.contacts import CrmUpsertContactOperator

with DAG("crm_form", schedule=None):
    CrmUpsertContactOperator(task_id="upsert", crm_conn_id="crm_form", contact_email="form@example.com", retries=0)

with DAG("crm_refused", schedule=None):
    CrmUpsertContactOperator(task_id="upsert", crm_conn_id="crm_refused", contact_email="form@example.com", retries=1)
"""


@pytest.fixture(scope="module")
def crm() -> Iterator[Sandbox]:
    with Sandbox(seed="empty") as running:
        yield running


@pytest.fixture(scope="module")
def stack(airflow_stack: Callable[..., AirflowStack], tmp_path_factory: pytest.TempPathFactory) -> AirflowStack:
    dags = tmp_path_factory.mktemp("dags")
    (dags / "form.py").write_text(DAG_FILE)
    return airflow_stack(dags)


@pytest.fixture
def browser(tmp_path: Path, stack: AirflowStack) -> Iterator[Any]:
    with browsers.open_browser(tmp_path / "chromium") as running:
        running.get(f"{stack.url}/connections")
        yield running


def test_connection_form_saves_and_tests_a_connection(stack: AirflowStack, crm: Sandbox, browser: Any) -> None:
    open_form(browser, "crm_wrong")
    words = text_of(browser, "[role=dialog]")
    assert "Base URL" in words
    assert "API key" in words
    assert "Schema" not in words
    assert "Login" not in words
    assert field(browser, "host").get_attribute("placeholder") == "https://connect.pingback.com/v2"
    assert field(browser, "password").get_attribute("type") == "password"
    picture(browser, "connection-form.png")
    press(browser, "Extra Fields")
    wait_for(lambda: "Burst" in text_of(browser, "[role=dialog]"))
    words = text_of(browser, "[role=dialog]")
    for described in CONN_FIELDS.values():
        assert described["label"] in words
        assert described["description"] in words
    browsers.resize(browser, 1280, 1250)
    picture(browser, "connection-extras.png")
    browsers.resize(browser, *browsers.SIZE)
    press(browser, "Standard Fields")
    save(browser, host=crm.url, key="not the key")
    assert "API key" in result_of_test(browser, "crm_wrong"), "the message names the field"

    open_form(browser, "crm_form")
    save(browser, host=crm.url, key=crm.api_key)
    assert f"The CRM at {crm.url} responds and accepts the key" in result_of_test(browser, "crm_form")
    picture(browser, "connection-test.png")
    saved = json.loads(stack.api.request("GET", "/api/v2/connections/crm_form")["extra"])
    assert saved["requests_per_second"] == 5, "the saved connection equals the form"
    assert [saved.get(name) for name in CONNECTION_DEFAULTS] == [None] * 3, "fields with a site default stay empty"

    run = stack.api.run_dag("crm_form")
    assert run.state == "success", stack.api.log(run, run.tasks[0])
    assert [contact.email for contact in crm.store.contacts.values()] == ["form@example.com"]


def test_readme_steps_work_in_the_ui(stack: AirflowStack, crm: Sandbox, browser: Any) -> None:
    """Each bold text exists in the UI. Without a port the connection test fails as documented."""
    step = re.search(r"- In the Airflow UI: (.+?)\n   - ", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert step
    texts = re.findall(r"\*\*(.+?)\*\*", " ".join(step[1].split()))
    assert texts == ["Admin", "Connections", "Add Connection", "CRM", "API key", "Port", "Save", "Test Connection"]
    admin, connections, _, kind, key, port, _, _ = texts

    browser.get(stack.url)
    click(browser, "xpath", f"//button[normalize-space()='{admin}']")
    click(browser, "xpath", f"//*[@role='menuitem'][normalize-space()='{connections}']")
    open_form(browser, "crm_readme", kind=kind)
    words = text_of(browser, "[role=dialog]")
    assert key in words and port in words
    save(browser, host=crm.url, key=crm.api_key)
    assert "responds and accepts the key" in result_of_test(browser, "crm_readme")

    open_form(browser, "crm_portless", kind=kind)
    save(browser, host=crm.url, key=crm.api_key, port="")
    is_faulty = Version(version("apache-airflow-core")) in FAULTY
    assert ("Bad Request" if is_faulty else "responds and accepts the key") in result_of_test(browser, "crm_portless")


def test_log_of_a_failed_task_is_readable(stack: AirflowStack, crm: Sandbox, browser: Any) -> None:
    """One record has the error and the advice. No line is cut off, and no traceback of the package follows."""
    fields = {"connection_id": "crm_refused", "conn_type": "crm", "host": crm.url, "password": "another-key"}
    stack.api.request("POST", "/api/v2/connections", fields)
    run = stack.api.run_dag("crm_refused")
    browser.get(f"{stack.url}/dags/crm_refused/runs/{run.run_id}/tasks/upsert?try_number=1")
    wait_for(lambda: "Task failed with exception" in text_of(browser))
    for scheme in ("light", "dark"):
        browser.execute_script("localStorage.setItem('theme', arguments[0])", scheme)
        browser.refresh()
        wait_for(lambda: "Task failed with exception" in text_of(browser))
        picture(browser, f"task-log-{scheme}.png")
    record, _, traceback = text_of(browser).partition("Task failed with exception")
    for line in (
        "FORBIDDEN (403) on ",
        "What to do:",
        "Task:        failed; not retried",
        "Decided by:  default[",
        "/crm/policy?",
    ):
        assert line in record
    assert "/crm_provider/" not in traceback
    assert browser.execute_script(CUT) == [], "no line is wider than the log"


# One script per step, because messages may cover a button between two steps.
PRESS = """
const row = [...document.querySelectorAll("tr")].find(row => row.innerText.includes(arguments[0]));
const button = row?.querySelector("button[aria-label='Test Connection']");
button?.click();
return Boolean(button);
"""
CUT = """
const record = [...document.querySelectorAll(".event")].find(event => event.innerText.includes("What to do:"));
let log = record.parentElement;
while (!["auto", "scroll"].includes(getComputedStyle(log).overflowX)) log = log.parentElement;
const range = document.createRange();
range.selectNodeContents(record);
const edge = log.getBoundingClientRect().right;
return [...range.getClientRects()].map(line => line.right).filter(right => right > edge);
"""
REPORTED = """
const messages = document.querySelectorAll("[data-scope=toast][data-part=description]");
return [...messages].map(message => message.innerText);
"""


# -- helpers ------------------------------------------------------------------------------------------------


def open_form(browser: Any, conn_id: str, *, kind: str = "CRM") -> None:
    browser.refresh()  # no earlier message covers the form
    click(browser, "xpath", "//button[contains(., 'Add Connection')]")
    wait_for(lambda: browser.find_elements("name", "connection_id"))[0].send_keys(conn_id)
    box = browser.find_element("css selector", "[role=dialog] input[role=combobox]")
    box.send_keys(kind)
    wait_for(lambda: browser.find_elements("css selector", "[role=option]"))
    box.send_keys("\n")
    wait_for(lambda: browser.find_elements("name", "host"))


def save(browser: Any, *, host: str, key: str, port: str = "0") -> None:
    """Fill in the standard fields and save."""
    wait_for(lambda: field(browser, "host").is_displayed())
    for name, value in (("host", host), ("password", key), ("port", port)):
        field(browser, name).send_keys(value)
    press(browser, "Save")
    wait_for(lambda: not browser.find_elements("css selector", "[role=dialog]"))


def result_of_test(browser: Any, conn_id: str, *, known: Container[str] = ()) -> str:
    """The message after a click on the test button of the connection.

    :param known: earlier messages, which may still be visible
    """
    wait_for(lambda: browser.execute_script(PRESS, conn_id))

    def reported() -> str:
        texts = browser.execute_script(REPORTED)
        return next((text for text in texts if text and text not in known and "successfully created" not in text), "")

    return str(wait_for(reported))


def field(browser: Any, name: str) -> Any:
    return browser.find_element("name", name)


def press(browser: Any, text: str) -> None:
    click(browser, "xpath", f"//*[@role='dialog']//button[normalize-space()='{text}']")
