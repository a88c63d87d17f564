"""Apache Airflow provider for CRM pipelines on the Pingback Connect API v2."""

__version__ = "0.1.0"
