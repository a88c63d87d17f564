from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG

with DAG("nothing"):
    PythonOperator(task_id="nothing", python_callable=lambda: None)
