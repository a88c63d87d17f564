"""Extra links of a task instance: to the contact or deal in the CRM, and to the files of a load or an extract.

Airflow computes them in the worker after the task, also after a failure, so they use only what the task already knows.
There is no link without a result or if the site has not configured a URL.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from airflow.sdk import BaseOperatorLink

from crm_provider import config
from crm_provider.errors import CrmConfigurationError

log = logging.getLogger(__name__)

NO_LINK = ""

CONSOLES: Mapping[str, str] = {
    "s3": "https://console.aws.amazon.com/s3/object/{bucket}?prefix={key}",
    "gs": "https://console.cloud.google.com/storage/browser/_details/{bucket}/{key}",
}
"""Web consoles for objects, by the scheme of the URL."""

ALIASES = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}


class CrmContactLink(BaseOperatorLink):
    """Link to the task's contact, by the site's ``contact_url``."""

    name = "CRM contact"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        result = _result_of(operator)
        found = result.get("contact_id") or getattr(operator, "contact_id", None) or result.get("id")
        return _record_link("contact_url", found, operator)


class CrmDealLink(BaseOperatorLink):
    """Link to the task's deal, by the site's ``deal_url``."""

    name = "CRM deal"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        return _record_link("deal_url", getattr(operator, "deal_id", None) or _result_of(operator).get("id"), operator)


class CrmRejectsLink(BaseOperatorLink):
    """Link to the rejects file of the load."""

    name = "Rejected rows"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        return _file_link(_result_of(operator).get("rejects_path"))


class CrmReportLink(BaseOperatorLink):
    """Link to the report of the load."""

    name = "Load report"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        return _file_link(_result_of(operator).get("report_path"))


class CrmExtractedFileLink(BaseOperatorLink):
    """Link to the file of the extract."""

    name = "Extracted file"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        return _file_link(_result_of(operator).get("path"))


def web_link(path: str, rules: Mapping[str, str]) -> str:
    """The URL at which a browser can open a file; empty if none is configured.

    >>> web_link("/var/crm/rejects.jsonl", {"/var/crm/": "https://files.example.com/"})
    'https://files.example.com/rejects.jsonl'

    :param path: a path, or a URL that may contain a connection (``s3://aws_default@bucket/key``)
    :param rules: prefix of a path -> prefix of a URL
    """
    scheme, found, rest = path.partition("://")
    if not found or scheme == "file":
        cleaned = rest if found else path
    else:
        authority, slash, key = rest.partition("/")
        cleaned = f"{ALIASES.get(scheme, scheme)}://{authority.rpartition('@')[2]}{slash}{key}"
    matching = [prefix for prefix in rules if cleaned.startswith(prefix)]
    if matching:
        prefix = max(matching, key=len)
        rest = cleaned[len(prefix) :]
        return _joined(rules[prefix], quote(rest)) if rules[prefix] and not _climbs(rest) else NO_LINK
    if cleaned.startswith(("http://", "https://")):
        return cleaned
    store, _, name = cleaned.partition("://")
    if store not in CONSOLES:
        return NO_LINK  # a browser cannot open files of another machine
    bucket, _, key = name.partition("/")
    return CONSOLES[store].format(bucket=quote(bucket), key=quote(key))


def _climbs(rest: str) -> bool:
    """Whether a path has a part that a browser or a web server interprets as the parent folder."""
    decoded = rest
    while (once := unquote(decoded)) != decoded:
        decoded = once
    return ".." in re.split(r"[/\\]", decoded)


def _joined(url: str, rest: str) -> str:
    """Join a URL and a rest. A slash follows a bare host, so that the rest cannot extend the host name."""
    return f"{url}{rest}" if urlsplit(url).path else f"{url}/{rest.lstrip('/')}"


def _file_link(path: Any) -> str:
    if not path:
        return NO_LINK
    try:
        return web_link(str(path), config.file_links())
    except CrmConfigurationError as wrong:
        log.warning("No link: %s", wrong)
        return NO_LINK


def _record_link(option: str, record_id: Any, operator: Any) -> str:
    if not isinstance(record_id, str) or not record_id:
        return NO_LINK
    try:
        template = config.record_url(option)
    except CrmConfigurationError as wrong:
        log.warning("No link: %s", wrong)
        return NO_LINK
    if template is None:
        return NO_LINK
    return template.format(id=quote(record_id, safe=""), conn_id=quote(str(operator.crm_conn_id), safe=""))


def _result_of(operator: Any) -> Mapping[str, Any]:
    """The task's result so far, even if it failed later."""
    result = getattr(operator, "last_result", None)
    return result if isinstance(result, Mapping) else {}
