"""The section [crm] of Airflow's configuration: its effects, and the messages for invalid values."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from crm_provider import config as site_config
from crm_provider import errors as e
from crm_provider.__main__ import main
from crm_provider.errors.on_error import Action, Work
from crm_provider.errors.policy import DecidedBy, Decision
from crm_provider.get_provider_info import get_provider_info
from crm_provider.hooks.crm import CrmHook
from crm_provider.operators.contacts import CrmDeleteContactOperator
from crm_provider.operators.deals import CrmMoveDealStageOperator
from crm_provider.tasks import CrmRetryPolicy

Site = Callable[..., None]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    """Sets options: ``site(timeout="60")``."""

    def set_options(**options: Any) -> None:
        for name, value in options.items():
            text = value if isinstance(value, str) else json.dumps(value)
            monkeypatch.setenv(f"AIRFLOW__CRM__{name.upper()}", text)

    return set_options


# -- defaults of connections --------------------------------------------------------------------------------


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def make(**extra: Any) -> Any:
        given = {"conn_type": "crm", "password": "Sesame-1", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_CRM_DEFAULT", json.dumps(given))
        return CrmHook().get_conn().settings

    return make


def test_missing_section_changes_nothing(connection: Callable[..., Any]) -> None:
    assert site_config.connection_defaults() == {}
    assert site_config.on_error(Work.TASK) == {}
    assert site_config.record_url("contact_url") is None
    assert site_config.file_links() == {}
    assert site_config.report_directory() is None
    assert site_config.work_directory() is None
    settings = connection()
    assert (settings.timeout, settings.poll_share, settings.rate_store) == (30.0, 0.5, None)


def test_section_replaces_a_missing_extra(site: Site, connection: Callable[..., Any]) -> None:
    site(timeout="60", poll_share=" 0.3 ", rate_store="process")
    settings = connection()
    assert (settings.timeout, settings.poll_share, settings.rate_store) == (60.0, 0.3, "process")
    assert connection(timeout="").timeout == 60.0
    assert connection(timeout=7).timeout == 7.0


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("timeout", "soon", "a number from 0.1 to 600"),
        ("timeout", "0", "a number from 0.1 to 600"),
        ("poll_share", "2", "a number from 0.05 to 1"),
        ("rate_store", "redys://u:hunter2@h", "'airflow' (one budget for all hosts)"),
    ],
)
def test_invalid_connection_default(
    site: Site, connection: Callable[..., Any], option: str, value: str, wanted: str
) -> None:
    site(**{option: value})
    with pytest.raises(e.CrmConfigurationError) as raised:
        connection()
    text = str(raised.value)
    assert f"section [crm], option {option} (AIRFLOW__CRM__{option.upper()}) must be {wanted}" in text
    assert "hunter2" not in text
    assert "connection 'crm_default'" not in text, "the connection is not at fault"


# -- on_error -----------------------------------------------------------------------------------------------


def test_site_takes_precedence_over_an_operators_preset(site: Site) -> None:
    assert CrmDeleteContactOperator(task_id="t", contact_email="a@b.co").decide(
        e.CrmContactNotFoundError("Contact not found.")
    ) == Decision(Action.SKIP, DecidedBy.OPERATOR, "CONTACT_NOT_FOUND", "CrmDeleteContactOperator")
    site(on_error={"CONTACT_NOT_FOUND": "fail"})
    assert CrmDeleteContactOperator(task_id="t", contact_email="a@b.co").decide(
        e.CrmContactNotFoundError("Contact not found.")
    ) == Decision(Action.FAIL, DecidedBy.SITE, "CONTACT_NOT_FOUND")


def test_lines_of_one_kind_of_work_take_precedence_over_those_for_all(site: Site) -> None:
    site(on_error={"DEAL_NOT_FOUND": "skip", "sensor": {"DEAL_NOT_FOUND": "fail", "STAGE_NOT_FOUND": "wait"}})
    assert site_config.on_error(Work.TASK) == {e.CrmDealNotFoundError: Action.SKIP}
    assert site_config.on_error(Work.LOAD) == {e.CrmDealNotFoundError: Action.SKIP}
    assert site_config.on_error(Work.SENSOR) == {
        e.CrmDealNotFoundError: Action.FAIL,
        e.CrmStageNotFoundError: Action.WAIT,
    }


def test_retry_policy_of_a_custom_task_follows_the_site(site: Site) -> None:
    pytest.importorskip("airflow.sdk.definitions.retry_policy", reason="Airflow 3.3+")
    policy, error = CrmRetryPolicy(), e.CrmDealNotFoundError("Deal not found.")
    assert policy.evaluate(error, 1, 3).action.name == "FAIL"
    site(on_error={"DEAL_NOT_FOUND": "retry"})
    assert policy.evaluate(error, 1, 3).action.name == "RETRY"


WRONG = {
    "no JSON": ("{DEAL_NOT_FOUND: skip}", "option on_error (AIRFLOW__CRM__ON_ERROR) must be a JSON object such as"),
    "no mapping": ('["DEAL_NOT_FOUND"]', "must be a JSON object such as"),
    "unknown error": ('{"DEAL_NOT_FUOND": "skip"}', "Did you mean 'DEAL_NOT_FOUND'?"),
    "not for every kind of work": ('{"DEAL_NOT_FOUND": "wait"}', "Lines for one kind of work go under"),
    "senseless": ('{"load": {"FORBIDDEN": "reject"}}', "a refused key or connection stays refused"),
    "no mapping below": ('{"load": "skip"}', "on_error must be a mapping"),
}


@pytest.mark.parametrize("case", WRONG)
def test_invalid_on_error_is_reported_when_the_dag_is_parsed(site: Site, case: str) -> None:
    value, wanted = WRONG[case]
    site(on_error=value)
    with pytest.raises(e.CrmConfigurationError) as raised:
        CrmMoveDealStageOperator(task_id="t", deal_id="d", stage_id="s")
    assert "Airflow's configuration, section [crm], option on_error (AIRFLOW__CRM__ON_ERROR)" in str(raised.value)
    assert wanted in str(raised.value)


# -- the command line ---------------------------------------------------------------------------------------


def test_policy_table_shows_the_site(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site(on_error={"DEAL_NOT_FOUND": "skip"})
    assert main(["policy", "--for", "CrmMoveDealStageOperator", "--site", "--format", "json"]) == 0
    lines = {line["type"]: line for line in json.loads(capsys.readouterr().out)}
    assert lines["DEAL_NOT_FOUND"]["action"] == "skip"
    assert lines["DEAL_NOT_FOUND"]["origin"] == "airflow.cfg [crm] on_error[DEAL_NOT_FOUND]"
    assert main(["policy", "--for", "CrmMoveDealStageOperator", "--format", "json"]) == 0
    assert "airflow.cfg" not in capsys.readouterr().out


def test_command_line_reports_an_invalid_option(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site(on_error="{")
    assert main(["policy", "--site"]) == 2
    assert "Airflow's configuration, section [crm], option on_error" in capsys.readouterr().err


# -- links --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template",
    ["/contacts/{id}", "https://a.example/contacts", "https://a.example/{id}/{email}", "https://a/{id", "{id}"],
)
def test_invalid_url_template(site: Site, template: str) -> None:
    site(contact_url=template)
    with pytest.raises(
        e.CrmConfigurationError, match=r"option contact_url .* must be an http\(s\) URL with {id} in it"
    ):
        site_config.record_url("contact_url")


@pytest.mark.parametrize("value", ["{", '{"/a": 1}', '{"/a": "files.example.com"}', '["/a"]'])
def test_invalid_file_links(site: Site, value: str) -> None:
    site(file_links=value)
    with pytest.raises(e.CrmConfigurationError, match="option file_links"):
        site_config.file_links()


def test_section_documents_every_option_that_is_read() -> None:
    options = get_provider_info()["config"]["crm"]["options"]
    folders, links = {"report_directory", "work_directory"}, {"contact_url", "deal_url", "file_links"}
    read = {"on_error", *folders, *links, *site_config.CONNECTION_DEFAULTS}
    assert set(options) == read
    assert {name for name, option in options.items() if option["sensitive"]} == {"rate_store"}


@pytest.mark.parametrize("name", get_provider_info()["config"]["crm"]["options"])
def test_example_of_an_option_is_valid(site: Site, name: str) -> None:
    site(**{name: get_provider_info()["config"]["crm"]["options"][name]["example"]})
    found = {
        **site_config.connection_defaults(),
        **{work.value: site_config.on_error(work) for work in Work},
        "report_directory": site_config.report_directory(),
        "work_directory": site_config.work_directory(),
        "contact_url": site_config.record_url("contact_url"),
        "deal_url": site_config.record_url("deal_url"),
        "file_links": site_config.file_links(),
    }
    assert any(found.values())
