"""What Airflow discovers. A pure dict and no import: Airflow reads it in every one of its processes."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """The provider's description, called through the entry point ``apache_airflow_provider``."""
    return {
        "package-name": "airflow-provider-crm",
        "name": "CRM",
        "description": "Pipelines for the Pingback Connect API v2: typed errors, a policy per error, paced calls.",
        "integrations": [
            {
                "integration-name": "CRM",
                "external-doc-url": "https://connect.pingback.com/",
                "tags": ["service"],
            }
        ],
        "hooks": [{"integration-name": "CRM", "python-modules": ["crm_provider.hooks.crm"]}],
        "operators": [
            {
                "integration-name": "CRM",
                "python-modules": [
                    "crm_provider.operators.contacts",
                    "crm_provider.operators.deals",
                    "crm_provider.operators.lists",
                ],
            }
        ],
        "sensors": [
            {
                "integration-name": "CRM",
                "python-modules": [
                    "crm_provider.sensors.contacts",
                    "crm_provider.sensors.deals",
                    "crm_provider.sensors.lists",
                ],
            }
        ],
        "triggers": [
            {
                "integration-name": "CRM",
                "python-modules": ["crm_provider.triggers.poll", "crm_provider.triggers.watch"],
            }
        ],
        "connection-types": [
            {
                "connection-type": "crm",
                "hook-class-name": "crm_provider.hooks.crm.CrmHook",
                "hook-name": "CRM",
                "conn-fields": CONN_FIELDS,
                "ui-field-behaviour": UI_FIELD_BEHAVIOUR,
            }
        ],
    }


CONN_FIELDS: dict[str, Any] = {
    "developer_mode": {
        "label": "Developer mode",
        "description": "The CRM answers with fake data and touches nothing.",
        "schema": {"type": ["boolean", "null"], "default": False},
    },
    "requests_per_second": {
        "label": "Requests per second",
        "description": "What the CRM allows this key. Each process paces itself: with many at once, give a share.",
        "schema": {"type": ["number", "null"], "default": 5, "minimum": 0.01, "maximum": 1000},
    },
    "burst": {
        "label": "Burst",
        "description": "Calls that the CRM allows at once.",
        "schema": {"type": ["integer", "null"], "default": 2, "minimum": 1, "maximum": 1000},
    },
    "timeout": {
        "label": "Timeout",
        "description": "Seconds to wait for an answer.",
        "schema": {"type": ["number", "null"], "default": 30, "minimum": 0.1, "maximum": 600},
    },
    "rate_store": {
        "label": "Rate store",
        "description": "Where the rate budget is kept: leave empty; 'off' for no limit (tests only).",
        "schema": {"type": ["string", "null"]},
    },
}

UI_FIELD_BEHAVIOUR: dict[str, Any] = {
    # Port stays visible: Airflow 3.3.1 and 3.3.2 refuse to test a connection without one (apache/airflow#73298)
    "hidden-fields": ["schema", "login"],
    "relabeling": {"host": "Base URL", "password": "API key"},
    "placeholders": {
        "host": "https://connect.pingback.com/v2",
        "password": "the account's API key",
        "port": "0",
    },
}
