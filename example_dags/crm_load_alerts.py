"""A load with alerts: by mail if it failed or rejected rows. Any other notifier works in the same way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.providers.smtp.notifications.smtp import SmtpNotifier
from airflow.sdk import DAG

from crm_provider.operators.load import CrmLoadContactsOperator
from crm_provider.tasks import load_alert

DATA = Path(__file__).parent / "data"


def mail() -> Any:
    """A mail by the connection ``smtp_default``. ``crm_summary`` has counts and reasons, and no values of rows."""
    return SmtpNotifier(
        to="crm-team@example.com",
        from_email="airflow@example.com",
        subject="{{ crm_summary.title }}",
        html_content="<pre>{{ crm_summary.text | e }}</pre>",
    )


with DAG("crm_load_alerts", schedule=None, tags=["crm"]):
    CrmLoadContactsOperator(
        task_id="load",
        source=str(DATA / "newsletter.csv"),
        mapping={"email": "E-mail", "name": "Nome", "company": "Empresa"},
        max_rejects="20%",
        on_failure_callback=load_alert(mail()),
        on_success_callback=load_alert(mail(), when="rejects"),
    )
