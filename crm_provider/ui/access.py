"""Who may see what: Airflow's own rules. The only module that uses Airflow's authentication."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import AccessView, DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import get_user
from airflow.models.dag import DagModel
from fastapi import Depends, HTTPException

REQUIRED_ENTITIES = (DagAccessEntity.TASK_INSTANCE, DagAccessEntity.XCOM)
"""Parts of a DAG that the page shows."""


def current_user(user: Annotated[Any, Depends(get_user)]) -> Any:
    """FastAPI dependency: the user who is logged in and may see Airflow's website.

    :raises HTTPException: 401 if nobody is logged in, 403 if the user lacks the permission
    """
    if not get_auth_manager().is_authorized_view(access_view=AccessView.WEBSITE, user=user):
        raise HTTPException(403, "You do not have permission to view Airflow's website.")
    return user


User = Annotated[Any, Depends(current_user)]


def readable(user: Any, dag_ids: Iterable[str]) -> set[str]:
    """The DAGs whose task instances and XComs the user may read."""
    wanted = sorted(set(dag_ids))
    teams = _teams_of(wanted)
    return {dag_id for dag_id in wanted if _may_read(user, dag_id, teams.get(dag_id))}


def may_start(user: Any, dag_id: str) -> bool:
    """Whether the user may start runs of a DAG."""
    details = DagDetails(id=dag_id, team_name=_teams_of([dag_id]).get(dag_id))
    return bool(
        get_auth_manager().is_authorized_dag(
            method="POST", access_entity=DagAccessEntity.RUN, details=details, user=user
        )
    )


def _may_read(user: Any, dag_id: str, team: str | None) -> bool:
    manager, details = get_auth_manager(), DagDetails(id=dag_id, team_name=team)
    return all(
        manager.is_authorized_dag(method="GET", access_entity=entity, details=details, user=user)
        for entity in REQUIRED_ENTITIES
    )


def _teams_of(dag_ids: list[str]) -> Mapping[str, str | None]:
    """The team of each DAG; Airflow has teams from 3.2 on."""
    find_all, find = (getattr(DagModel, f"get_{name}", None) for name in ("dag_id_to_team_name_mapping", "team_name"))
    if find_all is not None:
        found: Mapping[str, str | None] = find_all(dag_ids) if dag_ids else {}
        return found
    return {} if find is None else {dag_id: find(dag_id) for dag_id in dag_ids}
