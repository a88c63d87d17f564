"""The page "CRM" in Airflow's web interface. Only the api-server imports what is in here, ``plugin`` excepted."""

from __future__ import annotations

PREFIX = "/crm"
"""Where the page is, below the api-server's own address."""
