"""Who asks and what they may see, by Airflow's own rules: the one place that touches its authentication."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import AccessView, DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import get_user
from airflow.models.dag import DagModel
from fastapi import Depends, HTTPException

SHOWN = (DagAccessEntity.TASK_INSTANCE, DagAccessEntity.XCOM)
"""What the page shows of a DAG."""


def current_user(user: Annotated[Any, Depends(get_user)]) -> Any:
    """FastAPI dependency: the user who is logged in and may see Airflow's website.

    :raises HTTPException: 401 if nobody is logged in, 403 if the user has no right to see the website
    """
    if not get_auth_manager().is_authorized_view(access_view=AccessView.WEBSITE, user=user):
        raise HTTPException(403, "You have no right to see Airflow's website.")
    return user


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
