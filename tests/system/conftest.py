"""System tests: a real Airflow, started once for all tests of a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from airflow_stack import AirflowStack
from s3_server import S3Server
from sql_servers import MariaDbServer, PostgresServer

StartAirflow = Callable[..., AirflowStack]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.system)


@pytest.fixture(scope="module")
def airflow_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartAirflow]:
    """Starts an Airflow with the arguments of :class:`AirflowStack`, except ``home``.

    Each call starts one (10 s, 800 MB). All of them end with the module.
    """
    with ExitStack() as running:

        def start(dags_folder: Path, **arguments: Any) -> AirflowStack:
            home = tmp_path_factory.mktemp("airflow")
            return running.enter_context(AirflowStack(dags_folder, home=home, **arguments))

        yield start


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One PostgreSQL for all tests. Each test creates its own tables with unique names."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDbServer]:
    """One MariaDB for all tests, like :func:`postgres`."""
    with MariaDbServer() as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """One S3 server for all tests. Each test creates its own buckets."""
    with S3Server() as server:
        yield server
