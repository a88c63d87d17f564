"""Who asks and what they may see, by Airflow's own rules: the one place that touches its authentication."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import get_user
from airflow.models.dag import DagModel

SHOWN = (DagAccessEntity.TASK_INSTANCE, DagAccessEntity.XCOM)
"""What the page shows of a DAG."""

current_user = get_user
"""FastAPI dependency: the user who is logged in, else 401. Its arguments differ from version to version."""


def readable(user: Any, dag_ids: Iterable[str]) -> set[str]:
    """Those DAGs whose task instances and XComs the user may read."""
    return {dag_id for dag_id in dag_ids if _may_read(user, dag_id)}


def _may_read(user: Any, dag_id: str) -> bool:
    manager = get_auth_manager()
    details = DagDetails(id=dag_id, team_name=_team_of(dag_id))
    return all(
        manager.is_authorized_dag(method="GET", access_entity=entity, details=details, user=user) for entity in SHOWN
    )


def _team_of(dag_id: str) -> str | None:
    find = getattr(DagModel, "get_team_name", None)  # there are teams from 3.2 on
    return None if find is None else find(dag_id)
