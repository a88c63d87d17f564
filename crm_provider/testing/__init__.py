"""Pytest fixtures, runs of DAGs and assertions, for tests of DAGs that use this provider.

Installed as a pytest plugin: the fixtures are there without an import. A DAG that runs against a CRM which loses an
answer, and must not create the contact twice::

    from crm_provider.testing import assert_dag_ends, assert_no_duplicates, assert_rate_kept
    from dags.leads import dag

    def test_a_lost_answer(crm_sandbox, crm_connection):
        lost = {"effect": "lost", "method": "POST", "path": "/contacts", "count": 1}
        assert_dag_ends(dag, {"upsert": "success"}, sandbox=crm_sandbox, fault=lost)
        assert_no_duplicates(crm_sandbox)
        assert_rate_kept(crm_sandbox)

The sandbox starts as ``Settings()`` does (seed ``demo``, 5 calls per second, burst 2); a marker changes that::

    @pytest.mark.crm_sandbox(seed="empty", rate=None, envelope="v2")
    def test_on_an_empty_crm(crm_sandbox): ...

All of it is described in ``docs/testing.md``. Airflow and the sandbox are imported when a test uses them: this package
is loaded by every pytest run in the environment.
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

__all__ = [
    "CONNECTION_ID",
    "CONNECTION_VARIABLE",
    "Attempt",
    "FinishedRun",
    "TaskEnd",
    "_crm_sandbox_server",
    "assert_dag_ends",
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
