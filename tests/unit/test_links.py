"""Extra links: their targets, and no configuration or task result makes one fail."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_provider.get_provider_info import get_provider_info
from crm_provider.observability.links import (
    CrmContactLink,
    CrmDealLink,
    CrmExtractedFileLink,
    CrmRejectsLink,
    CrmReportLink,
    web_link,
)

LINKS = (CrmContactLink(), CrmDealLink(), CrmExtractedFileLink(), CrmRejectsLink(), CrmReportLink())
RULES = {
    "/var/crm/": "https://files.example.com/",
    "/var/crm/private/": "",
    "/srv": "https://files.example.com",
    "s3://own/": "https://minio.example.com/own/",
}

FILES = {
    "/var/crm/a b/rejects.jsonl": "https://files.example.com/a%20b/rejects.jsonl",
    "file:///var/crm/rejects.jsonl": "https://files.example.com/rejects.jsonl",
    "/var/crm/private/rejects.jsonl": "",
    "/srv/r.jsonl": "https://files.example.com/r.jsonl",
    "/srv.evil.example/r.jsonl": "https://files.example.com/.evil.example/r.jsonl",
    "/srv@evil.example/r.jsonl": "https://files.example.com/%40evil.example/r.jsonl",
    "/srv:443@evil.example": "https://files.example.com/%3A443%40evil.example",
    "/var/crm/../../etc/passwd": "",
    "/var/crm/a/..": "",
    "/var/crm/%2e%2e/secret": "",
    "/var/crm/%252e%252e%252fsecret": "",
    "/var/crm/..\\secret": "",
    "/var/crm/a..b/..c": "https://files.example.com/a..b/..c",
    "s3://own/../other/r.md": "",
    "javascript:alert(1)": "",
    "javascript://files.example.com/%0aalert(1)": "",
    "data:text/html,<script>": "",
    "vbscript://x": "",
    "/tmp/rejects.jsonl": "",
    "rejects.jsonl": "",
    "https://files.example.com/r.md": "https://files.example.com/r.md",
    "https://user:pass@files.example.com/r.md": "https://files.example.com/r.md",
    "s3://aws_default@bucket/in/r 1.jsonl": "https://console.aws.amazon.com/s3/object/bucket?prefix=in/r%201.jsonl",
    "s3://bucket/a#b?c": "https://console.aws.amazon.com/s3/object/bucket?prefix=a%23b%3Fc",
    "s3a://bucket/r.md": "https://console.aws.amazon.com/s3/object/bucket?prefix=r.md",
    "s3://minio@own/r.md": "https://minio.example.com/own/r.md",
    "gs://bucket/in/r.md": "https://console.cloud.google.com/storage/browser/_details/bucket/in/r.md",
    "abfs://container/r.md": "",
    "s3://[bucket/r.md": "https://console.aws.amazon.com/s3/object/%5Bbucket?prefix=r.md",
}


@pytest.mark.parametrize("path", FILES)
def test_link_of_a_file(path: str) -> None:
    assert web_link(path, RULES) == FILES[path]


PATHS = st.builds("{}{}".format, st.sampled_from(["", "s3://", "gs://c@", "https://", "file:///"]), st.text())


@given(PATHS, st.dictionaries(st.text(), st.sampled_from(["", "https://files.example.com/"])))
def test_any_path_gives_a_web_link_or_none(path: str, rules: dict[str, str]) -> None:
    link = web_link(path, rules)
    assert link == "" or link.startswith(("https://", "http://"))


@given(st.text(), st.sampled_from(["https://files.example.com", "https://files.example.com/crm", "http://h:80/a?f="]))
def test_rule_keeps_its_own_host_with_any_path(rest: str, url: str) -> None:
    link = web_link(f"/var{rest}", {"/var": url})
    assert link == "" or link.startswith(url)
    assert urlsplit(link).netloc in ("", urlsplit(url).netloc)


def task(**fields: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"crm_conn_id": "crm_acme", "last_result": None, **fields})


@pytest.fixture
def urls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CRM__CONTACT_URL", "https://app.example.com/{conn_id}/people/{id}")
    monkeypatch.setenv("AIRFLOW__CRM__DEAL_URL", "https://app.example.com/deals/{id}")
    monkeypatch.setenv("AIRFLOW__CRM__FILE_LINKS", json.dumps(RULES))


CASES: list[tuple[Any, SimpleNamespace, str]] = [
    (CrmContactLink(), task(last_result={"id": "c-1"}), "https://app.example.com/crm_acme/people/c-1"),
    (
        CrmContactLink(),
        task(contact_id="c-1", last_result={"id": "d-1"}),
        "https://app.example.com/crm_acme/people/c-1",
    ),
    (CrmContactLink(), task(contact_id="c-1"), "https://app.example.com/crm_acme/people/c-1"),
    (CrmContactLink(), task(contact_id="../x?y"), "https://app.example.com/crm_acme/people/..%2Fx%3Fy"),
    (CrmContactLink(), task(), ""),
    (CrmDealLink(), task(deal_id="d-1"), "https://app.example.com/deals/d-1"),
    (CrmDealLink(), task(last_result={"id": "d-1", "contact_id": "c-1"}), "https://app.example.com/deals/d-1"),
    (CrmDealLink(), task(), ""),
    (CrmRejectsLink(), task(last_result={"rejects_path": "/var/crm/r.jsonl"}), "https://files.example.com/r.jsonl"),
    (CrmRejectsLink(), task(last_result={"rejects_path": None}), ""),
    (CrmReportLink(), task(last_result={"report_path": "/var/crm/r.md"}), "https://files.example.com/r.md"),
    (CrmExtractedFileLink(), task(last_result={"path": "/var/crm/c.csv"}), "https://files.example.com/c.csv"),
]


@pytest.mark.usefixtures("urls")
@pytest.mark.parametrize(("link", "operator", "wanted"), CASES)
def test_target_of_a_link(link: Any, operator: SimpleNamespace, wanted: str) -> None:
    assert link.get_link(operator, ti_key=None) == wanted


@pytest.mark.parametrize(("link", "operator", "wanted"), CASES)
def test_unconfigured_link_is_hidden(link: Any, operator: Any, wanted: str) -> None:
    assert link.get_link(operator, ti_key=None) == ""


FULL = task(
    contact_id="c-1", deal_id="d-1", last_result={"path": "/a/b", "rejects_path": "/a/b", "report_path": "/a/b"}
)


@pytest.mark.parametrize("link", LINKS, ids=lambda link: type(link).__name__)
def test_invalid_option_hides_the_link_and_is_logged(
    link: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("CONTACT_URL", "DEAL_URL", "FILE_LINKS"):
        monkeypatch.setenv(f"AIRFLOW__CRM__{name}", "nonsense")
    assert link.get_link(FULL, ti_key=None) == ""
    assert "No link: CONFIGURATION: Airflow's configuration, section [crm], option" in caplog.text


@pytest.mark.parametrize("result", [None, "text", 5, [], {"id": 5}, {"id": None, "path": 7}])
@pytest.mark.parametrize("link", LINKS, ids=lambda link: type(link).__name__)
@pytest.mark.usefixtures("urls")
def test_odd_result_does_not_raise(link: Any, result: Any) -> None:
    assert link.get_link(task(last_result=result), ti_key=None) == ""


def test_all_links_are_registered_with_unique_names_and_keys() -> None:
    names = {f"{type(link).__module__}.{type(link).__name__}" for link in LINKS}
    assert set(get_provider_info()["extra-links"]) == names
    assert len({link.name for link in LINKS}) == len({link.xcom_key for link in LINKS}) == len(LINKS)
