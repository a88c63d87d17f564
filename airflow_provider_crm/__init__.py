"""Nothing: the package is ``crm_provider``.

To find example DAGs, Airflow 3.3 imports each provider under the name of its distribution, and logs an error with a
traceback if there is no such package (apache/airflow#66305).
"""
