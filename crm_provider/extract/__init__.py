"""Extracts: a listing of the CRM into a file. Imports no Airflow."""
