"""The plugin that Airflow's plugin manager loads: the page "CRM" and its entry in the navigation.

Airflow loads plugins in all of its processes, but only the api-server shows the page. So the application is created on
the first request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from airflow.plugins_manager import AirflowPlugin

from crm_provider._compat import conf
from crm_provider.ui import PREFIX


class LazyApp:
    """An ASGI application that is created on its first request.

    :param make: creates it
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._made is None:
            self._made = self._make()
        call: Awaitable[None] = self._made(scope, receive, send)
        await call


def _make_app() -> Any:
    from crm_provider.ui.app import make_app

    return make_app(base=base_path())


def base_path() -> str:
    """The path of Airflow's address, for example ``/airflow`` behind a proxy; empty if it has none."""
    return urlsplit(conf.get("api", "base_url", fallback=None) or "").path.rstrip("/")


class CrmPlugin(AirflowPlugin):
    """Adds the page to Airflow."""

    name = "crm"
    fastapi_apps: list[dict[str, Any]] = [  # noqa: RUF012 - as Airflow declares it
        {"app": LazyApp(_make_app), "url_prefix": PREFIX, "name": "CRM"}
    ]
    external_views: list[dict[str, Any]] = [  # noqa: RUF012
        {
            "name": "CRM",
            "href": f"{base_path()}{PREFIX}/",
            "url_route": "crm",
            "destination": "nav",
            "nav_top_level": True,  # 3.3+; below it is beside the other plugins' pages
        }
    ]
