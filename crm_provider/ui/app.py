"""The page "CRM": a small web application inside Airflow's api-server, with HTML, a style sheet and a script.

Airflow's own rules decide who sees what. This is the only module that uses Airflow's authentication.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import AccessView, DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import get_user
from airflow.models.dag import DagModel
from airflow.utils.session import create_session
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from crm_provider import __version__, config
from crm_provider.errors import CrmConfigurationError
from crm_provider.errors.on_error import Work
from crm_provider.errors.policy import OPERATORS, ErrorPolicy
from crm_provider.errors.policy_table import explain
from crm_provider.ui import PREFIX
from crm_provider.ui.query import LIMIT, LOADS, dags_with_loads, recent_loads
from crm_provider.ui.reading import by_connection

SHOWN = (DagAccessEntity.TASK_INSTANCE, DagAccessEntity.XCOM)
"""Parts of a DAG that the page shows."""


def current_user(user: Annotated[Any, Depends(get_user)]) -> Any:
    """FastAPI dependency: the user who is logged in and may see Airflow's website.

    :raises HTTPException: 401 if nobody is logged in, 403 if the user has no right to see the website
    """
    if not get_auth_manager().is_authorized_view(access_view=AccessView.WEBSITE, user=user):
        raise HTTPException(403, "You have no right to see Airflow's website.")
    return user


def readable(user: Any, dag_ids: Iterable[str]) -> set[str]:
    """The DAGs whose task instances and XComs the user may read."""
    return {dag_id for dag_id in dag_ids if _may_read(user, dag_id)}


def _may_read(user: Any, dag_id: str) -> bool:
    manager = get_auth_manager()
    details = DagDetails(id=dag_id, team_name=_team_of(dag_id))
    return all(
        manager.is_authorized_dag(method="GET", access_entity=entity, details=details, user=user) for entity in SHOWN
    )


def _team_of(dag_id: str) -> str | None:
    find = getattr(DagModel, "get_team_name", None)  # Airflow has teams from 3.2 on
    return None if find is None else find(dag_id)


PAGES = Path(__file__).parent / "pages"

ASSETS = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
"""Files that everyone may read: they hold no data."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}

DEFAULT_OPERATOR = "CrmLoadContactsOperator"

User = Annotated[Any, Depends(current_user)]


def make_app(*, base: str = "") -> FastAPI:
    """The application.

    :param base: path of Airflow's address, for links into Airflow
    """
    app = FastAPI(title="CRM", docs_url=None, redoc_url=None, openapi_url=None)
    pages = Environment(loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    common = {"root": f"{base}{PREFIX}", "version": __version__}

    def page(name: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        text = pages.get_template(name).render(**common, status=status, **values)
        content = text.encode("utf-8", "replace")  # half a character has no encoding
        return HTMLResponse(content, status_code=status, headers={"Cache-Control": "no-store"})

    @app.middleware("http")
    async def add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(HTTPException)
    async def explain_refusal(request: Request, refused: HTTPException) -> Response:
        if refused.status_code not in (401, 403):
            return await http_exception_handler(request, refused)
        return page("refused.html", status=refused.status_code, login=f"{base}/auth/login?next={base}{PREFIX}/")

    @app.exception_handler(Exception)
    async def show_failure(_request: Request, _error: Exception) -> Response:
        """The server logs the error; this response does not pass the middleware, so it sets the headers itself."""
        response = page("failed.html", status=500)
        response.headers.update(HEADERS)
        return response

    @app.get("/")
    def loads(user: User) -> HTMLResponse:
        with create_session() as session:
            seen = readable(user, dags_with_loads(session))
            found = recent_loads(session, dag_ids=seen)
        connections = by_connection(found, base=base, now=datetime.now(timezone.utc))
        running = any(load.is_running for connection in connections for load in connection.loads)
        return page(
            "loads.html", connections=connections, running=running, limit=LIMIT, shown=len(found),
            operators=sorted(LOADS),
        )  # fmt: skip

    @app.get("/policy", dependencies=[Depends(current_user)])
    def policy(operator: str = DEFAULT_OPERATOR) -> HTMLResponse:
        chosen = operator if operator in OPERATORS else DEFAULT_OPERATOR
        problem, lines = _policy_of(chosen)
        return page("policy.html", operators=_by_work(), chosen=chosen, lines=lines, problem=problem)

    @app.get("/{name}")
    def asset(name: str) -> Response:
        if name not in ASSETS:
            raise HTTPException(404, "There is no such page.")
        content = (PAGES / name).read_bytes()
        return Response(content, media_type=ASSETS[name], headers={"Cache-Control": "max-age=3600"})

    return app


def _policy_of(operator: str) -> tuple[str, list[dict[str, Any]]]:
    """What is wrong with the site's ``on_error``, and the table; without the site's lines if they are wrong."""
    work = OPERATORS[operator]
    problem = ""
    try:
        site = config.on_error(work)
    except CrmConfigurationError as wrong:
        problem, site = str(wrong), {}
    return problem, [asdict(line) for line in explain(ErrorPolicy(work=work, operator=operator, site=site))]


def _by_work() -> list[tuple[str, list[str]]]:
    headings = {Work.LOAD: "Loads", Work.TASK: "Operators", Work.SENSOR: "Sensors"}
    return [(text, [name for name, kind in OPERATORS.items() if kind is work]) for work, text in headings.items()]
