"""Tasks under a broken network and their expected final states, with ``dag.test`` and on a real Airflow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from crm_provider import errors as e
from crm_provider.operators.contacts import CrmUpsertContactOperator
from crm_provider.operators.extract import CrmExtractContactsOperator
from crm_provider.operators.load import CrmLoadContactsOperator
from crm_provider.sensors.lists import CrmListSensor

if TYPE_CHECKING:
    from crm_provider.sandbox import Sandbox

NEW = "new@example.com"
ROWS = [{"email": f"p{number}@example.com", "name": f"P{number}"} for number in range(1, 4)]

TASKS: Mapping[str, tuple[type, dict[str, Any]]] = {
    "upsert": (CrmUpsertContactOperator, {"contact_email": NEW, "attributes": {"name": "New"}}),
    "load": (
        CrmLoadContactsOperator,
        {"source": ROWS, "errors_in_a_row": 2, "mapping": {"email": "email", "name": "name"}},
    ),
    "extract": (CrmExtractContactsOperator, {}),
    "sensor": (
        CrmListSensor,
        {"list_name": "Newsletter", "poke_interval": 0.01, "timeout": 30, "max_errors_in_a_row": 1},
    ),
    "deferred sensor": (
        CrmListSensor,
        {
            "list_name": "Newsletter",
            "poke_interval": 10,
            "timeout": 3_000_000,
            "max_errors_in_a_row": 1,
            "deferrable": True,
        },
    ),
}

RETRIED, AT_ONCE = "failed, after 2 tries", "failed, at once"

UNREACHED: Mapping[str, tuple[type[e.CrmError], str]] = {
    # fault: the error and the final state of each task, written by hand
    "no server listens on the port": (e.CrmConnectionError, RETRIED),
    "the certificate is self-signed": (e.CrmTlsError, AT_ONCE),
    "the proxy is down": (e.CrmConnectionError, RETRIED),
    "the proxy asks for a password (407)": (e.CrmConfigurationError, AT_ONCE),
}
"""No request reaches the CRM. A deferrable sensor first checks on the worker, like the other sensor."""

UNREACHING = tuple(hit for hit in TASKS if hit != "deferred sensor")

PASSING: Mapping[str, Mapping[str, Any]] = {
    "a response is lost": {"effect": "lost"},
    "a response arrives byte by byte": {"effect": "drip", "latency": 0.02},
    "a proxy responds with HTML, status 502": {"effect": "html", "status": 502},
}
"""Each affects one request of each task."""

LASTING: Mapping[str, tuple[Mapping[str, Any], type[e.CrmError], str]] = {
    "a body of 100 MB": ({"effect": "large"}, e.CrmProtocolError, AT_ONCE),
    "a redirect to another host": (
        {"effect": "redirect", "location": "https://login.corp.test/"},
        e.CrmProtocolError,
        AT_ONCE,
    ),
    "a proxy responds with HTML, status 403": ({"effect": "html", "status": 403}, e.CrmForbiddenError, AT_ONCE),
}

NOTHING_YET: Mapping[str, Any] = {
    "effect": "garbage",
    "status": 200,
    "body": json.dumps({"message": "ok", "data": {"page": 0, "total": 0, "data": []}}),
}
"""The listing without the list that sensors wait for."""


def add_faults(crm: Sandbox, hit: str, fault: Mapping[str, Any]) -> None:
    """Apply a fault to the next call, or for a deferred sensor to its first call in the triggerer."""
    if hit != "deferred sensor":
        crm.add_fault(**fault)
        return
    crm.add_fault(**NOTHING_YET, count=1)
    crm.add_fault(**fault, after=1 if fault["effect"] in ("drop", "html", "redirect") else 0)
