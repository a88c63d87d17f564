"""The admin routes of the sandbox over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from crm_provider.sandbox import Sandbox, ids

KEY = {"x-api-key": "sandbox-key"}
ADA = "/contacts/ada@example.com"
pytestmark = pytest.mark.crm_sandbox(rate=None)


class Admin:
    """Calls routes under ``/__sandbox__``."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._root = f"{sandbox.root_url}/__sandbox__"

    def __call__(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        headers = {"content-type": "application/json"}
        response = requests.request(method, self._root + path, json=body, headers=headers, timeout=60)
        assert response.status_code == status, response.text
        return response.json()


@pytest.fixture
def admin(crm_sandbox: Sandbox) -> Admin:
    return Admin(crm_sandbox)


def get(sandbox: Sandbox, path: str = ADA) -> requests.Response:
    return requests.get(sandbox.url + path, headers=KEY, timeout=60)


def test_ready_route_returns_the_version_and_base_path(admin: Admin) -> None:
    assert admin("GET", "/ready") | {"version": ""} == {"ready": True, "version": "", "base_path": "/v2"}


def test_seed_reset_and_snapshot_routes(crm_sandbox: Sandbox, admin: Admin) -> None:
    before = admin("GET", "/snapshot")
    crm_sandbox.store.delete_contact("ada@example.com")
    changed = admin("GET", "/snapshot")
    assert changed != before
    assert admin("POST", "/reset") == {"contacts": 11, "deals": 1, "lists": 2, "pipelines": 2}
    assert admin("GET", "/snapshot") == before
    assert admin("POST", "/seed", {"seed": changed})["contacts"] == 10
    assert admin("POST", "/reset")["contacts"] == 10
    assert crm_sandbox.settings.rate is None
    assert "did you mean 'empty'" in admin("POST", "/seed", {"seed": "emty"}, 422)["detail"]
    assert (
        admin("POST", "/seed", {"sed": "empty"}, 422)["detail"]
        == "seed: Field required; sed: Extra inputs are not permitted"
    )


def test_settings_route_changes_the_envelope(crm_sandbox: Sandbox, admin: Admin) -> None:
    shown = admin("PATCH", "/settings", {"envelope": "v2", "rate": 5})
    assert (shown["envelope"], shown["rate"], shown["seed"]) == ("v2", 5, "demo")
    assert shown == admin("GET", "/settings")
    assert "sandbox-key" not in str(shown)
    assert get(crm_sandbox, "/contacts/no@example.com").json()["code"] == "CONTACT_NOT_FOUND"


@pytest.mark.parametrize(
    ("change", "message"),
    [({"envelop": "v2"}, "envelop: Unexpected keyword argument"), ({"seed": "empty"}, "only be changed by a reset")],
)
def test_settings_route_rejects_invalid_changes(admin: Admin, change: Any, message: str) -> None:
    before = admin("GET", "/settings")
    assert message in admin("PATCH", "/settings", change, 422)["detail"]
    assert admin("GET", "/settings") == before


def test_lists_route_creates_a_delayed_list(crm_sandbox: Sandbox, admin: Admin) -> None:
    assert admin("POST", "/lists", {"name": "Late", "appears_after": 60}, 201)["id"] == ids.list_id("Late")
    assert get(crm_sandbox, "/segments").json()["data"]["total"] == 2
    admin("POST", "/lists", {"name": "Now"}, 201)
    assert get(crm_sandbox, "/segments").json()["data"]["total"] == 3


def test_faults_route_adds_and_removes_faults(crm_sandbox: Sandbox, admin: Admin) -> None:
    rule = {"effect": "error", "error": "throttled", "retry_after": 7, "path": "/contacts/*", "count": 1}
    added = admin("POST", "/faults", rule, 201)
    assert {name: added[name] for name in rule} == rule
    response = get(crm_sandbox)
    assert (response.status_code, response.headers["Retry-After"]) == (429, "7")
    assert get(crm_sandbox).status_code == 200
    (shown,) = admin("GET", "/faults")["faults"]
    assert (shown["name"], shown["hits"], shown["active"]) == (added["name"], 1, False)
    assert admin("DELETE", f"/faults/{added['name']}") == {"faults": []}
    assert "no fault named" in admin("DELETE", "/faults/nope", status=404)["detail"]
    admin("POST", "/faults", {"effect": "drop"}, 201)
    assert admin("DELETE", "/faults") == {"faults": []}
    assert get(crm_sandbox).status_code == 200


def test_journal_route_filters_and_pages(crm_sandbox: Sandbox, admin: Admin) -> None:
    get(crm_sandbox)
    get(crm_sandbox, "/contacts/no@example.com")
    get(crm_sandbox, "/segments")

    def numbers(query: str) -> list[int]:
        return [entry["seq"] for entry in admin("GET", f"/journal{query}")["entries"]]

    assert numbers("") == [1, 2, 3]
    assert numbers("?since=1&method=GET") == [2, 3]
    assert numbers("?route=/contacts/{email}") == [1, 2]
    assert numbers("?status=404") == numbers("?email=no@example.com") == [2]
    first = admin("GET", "/journal?limit=2")
    assert (len(first["entries"]), first["next"], first["dropped"]) == (2, 2, 0)
    assert numbers(f"?since={first['next']}") == [3]
    assert "example.com" not in str(admin("GET", "/journal"))
    assert "sinc" in admin("GET", "/journal?sinc=1", status=422)["detail"]
