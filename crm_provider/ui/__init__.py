"""The page "CRM" in Airflow's web interface. Only the api-server imports these modules, except ``plugin``."""

from __future__ import annotations

PREFIX = "/crm"
"""Path of the page below the api-server's address."""
