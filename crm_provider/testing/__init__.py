"""Pytest fixtures, runs of DAGs and assertions, for tests of DAGs that use this provider.

It is installed as a pytest plugin, so tests use the fixtures without an import. In this example the CRM loses a
response, and the DAG must not create the contact twice::

    from crm_provider.testing import assert_dag_ends, assert_no_duplicates, assert_rate_kept
    from dags.leads import dag

    def test_a_lost_response(crm_sandbox, crm_connection):
        lost = {"effect": "lost", "method": "POST", "path": "/contacts", "count": 1}
        assert_dag_ends(dag, {"upsert": "success"}, sandbox=crm_sandbox, fault=lost)
        assert_no_duplicates(crm_sandbox)
        assert_rate_kept(crm_sandbox)

The sandbox starts with the defaults of ``SandboxSettings`` (seed ``demo``, 5 calls per second, burst 2). A marker
changes them::

    @pytest.mark.crm_sandbox(seed="empty", rate=None, envelope="v2")
    def test_on_an_empty_crm(crm_sandbox): ...

``docs/testing.md`` describes all of it. Every pytest run in the environment loads this package, so it imports Airflow
and the sandbox only when a test uses them.
"""

from __future__ import annotations

from crm_provider.testing.airflow_home import fresh_airflow_home
from crm_provider.testing.assertions import (
    assert_dag_ends,
    assert_never_throttled,
    assert_no_duplicates,
    assert_rate_kept,
)
from crm_provider.testing.dag_runs import Attempt, FinishedRun, TaskEnd, load_dag, run_dag
from crm_provider.testing.fixtures import (
    CONNECTION_ID,
    CONNECTION_VARIABLE,
    _crm_sandbox_server,
    crm_connection,
    crm_quick,
    crm_sandbox,
    pytest_configure,
)
from crm_provider.testing.records import assert_contacts_deleted, assert_deal_stages

__all__ = [
    "CONNECTION_ID",
    "CONNECTION_VARIABLE",
    "Attempt",
    "FinishedRun",
    "TaskEnd",
    "_crm_sandbox_server",
    "assert_contacts_deleted",
    "assert_dag_ends",
    "assert_deal_stages",
    "assert_never_throttled",
    "assert_no_duplicates",
    "assert_rate_kept",
    "crm_connection",
    "crm_quick",
    "crm_sandbox",
    "fresh_airflow_home",
    "load_dag",
    "pytest_configure",
    "run_dag",
]
