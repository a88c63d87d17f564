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
                    "crm_provider.operators.automations",
                    "crm_provider.operators.contacts",
                    "crm_provider.operators.deals",
                    "crm_provider.operators.extract",
                    "crm_provider.operators.lists",
                    "crm_provider.operators.load",
                ],
            }
        ],
        "transfers": [
            {
                "source-integration-name": "Common SQL",
                "target-integration-name": "CRM",
                "python-module": "crm_provider.transfers.sql_to_crm",
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
        "extra-links": [
            "crm_provider.observability.links.CrmContactLink",
            "crm_provider.observability.links.CrmDealLink",
            "crm_provider.observability.links.CrmExtractedFileLink",
            "crm_provider.observability.links.CrmRejectsLink",
            "crm_provider.observability.links.CrmReportLink",
        ],
        "asset-uris": [
            {
                "schemes": ["crm"],
                "handler": "crm_provider.observability.assets.sanitize_uri",
                "factory": "crm_provider.observability.assets.create_asset",
                "to_openlineage_converter": "crm_provider.observability.assets.convert_asset_to_openlineage",
            }
        ],
        "config": CONFIG,
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


# A field with a default is saved with it. Where the site's own section [crm] may say something there is none: a
# connection that was saved without a thought must not hide what the site says.
CONN_FIELDS: dict[str, Any] = {
    "developer_mode": {
        "label": "Developer mode",
        "description": "The CRM answers with fake data and touches nothing.",
        "schema": {"type": ["boolean", "null"], "default": False},
    },
    "requests_per_second": {
        "label": "Requests per second",
        "description": "What the CRM allows this key, for all callers that share the rate store.",
        "schema": {"type": ["number", "null"], "default": 5, "minimum": 0.01, "maximum": 1000},
    },
    "burst": {
        "label": "Burst",
        "description": "Calls that the CRM allows at once.",
        "schema": {"type": ["integer", "null"], "default": 2, "minimum": 1, "maximum": 1000},
    },
    "timeout": {
        "label": "Timeout",
        "description": "Seconds to wait for an answer; empty: what the site says, else 30.",
        "schema": {"type": ["number", "null"], "minimum": 0.1, "maximum": 600},
    },
    "poll_share": {
        "label": "Share for waiting",
        "description": "Share of the rate that deferred sensors and watchers take at most; writes have the rest. "
        "Empty: what the site says, else 0.5.",
        "schema": {"type": ["number", "null"], "minimum": 0.05, "maximum": 1},
    },
    "rate_store": {
        "label": "Rate store",
        "description": "Where the rate budget is kept: redis://... is for all hosts; empty: what the site says, else "
        "this host.",
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


def _option(description: str, *, example: str | None, sensitive: bool = False) -> dict[str, Any]:
    return {
        "description": description,
        "version_added": "0.1.0",
        "type": "string",
        "example": example,
        "default": "",
        "sensitive": sensitive,
    }


CONFIG: dict[str, Any] = {
    "crm": {
        "description": "Defaults of the CRM provider for the whole site. An option that is empty is not set.",
        "options": {
            "timeout": _option(
                "Seconds to wait for an answer, for connections whose Extra does not say.",
                example="60",
            ),
            "poll_share": _option(
                "Share of the rate that waiting takes at most, for connections whose Extra does not say.",
                example="0.3",
            ),
            "rate_store": _option(
                "Where rate budgets are kept, for connections whose Extra does not say.",
                example="redis://redis.example.com:6379/0",
                sensitive=True,
            ),
            "on_error": _option(
                "JSON: what to do on which error, below what a task says itself and above what its operator does\n"
                "differently. Lines for one kind of work go under its name: task, sensor or load.",
                example='{"DEAL_NOT_FOUND": "skip"}',
            ),
            "report_directory": _option(
                "Folder, or its URL (s3://aws_default@bucket/reports), for reports of loads without a report_path.",
                example="/var/crm/reports",
            ),
            "contact_url": _option(
                "A contact's page in the CRM's web application: {id} becomes its id, {conn_id} the connection.",
                example="https://app.example.com/contacts/{id}",
            ),
            "deal_url": _option(
                "A deal's page in the CRM's web application: {id} becomes its id, {conn_id} the connection.",
                example="https://app.example.com/deals/{id}",
            ),
            "file_links": _option(
                "JSON: how the path of a rejects file or a report becomes a link: beginning of the path to beginning\n"
                "of the URL. The longest that fits counts; an empty URL means no link.",
                example='{"/var/crm/": "https://files.example.com/crm/"}',
            ),
        },
    }
}
