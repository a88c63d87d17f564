"""The types of Airflow's arguments in :mod:`crm_provider.tasks.arguments` are those of the newest supported Airflow.

``tests/unit/test_typing.py`` checks this file; it is never run.
"""

from __future__ import annotations

from airflow.sdk import BaseOperator, BaseSensorOperator

from crm_provider.tasks.arguments import BaseOperatorArguments, BaseSensorArguments


def operator(arguments: BaseOperatorArguments) -> BaseOperator:
    return BaseOperator(**arguments)


def sensor(arguments: BaseSensorArguments) -> BaseSensorOperator:
    return BaseSensorOperator(**arguments)
