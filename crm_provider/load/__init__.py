"""The batch load: rows -> plan -> calls -> outcomes, rejects, checkpoint. Imports no Airflow."""
