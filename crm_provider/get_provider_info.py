"""Provider metadata for Airflow. It imports nothing, because every Airflow process reads it."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata (entry point ``apache_airflow_provider``)."""
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
            },
            {
                "source-integration-name": "CRM",
                "target-integration-name": "Common SQL",
                "python-module": "crm_provider.transfers.crm_to_sql",
            },
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


# Airflow saves the default of a field with the connection. So fields that the site can set in section [crm] have no
# default: it would hide the site's setting.
CONN_FIELDS: dict[str, Any] = {
    "developer_mode": {
        "label": "Developer mode",
        "description": "The CRM returns fake data and changes nothing.",
        "schema": {"type": ["boolean", "null"], "default": False},
    },
    "requests_per_second": {
        "label": "Requests per second",
        "description": "Limit of the CRM for this key, for all callers that share the rate store.",
        "schema": {"type": ["number", "null"], "default": 5, "minimum": 0.01, "maximum": 1000},
    },
    "burst": {
        "label": "Burst",
        "description": "Calls that the CRM allows at the same time.",
        "schema": {"type": ["integer", "null"], "default": 2, "minimum": 1, "maximum": 1000},
    },
    "timeout": {
        "label": "Timeout",
        "description": "Seconds to wait for a response. Empty: the site's setting, else 30.",
        "schema": {"type": ["number", "null"], "minimum": 0.1, "maximum": 600},
    },
    "poll_share": {
        "label": "Share for waiting",
        "description": "Maximum share of the rate for deferred sensors and watchers; the rest is for writes. "
        "Empty: the site's setting, else 0.5.",
        "schema": {"type": ["number", "null"], "minimum": 0.05, "maximum": 1},
    },
    "rate_store": {
        "label": "Rate store",
        "description": "Where the rate budget is kept: airflow or redis://... shares it between hosts. Empty: the "
        "site's setting, else this host, or airflow if tasks run on several hosts.",
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
        "description": "Defaults of the CRM provider for the whole site. An empty option is not set.",
        "options": {
            "timeout": _option(
                "Seconds to wait for a response, for connections whose Extra does not set it.",
                example="60",
            ),
            "poll_share": _option(
                "Maximum share of the rate for waiting, for connections whose Extra does not set it.",
                example="0.3",
            ),
            "rate_store": _option(
                "Where rate budgets are kept, for connections whose Extra does not set it.",
                example="redis://redis.example.com:6379/0",
                sensitive=True,
            ),
            "on_error": _option(
                "JSON: the action for each error. A task's own on_error overrides it; it overrides the operator's\n"
                "presets. Lines for one kind of work go under its name: task, sensor or load.",
                example='{"DEAL_NOT_FOUND": "skip"}',
            ),
            "report_directory": _option(
                "Folder, or its URL (s3://aws_default@bucket/reports), for reports of loads without a report_path.",
                example="/var/crm/reports",
            ),
            "work_directory": _option(
                "Folder, or its URL, for what the next try of a task needs, unless an argument names another place:\n"
                "checkpoints of loads (below Airflow 3.3), and pages that a transfer to a database has read.",
                example="s3://aws_default@bucket/crm-work",
            ),
            "contact_url": _option(
                "URL of a contact in the CRM's web application, with {id} for its id and {conn_id} for the connection.",
                example="https://app.example.com/contacts/{id}",
            ),
            "deal_url": _option(
                "URL of a deal in the CRM's web application, with {id} for its id and {conn_id} for the connection.",
                example="https://app.example.com/deals/{id}",
            ),
            "file_links": _option(
                "JSON: prefixes of the paths of rejects files and reports, and the URL prefixes that replace them in\n"
                "links. The longest matching prefix counts; an empty URL means no link.",
                example='{"/var/crm/": "https://files.example.com/crm/"}',
            ),
        },
    }
}
