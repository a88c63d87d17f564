"""The hook: from an Airflow connection to a client."""

from __future__ import annotations

import functools
import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, TypeVar

from crm_provider import config
from crm_provider import errors as e
from crm_provider._compat import AirflowNotFoundException, BaseHook
from crm_provider.client.client import CrmClient
from crm_provider.client.observers import Observer
from crm_provider.client.retry import RetryBudget
from crm_provider.client.settings import DEFAULT_CONN_ID, Settings
from crm_provider.client.transport import Transport
from crm_provider.rate_limit.limiter import limiter_for
from crm_provider.rate_limit.schedule import Lane
from crm_provider.values.redaction import Secret

P = ParamSpec("P")
R = TypeVar("R")

TEST_TIMEOUT = 5.0
"""Seconds that a connection test waits for an answer."""


def _call(method: Callable[Concatenate[CrmClient, P], R]) -> Callable[Concatenate[CrmHook, P], R]:
    """A call of the client as a call of the hook."""

    @functools.wraps(method)
    def delegate(self: CrmHook, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return method(self.get_conn(), *args, **kwargs)

    return delegate


class CrmHook(BaseHook):
    """Talks to the Pingback Connect API v2 with the key of an Airflow connection.

    All calls of a hook share one client: its kept-open connections, its rate budget, and what it has learned about
    the order of upserts. Each method is documented at :class:`~crm_provider.client.client.CrmClient`.

    >>> CrmHook().get_contact("ada@example.com")["status"]
    'active'

    :param crm_conn_id: the Airflow connection: host = base URL, password = API key
    :raises CrmError: the class of the error that the CRM answers
    """

    conn_name_attr = "crm_conn_id"
    default_conn_name = DEFAULT_CONN_ID
    conn_type = "crm"
    hook_name = "CRM"

    def __init__(self, crm_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.crm_conn_id = crm_conn_id
        self._client: CrmClient | None = None
        self.base_url: str | None = None
        """Of the connection, once it was read: for lineage, which must not read it again."""

    def get_conn(self) -> CrmClient:
        """The client of the connection, made once.

        :raises CrmConfigurationError: if the connection is missing or a field of it is wrong
        """
        if self._client is None:
            self._client = self.client_for(self._settings())
        return self._client

    get_contact = _call(CrmClient.get_contact)
    create_contact = _call(CrmClient.create_contact)
    update_contact = _call(CrmClient.update_contact)
    upsert_contact = _call(CrmClient.upsert_contact)
    delete_contact = _call(CrmClient.delete_contact)
    list_contacts = _call(CrmClient.list_contacts)
    count_contacts = _call(CrmClient.count_contacts)
    create_deal = _call(CrmClient.create_deal)
    find_deal = _call(CrmClient.find_deal)
    find_own_deal = _call(CrmClient.find_own_deal)
    get_deal = _call(CrmClient.get_deal)
    update_deal = _call(CrmClient.update_deal)
    move_deal = _call(CrmClient.move_deal)
    delete_deal = _call(CrmClient.delete_deal)
    list_deals = _call(CrmClient.list_deals)
    count_deals = _call(CrmClient.count_deals)
    list_pages = _call(CrmClient.list_pages)
    list_segmentation_lists = _call(CrmClient.list_segmentation_lists)
    find_segmentation_list = _call(CrmClient.find_segmentation_list)
    add_contact_to_lists = _call(CrmClient.add_contact_to_lists)
    verify_email = _call(CrmClient.verify_email)
    trigger_automation = _call(CrmClient.trigger_automation)
    request = _call(CrmClient.request)

    def test_connection(self) -> tuple[bool, str]:
        """One harmless read; says what is wrong and what to do, and shows neither key nor body."""
        try:
            settings = self._settings()
            # one call beside the rate budget: a form must not hang until a load leaves a slot
            quick = settings.with_(timeout=min(settings.timeout, TEST_TIMEOUT), rate_store="off")
            with self.client_for(quick) as client:
                client.ping()
        except e.CrmThrottledError as throttled:
            return False, f"The CRM answers but is throttling, so that the key could not be checked. {throttled}"
        except e.CrmError as error:
            error.remark = None  # while a form is tested, Airflow gives the connection a made-up id
            return False, str(error)
        mode = " in developer mode (fake data)" if settings.developer_mode else ""
        return True, f"The CRM at {settings.base_url} answers and takes the key{mode}."

    async def aget_settings(self) -> Settings:
        """What the connection says now, for use on an event loop.

        :raises CrmConfigurationError: if the connection is missing or a field of it is wrong
        """
        self._check_conn_id()
        try:
            fields = _ConnectionFields.of(await self.aget_connection(self.crm_conn_id))
        except AirflowNotFoundException:
            fields = None
        return self._checked(fields)

    def client_for(
        self, settings: Settings, *, transport: Transport | None = None, budget: RetryBudget | None = None
    ) -> CrmClient:
        """A client with settings of this hook's connection. Airflow's metrics count its calls, its traces show them.

        :param transport: instead of the default for the settings; it brings its own metrics
        :param budget: how long one call may be tried
        """
        from crm_provider.observability.metrics import CallMetrics

        transport = transport or Transport(settings, user_agent=_airflow_product(), observer=CallMetrics())
        if (spans := call_spans()) is not None:
            transport.observe(spans)
        return CrmClient(settings, transport=transport, budget=budget)

    def bulk_client(
        self, *, sleep: Callable[[float], None] = time.sleep, observer: Observer | None = None
    ) -> CrmClient:
        """A client of its own for many calls: it draws on the key's budget as loads and extracts do.

        :param sleep: waits for a slot, and before a call is sent again; what it raises ends the wait
        :param observer: receives an event for each call
        """
        from crm_provider.observability.metrics import CallMetrics

        settings = self._settings()
        transport = Transport(
            settings,
            limiter=limiter_for(settings, lane=Lane.BULK, sleep=sleep),
            user_agent=_airflow_product(),
            sleep=sleep,
            observer=CallMetrics(),
        )
        if observer is not None:
            transport.observe(observer)
        return self.client_for(settings, transport=transport)

    def _settings(self) -> Settings:
        self._check_conn_id()
        try:
            fields = _ConnectionFields.of(self.get_connection(self.crm_conn_id))
        except AirflowNotFoundException:
            fields = None
        return self._checked(fields)

    def _check_conn_id(self) -> None:
        given: Any = self.crm_conn_id
        if not isinstance(given, str) or not given.strip() or given == "None":
            found = "empty" if given == "" else repr(given) if given == "None" else f"of type {type(given).__name__}"
            raise e.CrmConfigurationError(
                f"crm_conn_id must be the id of an Airflow connection but is {found}; give one, or leave it out for "
                f"{DEFAULT_CONN_ID!r}"
            )

    def _checked(self, fields: _ConnectionFields | None) -> Settings:
        if fields is None:
            raise e.CrmConfigurationError(
                f"Airflow has no connection {self.crm_conn_id!r}; create it with type CRM and the API key as Password"
                f"{_or_a_variable(self.crm_conn_id)}"
            )
        site = config.connection_defaults()
        try:
            settings = Settings.from_fields(
                host=fields.host,
                port=fields.port,
                password=fields.password,
                extra=_HiddenValues({**site, **fields.extras()}),
                conn_id=self.crm_conn_id,
            )
        except e.CrmConfigurationError as wrong:
            wrong.remark = f"This is Airflow's connection {self.crm_conn_id!r}."
            raise
        self.base_url = settings.base_url
        return settings

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """The connection form on Airflow 3.1; newer ones read provider info."""
        from crm_provider.get_provider_info import CONN_FIELDS, UI_FIELD_BEHAVIOUR

        return {
            "hidden_fields": UI_FIELD_BEHAVIOUR["hidden-fields"],
            "relabeling": UI_FIELD_BEHAVIOUR["relabeling"],
            "placeholders": {
                **UI_FIELD_BEHAVIOUR["placeholders"],
                "extra": f"JSON with any of: {', '.join(CONN_FIELDS)}",
            },
        }


class _HiddenValues(dict[str, Any]):
    """Extras, which may hold a password: error trackers record the ``repr`` of local variables."""

    def __repr__(self) -> str:
        return "{...}"


@dataclass(frozen=True)
class _ConnectionFields:
    """What is read of an Airflow connection, whose own ``repr`` shows the key."""

    host: str | None = field(repr=False)
    port: int | None
    password: str | None = field(repr=False)
    extra: Any = field(repr=False)

    @classmethod
    def of(cls, connection: Any) -> _ConnectionFields:
        """The fields of a connection, unchecked."""
        password = connection.password
        return cls(
            host=connection.host,
            port=connection.port,
            password=Secret(password) if isinstance(password, str) else password,
            extra=connection.extra,
        )

    def extras(self) -> _HiddenValues:
        """The extras that say something. Airflow's own reading makes ``{}`` of a text that is no JSON.

        :raises CrmConfigurationError: if the extra is neither empty nor a JSON object
        """
        found: Any = self.extra
        if isinstance(found, str):
            try:
                found = json.loads(found) if found.strip() else {}
            except (ValueError, RecursionError):
                found = UNREADABLE
        if found is not None and not isinstance(found, dict):
            del found  # it may hold a password
            raise e.CrmConfigurationError(
                'Extra is not a JSON object; write it like {"requests_per_second": 5}, with double quotes, true and '
                "false in lower case and no comma at the end"
            )
        texts = {name: Secret(value) if isinstance(value, str) else value for name, value in (found or {}).items()}
        return _HiddenValues({name: value for name, value in texts.items() if value not in ("", None)})


UNREADABLE = object()
"""Stands for an extra that is not JSON."""


def _or_a_variable(conn_id: str) -> str:
    """The environment variable of a connection, if a shell can export one of that name."""
    if not re.fullmatch(r"\w+", conn_id, re.ASCII):
        return ""
    return f", or set the environment variable AIRFLOW_CONN_{conn_id.upper()}"


def call_spans() -> Observer | None:
    """An observer that creates a span for each attempt, or None if this process does not trace.

    Airflow sets up tracing by ``[traces] otel_on`` and the ``OTEL_*`` variables.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:  # then no provider can have been set
        return None
    provider = trace.get_tracer_provider()
    if isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider)):
        return None
    from crm_provider.observability.tracing import CallSpans

    return CallSpans(provider)


def _airflow_product() -> str:
    from airflow import __version__

    return f"airflow/{__version__}"
