"""The connection's form in a real browser: what it asks for, what its test tells, and a DAG that uses what it saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import browser as browsers
import pytest
from airflow_stack import AirflowStack
from browser import picture, text_of, wait_for

from crm_provider.provider_info import CONN_FIELDS
from crm_provider.sandbox import Sandbox

pytest.importorskip("selenium.webdriver", reason="needs the extra 'system'")
pytestmark = pytest.mark.skipif(not browsers.is_there(), reason=browsers.HOW_TO_GET_IT)

DAG_FILE = """
from airflow.sdk import DAG

from crm_provider.operators.contacts import CrmUpsertContactOperator

with DAG("crm_form", schedule=None):
    CrmUpsertContactOperator(task_id="upsert", crm_conn_id="crm_form", contact_email="form@example.com", retries=0)
"""


@pytest.fixture(scope="module")
def crm() -> Iterator[Sandbox]:
    with Sandbox(seed="empty") as running:
        yield running


@pytest.fixture(scope="module")
def stack(
    airflow_stack: Callable[..., AirflowStack], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AirflowStack]:
    dags = tmp_path_factory.mktemp("dags")
    (dags / "form.py").write_text(DAG_FILE)
    stack = airflow_stack(dags)
    yield stack
    stack.stop()


@pytest.fixture
def browser(tmp_path: Path, stack: AirflowStack) -> Iterator[Any]:
    with browsers.open_browser(tmp_path / "chromium") as running:
        running.get(f"{stack.url}/connections")
        yield running


def test_the_form(stack: AirflowStack, crm: Sandbox, browser: Any) -> None:
    open_form(browser, "crm_wrong")
    words = text_of(browser, "[role=dialog]")
    assert "Base URL" in words
    assert "API key" in words
    assert "Schema" not in words
    assert "Login" not in words
    assert field(browser, "host").get_attribute("placeholder") == "https://connect.pingback.com/v2"
    assert field(browser, "password").get_attribute("type") == "password"
    picture(browser, "connection-form.png")
    button(browser, "Extra Fields").click()
    wait_for(lambda: "Burst" in text_of(browser, "[role=dialog]"), 10)
    words = text_of(browser, "[role=dialog]")
    for described in CONN_FIELDS.values():
        assert described["label"] in words
        assert described["description"] in words
    browsers.resize(browser, 1280, 1250)
    picture(browser, "connection-extras.png")
    browsers.resize(browser, *browsers.SIZE)
    button(browser, "Standard Fields").click()
    save(browser, host=crm.url, key="not the key")
    assert "API key" in result_of_test(browser, "crm_wrong"), "it says which field is wrong"

    open_form(browser, "crm_form")
    save(browser, host=crm.url, key=crm.api_key)
    assert f"The CRM at {crm.url} answers and takes the key" in result_of_test(browser, "crm_form")
    picture(browser, "connection-test.png")

    assert stack.api.run_dag("crm_form").state == "success"
    assert [contact.email for contact in crm.store.contacts.values()] == ["form@example.com"]


# -- helpers ------------------------------------------------------------------------------------------------


def open_form(browser: Any, conn_id: str) -> None:
    browser.refresh()  # no message of before is in the way
    wait_for(lambda: browser.find_elements("xpath", "//button[contains(., 'Add Connection')]"), 60)[0].click()
    wait_for(lambda: browser.find_elements("name", "connection_id"), 10)[0].send_keys(conn_id)
    kind = browser.find_element("css selector", "[role=dialog] input[role=combobox]")
    kind.send_keys("CRM")
    wait_for(lambda: browser.find_elements("css selector", "[role=option]"), 10)
    kind.send_keys("\n")
    wait_for(lambda: browser.find_elements("name", "host"), 10)


def save(browser: Any, *, host: str, key: str) -> None:
    """Fill in the standard fields and save."""
    wait_for(lambda: field(browser, "host").is_displayed(), 10)
    # Airflow 3.3.1 and 3.3.2 do not test a connection without a port
    for name, value in (("host", host), ("password", key), ("port", "0")):
        field(browser, name).send_keys(value)
    button(browser, "Save").click()
    wait_for(lambda: not browser.find_elements("css selector", "[role=dialog]"), 20)


def result_of_test(browser: Any, conn_id: str) -> str:
    """What Airflow shows after a click on the connection's test button."""
    row = f"//tr[contains(., '{conn_id}')]//button[@aria-label='Test Connection']"
    wait_for(lambda: browser.find_elements("xpath", row), 20)[0].click()

    def told() -> str:
        toasts = browser.find_elements("css selector", "[data-scope=toast][data-part=description]")
        return next((toast.text for toast in toasts if toast.text and "successfully created" not in toast.text), "")

    return wait_for(told, 30)


def field(browser: Any, name: str) -> Any:
    return browser.find_element("name", name)


def button(browser: Any, text: str) -> Any:
    return browser.find_element("xpath", f"//*[@role='dialog']//button[normalize-space()='{text}']")
