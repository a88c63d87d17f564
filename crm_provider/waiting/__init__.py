"""Waiting for the CRM: conditions, back-off, shared polls, changes. Imports no Airflow."""
