"""The page "CRM" in Airflow's web interface. Only the api-server imports these modules, except ``plugin``."""

from __future__ import annotations

from crm_provider.config import PAGE_PREFIX

PREFIX = PAGE_PREFIX
"""Path of the page below the api-server's address."""
