"""The page "CRM" in Airflow's web interface. Only the api-server imports what is in here, ``plugin`` excepted."""
