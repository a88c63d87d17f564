"""Settings of the whole site: the section ``[crm]`` of Airflow's configuration, read and checked on use."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from string import Formatter
from typing import Any
from urllib.parse import urlsplit

from crm_provider._compat import conf
from crm_provider.client.settings import EXTRAS
from crm_provider.errors import CrmConfigurationError
from crm_provider.errors.on_error import Action, Work, checked

SECTION = "crm"
CONNECTION_DEFAULTS = ("timeout", "poll_share", "rate_store")
"""Options that are defaults for extras of connections."""

ONE_HOST = {"LocalExecutor", "SequentialExecutor", "DebugExecutor"}
"""Executors whose tasks run on the host of the scheduler. All others may use several hosts."""

IN_A_POD = "AIRFLOW_IS_K8S_EXECUTOR_POD"
"""Environment variable that KubernetesExecutor sets in the pod of a task."""

RECORD_PLACEHOLDERS = {"id", "conn_id"}

PAGE_PREFIX = "/crm"
"""Path of the page CRM below Airflow's address."""


def option(name: str) -> str | None:
    """The text of an option; None if it is not set or empty."""
    text = conf.get(SECTION, name, fallback=None)
    return text.strip() or None if isinstance(text, str) else None


def connection_defaults() -> dict[str, Any]:
    """Extras for connections that do not have them.

    :raises CrmConfigurationError: naming the option, the problem and the fix
    """
    return {name: _extra(name, text) for name in CONNECTION_DEFAULTS if (text := option(name)) is not None}


def on_error(work: Work) -> Mapping[Any, Action]:
    """The site's lines of the error policy for one kind of work: the task's own lines take precedence.

    :raises CrmConfigurationError: naming the option, the problem and the fix
    """
    text = option("on_error")
    return {} if text is None else _lines(text)[work]


def runs_in_own_pod() -> bool:
    """Whether this try of a task has a pod of its own, whose disk is deleted after it."""
    return bool(os.environ.get(IN_A_POD))


def executors() -> str:
    """The executors of Airflow's configuration. The template of a pod may have replaced them."""
    if runs_in_own_pod():
        return "KubernetesExecutor"
    return str(conf.get("core", "executor", fallback="LocalExecutor"))


def runs_on_many_hosts() -> bool:
    """Whether Airflow's configuration has an executor that starts tasks on other hosts than the scheduler's."""
    names = [re.split(r"[.:=]", name.strip())[-1] for name in re.split(r"[,;]", executors())]
    return any(name and name not in ONE_HOST for name in names)


def record_url(name: str) -> str | None:
    """The template of a contact's or deal's page, with ``{id}`` and perhaps ``{conn_id}`` in it.

    :param name: ``contact_url`` or ``deal_url``
    :raises CrmConfigurationError: naming the option, the problem and the fix
    """
    text = option(name)
    if text is None:
        return None
    try:
        found = {field for _, field, _, _ in Formatter().parse(text) if field is not None}
    except ValueError:
        found = set()
    if not _is_web(text) or "id" not in found or found - RECORD_PLACEHOLDERS:
        raise _wrong(name, "an http(s) URL with {id} in it, and perhaps {conn_id}")
    return text


def file_links() -> Mapping[str, str]:
    """How a path becomes a link: beginning of the path -> beginning of the URL, or nothing for no link.

    :raises CrmConfigurationError: naming the option, the problem and the fix
    """
    text = option("file_links")
    if text is None:
        return {}
    found = _json("file_links", text)
    if not all(isinstance(url, str) and (not url or _is_web(url)) for url in found.values()):
        raise _wrong("file_links", 'JSON like {"/var/crm/": "https://files.example.com/crm/"}, with http(s) URLs')
    return found


def report_directory() -> str | None:
    """Folder, or URL of one, for the reports of loads without a ``report_path``."""
    return option("report_directory")


def work_directory() -> str | None:
    """Folder, or URL of one, for what the next try of a task needs, unless an argument names another place."""
    return option("work_directory")


def page_url(path: str) -> str | None:
    """The URL of a part of the page CRM; None if Airflow's configuration has no address (``[api] base_url``)."""
    base = conf.get("api", "base_url", fallback=None)
    return f"{base.rstrip('/')}{PAGE_PREFIX}/{path}" if base else None


# -- helpers ------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _lines(text: str) -> Mapping[Work, Mapping[Any, Action]]:
    """``on_error`` for each kind of work: its own lines take precedence over those for every kind."""
    given = _json("on_error", text)
    kinds = {work.value for work in Work}
    common = {key: action for key, action in given.items() if key not in kinds}
    found = {}
    for work in Work:
        try:
            own = given.get(work.value)
            found[work] = {**checked(common, work), **checked(own, work)}
        except ValueError as wrong:
            hint = f" Lines for one kind of work go under {', '.join(sorted(kinds))}:" if common else ""
            example = ' {"sensor": {"CONTACT_NOT_FOUND": "wait"}}' if common else ""
            raise CrmConfigurationError(f"{_place('on_error')}: {wrong}{hint}{example}") from None
    return found


def _json(name: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        example = '{"DEAL_NOT_FOUND": "skip"}' if name == "on_error" else '{"/var/crm/": "https://..."}'
        raise _wrong(name, f"a JSON object such as {example}")
    return found


def _extra(name: str, text: str) -> Any:
    try:
        return EXTRAS[name](text)
    except ValueError as wanted:
        raise _wrong(name, str(wanted)) from None


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def _wrong(name: str, wanted: str) -> CrmConfigurationError:
    """It does not show the value, which may hold a password."""
    return CrmConfigurationError(f"{_place(name)} must be {wanted}; correct it, or remove it")


def _place(name: str) -> str:
    return f"Airflow's configuration, section [{SECTION}], option {name} (AIRFLOW__{SECTION.upper()}__{name.upper()})"
