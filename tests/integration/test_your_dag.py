"""An example of tests for a user's DAG, shown in ``docs/testing.md``."""

from __future__ import annotations

from pathlib import Path

import pytest

from crm_provider.testing import (
    assert_dag_ends,
    assert_never_throttled,
    assert_no_duplicates,
    assert_rate_kept,
    load_dag,
)

DAGS = Path(__file__).parents[2] / "example_dags"
NEW = {"email": "new@example.com"}


@pytest.fixture
def dag():
    return load_dag(DAGS / "crm_quickstart.py")


def test_quickstart_creates_a_contact_and_a_deal(dag, crm_quick):
    run = assert_dag_ends(dag, run_conf=NEW)
    assert run["create_deal"].result["outcome"] == "created"
    assert "new@example.com" in crm_quick.store.contacts


def test_contact_with_a_deal_is_skipped(dag, crm_quick):
    assert_dag_ends(dag, {"create_deal": "skipped", "move_deal": "skipped"}, run_conf={"email": "ada@example.com"})


def test_deleted_deal_is_skipped(dag, crm_quick):
    gone = {"effect": "error", "error": "DEAL_NOT_FOUND", "method": "PUT", "path": "/deals/*"}
    run = assert_dag_ends(dag, {"move_deal": "skipped"}, sandbox=crm_quick, fault=gone, run_conf=NEW)
    assert run["move_deal"].xcoms["crm_error"]["action"] == "skip"


def test_lost_response_creates_no_duplicate(dag, crm_quick):
    lost = {"effect": "lost", "method": "POST", "count": 1}
    assert_dag_ends(dag, sandbox=crm_quick, fault=lost, run_conf=NEW)
    assert_no_duplicates(crm_quick)


def test_outage_is_retried_after_the_delay(dag, crm_quick):
    outage = {"effect": "error", "error": "SERVICE_UNAVAILABLE", "path": "/contacts*", "count": 8}
    run = assert_dag_ends(dag, sandbox=crm_quick, fault=outage, run_conf=NEW)
    assert run["upsert_contact"].states == ["up_for_retry", "success"]
    assert run["upsert_contact"].waits == pytest.approx([300], abs=10)  # the retry_delay, which the test skipped


def test_refused_key_fails_without_a_retry(dag, crm_quick):
    crm_quick.configure(api_key=None)
    run = assert_dag_ends(dag, {"upsert_contact": "failed"}, others="upstream_failed", run_conf=NEW)
    assert run["upsert_contact"].states == ["failed"]


def test_rate_limit_is_kept(dag, crm_sandbox, crm_connection):
    assert_dag_ends(dag, run_conf=NEW)
    assert_rate_kept(crm_sandbox)
    assert_never_throttled(crm_sandbox)
