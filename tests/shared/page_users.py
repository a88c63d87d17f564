"""Airflow users who open the page CRM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi.testclient import TestClient


class Users:
    """Logs in Airflow users and decides which DAGs they may read.

    :param app: the application with the page
    """

    def __init__(self, app: Any, manager: Any) -> None:
        self.app, self.manager = app, manager
        self.may: Callable[..., bool] = lambda **asked: True

    def client(self, name: str | None = "ann", *, role: str | None = "viewer") -> TestClient:
        headers = {}
        if name is not None:
            from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

            user = SimpleAuthManagerUser(username=name, role=role)
            headers["Authorization"] = f"Bearer {self.manager.generate_jwt(user)}"
        return TestClient(self.app, headers=headers)
