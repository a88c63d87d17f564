"""The page "CRM": a small web application inside Airflow's api-server, with HTML, a style sheet and a script."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

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
from crm_provider.ui.access import User, current_user
from crm_provider.ui.views import files_linked, list_of_syncs, one_run, one_sync

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


def make_app(*, base: str = "") -> FastAPI:
    """The application.

    :param base: path of Airflow's address, for links into Airflow
    """
    app = FastAPI(title="CRM", docs_url=None, redoc_url=None, openapi_url=None)
    root, page = f"{base}{PREFIX}", PageRenderer(f"{base}{PREFIX}")
    app.middleware("http")(add_headers)
    _add_refusals(app, page, login=f"{base}/auth/login?next={root}/")

    @app.get("/")
    def syncs(request: Request, user: User) -> HTMLResponse:
        with create_session() as session:
            return page("syncs.html", list_of_syncs(session, user, dict(request.query_params), root=root, now=_now()))

    @app.get("/sync")
    def sync(request: Request, user: User) -> HTMLResponse:
        with create_session() as session:
            return page("sync.html", one_sync(session, user, dict(request.query_params), root=root, now=_now()))

    @app.get("/run")
    def run(request: Request, user: User) -> HTMLResponse:
        with create_session() as session:
            asked, link = dict(request.query_params), files_linked()
            return page("run.html", one_run(session, user, asked, root=root, base=base, now=_now(), link=link))

    @app.get("/policy", dependencies=[Depends(current_user)])
    def policy(operator: str = DEFAULT_OPERATOR) -> HTMLResponse:
        chosen = operator if operator in OPERATORS else DEFAULT_OPERATOR
        problem, lines = _policy_of(chosen)
        return page("policy.html", {"operators": _by_work(), "chosen": chosen, "lines": lines, "problem": problem})

    @app.get("/{name}")
    def asset(name: str) -> Response:
        if name not in ASSETS:
            raise HTTPException(404, "There is no such page.")
        content = (PAGES / name).read_bytes()
        return Response(content, media_type=ASSETS[name], headers={"Cache-Control": "max-age=3600"})

    return app


class PageRenderer:
    """Renders the pages from their templates, which escape all values.

    :param root: path of the page
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._templates = Environment(
            loader=FileSystemLoader(PAGES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def __call__(self, name: str, values: Mapping[str, Any] | None, *, status: int = 200) -> HTMLResponse:
        """A page; the page "Not found" if there are no values for it."""
        if values is None:
            name, values, status = "missing.html", {}, 404
        template = self._templates.get_template(name)
        text = template.render(root=self._root, version=__version__, status=status, **values)
        content = text.encode("utf-8", "replace")  # a lone surrogate cannot be encoded
        return HTMLResponse(content, status_code=status, headers={"Cache-Control": "no-store"})


async def add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Middleware: adds the security headers."""
    response = await call_next(request)
    response.headers.update(HEADERS)
    return response


def _add_refusals(app: FastAPI, page: PageRenderer, *, login: str) -> None:
    """Add the pages for refused users, for missing pages, and for errors.

    :param login: address of Airflow's login
    """

    @app.exception_handler(HTTPException)
    async def explain_refusal(request: Request, refused: HTTPException) -> Response:
        if refused.status_code not in (401, 403):
            return await http_exception_handler(request, refused)
        return page("refused.html", {"login": login}, status=refused.status_code)

    @app.exception_handler(Exception)
    async def show_failure(_request: Request, _error: Exception) -> Response:
        """The server logs the error; this response bypasses the middleware, so it sets the headers itself."""
        response = page("failed.html", {}, status=500)
        response.headers.update(HEADERS)
        return response


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _policy_of(operator: str) -> tuple[str, list[dict[str, Any]]]:
    """The problem with the site's ``on_error``, if any, and the table, without the site's lines if they are invalid."""
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
