"""Paths in a task's arguments: a URL is opened by Airflow, with the connection that it names."""

from __future__ import annotations

import re
from typing import Any

from crm_provider import site_config
from crm_provider.files.paths import AnyPath, as_path
from crm_provider.hidden import unmask
from crm_provider.load.rows import SourceError


def path_of(value: Any, name: str) -> AnyPath:
    """A path as the core takes it.

    :param name: of the argument, for messages
    :raises SourceError: if it is no path
    """
    try:
        return as_path(with_connection(value))
    except ValueError as wrong:
        raise SourceError(f"{name}: {wrong}") from None


def with_connection(value: Any) -> Any:
    """A URL, or the URLs of a list, as ``ObjectStoragePath``, which knows its connection; anything else as it is."""
    value = unmask(value)
    if isinstance(value, list):
        return [with_connection(item) if isinstance(item, str) else item for item in value]
    if isinstance(value, str) and "://" in value:
        from airflow.sdk import ObjectStoragePath

        return ObjectStoragePath(value)
    return value


def site_report(ti: Any) -> AnyPath | None:
    """Where a load of a task leaves its report if only the site says so: one file for each task instance.

    :raises SourceError: if the site's ``report_directory`` is no path
    """
    folder = site_config.report_directory()
    if folder is None:
        return None
    parts = [ti.dag_id, ti.run_id, ti.task_id, *([ti.map_index] if ti.map_index >= 0 else [])]
    name = "__".join(re.sub(r"[^\w.+-]", "_", str(part)) for part in parts)
    place = "report_directory in section [crm] of Airflow's configuration"
    return path_of(f"{folder.rstrip('/')}/{name}.report.md", place)
