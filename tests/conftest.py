"""Fixtures for Airflow: each pytest process has its own home, and tests run their DAGs for real.

``run_dag(dag)`` runs a DAG with ``dag.test()``, as users' tests do: see :mod:`crm_provider.testing.dag_runs`. System
tests cover what ``dag.test()`` cannot.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from crm_provider.testing import FinishedRun, fresh_airflow_home
from crm_provider.testing import run_dag as run_dag_to_its_end
from crm_provider.testing.airflow_home import prepare_airflow

fresh_airflow_home()  # before the first import of airflow, which would create ~/airflow

USUAL = gc.get_threshold()
gc.set_threshold(100_000, 50, 1_000)  # during imports and collection, whose objects are never freed

RunDag = Callable[..., FinishedRun]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reliability",
        type=Path,
        metavar="FILE",
        help="record the observation of each fault: see scripts/reliability.py",
    )


def pytest_collection_finish() -> None:
    """Exclude imported objects from garbage collection, which would take a tenth of the processor time."""
    gc.freeze()
    gc.set_threshold(*USUAL)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """Collect garbage between tests, never during one.

    Some tests take Python to its recursion limit. A finalizer that the collector runs there raises a RecursionError,
    and pytest fails the test because of an object of an earlier one.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.fixture(scope="session")
def airflow_db() -> Path:
    """Create Airflow's empty database and return Airflow's home."""
    prepare_airflow()
    gc.freeze()
    return Path(os.environ["AIRFLOW_HOME"])


@pytest.fixture
def run_dag(airflow_db: Path) -> RunDag:
    """Run a DAG to its end: ``run_dag(dag, run_conf={...}) -> FinishedRun``.

    Retry delays and poke intervals take real time, so keep them short. Between two tries ``dag.test`` sleeps for one
    second, unless the delay is 0.
    """
    return partial(run_dag_to_its_end, real_time=True)


@pytest.fixture
def observed(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Compare the observation of a fault, the arguments of ``reliability.Seen.of``, with docs/reliability.md.

    The test needs the marker ``reliability(part)`` with the name of the table.
    """
    marker = request.node.get_closest_marker("reliability")
    assert marker is not None, "observed needs the marker reliability(part)"

    def compare_or_note(**what: Any) -> None:
        import reliability

        seen = reliability.Seen.of(part=marker.args[0], **what)
        if file := request.config.getoption("--reliability"):
            reliability.note(file, seen)
        elif different := reliability.difference(seen):
            pytest.fail(different, pytrace=False)

    return compare_or_note
