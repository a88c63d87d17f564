"""The hook: from an Airflow connection to a client."""

from __future__ import annotations

import functools
import json
import logging
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from crm_provider import config
from crm_provider import errors as e
from crm_provider._compat import AirflowNotFoundException, BaseHook
from crm_provider.client.client import CrmClient
from crm_provider.client.observers import Observer
from crm_provider.client.retry import ONE_TRY, RetryBudget
from crm_provider.client.settings import DEFAULT_CONN_ID, Settings
from crm_provider.client.transport import Transport
from crm_provider.hooks.shared_budget import with_store
from crm_provider.rate_limit.limiter import AIRFLOW, ShareRateLimiter, limiter_for
from crm_provider.rate_limit.schedule import Lane
from crm_provider.tasks.outcome import short_traceback
from crm_provider.values.redaction import Secret

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from crm_provider.tasks.arguments import ContactLoadSettings, DealLoadSettings, LoadOnError, Rows

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)

TEST_TIMEOUT = 5.0
"""Seconds that a connection test waits for a response."""


def _call(method: Callable[Concatenate[CrmClient, P], R]) -> Callable[Concatenate[CrmHook, P], R]:
    """A method of the client as a method of the hook."""

    @short_traceback
    @functools.wraps(method)
    def delegate(self: CrmHook, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return method(self.get_conn(), *args, **kwargs)

    return delegate


class CrmHook(BaseHook):
    """Calls the Pingback Connect API v2 with the key of an Airflow connection.

    All calls of a hook share one client, and with it open connections, the rate budget and the learned order of
    upserts. Each method is documented at :class:`~crm_provider.client.client.CrmClient`.

    >>> CrmHook().get_contact("ada@example.com")["status"]
    'active'

    :param crm_conn_id: the Airflow connection: host = base URL, password = API key
    :raises CrmError: the typed error of the call
    """

    conn_name_attr = "crm_conn_id"
    default_conn_name = DEFAULT_CONN_ID
    conn_type = "crm"
    hook_name = "CRM"

    def __init__(self, crm_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.crm_conn_id = crm_conn_id
        self._client: CrmClient | None = None
        self._noted_mode = False
        self.base_url: str | None = None
        """The base URL of the connection after it was read, for lineage, which must not read it again."""

    def get_conn(self) -> CrmClient:
        """The client of the connection, created once.

        :raises CrmConfigurationError: if the connection is missing or one of its fields is invalid
        """
        if self._client is None:
            self._client = self.client_for(self._settings_of_task())
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

    def load_contacts(
        self,
        rows: Rows,
        *,
        on_error: LoadOnError = None,
        source_format: str | None = None,
        source_options: Mapping[str, Any] | None = None,
        **settings: Unpack[ContactLoadSettings],
    ) -> dict[str, Any]:
        """Load contacts, as ``CrmLoadContactsOperator`` does.

        In a task, the next try continues where this one stopped. In a script this needs ``checkpoint_path``.

        >>> CrmHook().load_contacts([{"mail": "ada@example.com"}], mapping={"email": "mail"})["created"]
        1

        :param rows: mappings of column to value, as a list or an iterator; a table that speaks Arrow's C stream
            (pandas, polars, DuckDB, pyarrow); or files, by path or pattern
        :param on_error: what to do on which error, in addition to the defaults
        :param source_format: the format of files whose name does not show it
        :param source_options: how to read the rows
        :param settings: ``mapping``, ``mode``, ``rejects_path``, ``outcomes_path``, ...: all arguments of the operator
        :return: the summary, as the operator's XCom
        :raises SourceError: before the first call: the rows, the mapping or a path cannot be used
        :raises TooManyRejects: if more rows were rejected than ``max_rejects`` allows; it has the summary
        :raises LoadUnsaved: if a file of the load cannot be written
        :raises CrmError: the error that stopped the load
        """
        from crm_provider.hooks.own_loads import load_rows
        from crm_provider.load.kinds.contacts import CONTACTS

        how: dict[str, Any] = {"source_format": source_format, "source_options": source_options}
        return load_rows(self, CONTACTS, rows, settings, on_error=on_error, **how)

    def load_deals(
        self,
        rows: Rows,
        *,
        on_error: LoadOnError = None,
        source_format: str | None = None,
        source_options: Mapping[str, Any] | None = None,
        **settings: Unpack[DealLoadSettings],
    ) -> dict[str, Any]:
        """Load deals, as ``CrmLoadDealsOperator`` does.

        The parameters, the result and the errors are those of :meth:`load_contacts`.

        >>> CrmHook().load_deals(moves, mode="move", mapping={"deal_id": "deal", "stage_id": "stage"})["updated"]
        1
        """
        from crm_provider.hooks.own_loads import load_rows
        from crm_provider.load.kinds.deals import DEALS

        how: dict[str, Any] = {"source_format": source_format, "source_options": source_options}
        return load_rows(self, DEALS, rows, settings, on_error=on_error, **how)

    def test_connection(self) -> tuple[bool, str]:
        """One harmless read. The message explains the problem and the fix, and shows neither key nor body."""
        try:
            settings = self._settings()
            # one call outside the rate budget: a form must not wait for a slot during a load
            quick = settings.with_(timeout=min(settings.timeout, TEST_TIMEOUT), rate_store="off")
            with self.client_for(quick, budget=ONE_TRY) as client:
                next(client.list_segmentation_lists(), None)  # other services respond with status 200, too
        except e.CrmThrottledError as throttled:
            return False, f"The CRM responds but throttles calls, so the key could not be checked. {throttled}"
        except e.CrmError as error:
            error.remark = None  # during a test of a form, the connection has a temporary id
            return False, str(error)
        mode = " in developer mode (fake data)" if settings.developer_mode else ""
        return True, f"The CRM at {settings.base_url} responds and accepts the key{mode}."

    async def aget_settings(self) -> Settings:
        """The current settings of the connection, for use on an event loop.

        :raises CrmConfigurationError: if the connection is missing or one of its fields is invalid
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
        """A client with settings of this hook's connection. Airflow's metrics and traces include its calls.

        :param transport: replaces the default for the settings; it has its own metrics
        :param budget: maximum time for the attempts of one call
        """
        from crm_provider.observability.metrics import CallMetrics

        transport = transport or Transport(settings, user_agent=_airflow_product(), observer=CallMetrics())
        if (spans := call_spans()) is not None:
            transport.observe(spans)
        return CrmClient(settings, transport=transport, budget=budget)

    def bulk_client(
        self, *, sleep: Callable[[float], None] = time.sleep, observer: Observer | None = None
    ) -> CrmClient:
        """A separate client for many calls. It uses the key's budget as loads and extracts do.

        :param sleep: waits for a slot, and before a call is sent again; an exception that it raises ends the wait
        :param observer: receives an event for each call
        """
        from crm_provider.observability.metrics import CallMetrics

        settings = self._settings_of_task()
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

    def waiting_client(self) -> CrmClient:
        """A separate client for a check of many calls. It uses the key's budget as deferred sensors do."""
        settings = self._settings_of_task()
        return self.client_for(settings, transport=waiting_transport(settings))

    def _settings_of_task(self) -> Settings:
        """The settings. The first time, a warning is logged in developer mode, which looks like success."""
        settings = self._settings()
        if settings.developer_mode and not self._noted_mode:
            self._noted_mode = True
            log.warning("%s", settings.developer_note)
        return settings

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
            raise e.CrmConfigurationError(missing_connection(self.crm_conn_id, "type CRM and the API key as Password"))
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
            other = "" if fields.conn_type == self.conn_type else f"; its type is {fields.conn_type!r}, not 'crm'"
            wrong.remark = f"This is Airflow's connection {self.crm_conn_id!r}{other}."
            raise
        self.base_url = settings.base_url
        if settings.rate_store == AIRFLOW or config.runs_on_many_hosts():
            settings = with_store(settings)
        return settings

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """The connection form on Airflow 3.1. Newer versions read the provider info."""
        from crm_provider.get_provider_info import CONN_FIELDS, UI_FIELD_BEHAVIOUR

        return {
            "hidden_fields": UI_FIELD_BEHAVIOUR["hidden-fields"],
            "relabeling": UI_FIELD_BEHAVIOUR["relabeling"],
            "placeholders": {
                **UI_FIELD_BEHAVIOUR["placeholders"],
                "extra": f"JSON with any of: {', '.join(CONN_FIELDS)}",
            },
        }


def waiting_transport(settings: Settings) -> Transport:
    """A transport for checks that wait: in the lane of waiting tasks, with their share of the rate."""
    from crm_provider.observability.metrics import CallMetrics

    share = settings.requests_per_second * settings.poll_share
    limiter = ShareRateLimiter(limiter_for(settings, lane=Lane.WAITING), share)
    return Transport(settings, limiter=limiter, user_agent=_airflow_product(), observer=CallMetrics())


class _HiddenValues(dict[str, Any]):
    """Extras without a ``repr``: they may hold a password, and error trackers record the ``repr`` of variables."""

    def __repr__(self) -> str:
        return "{...}"


@dataclass(frozen=True)
class _ConnectionFields:
    """The fields of an Airflow connection, whose own ``repr`` shows the key."""

    conn_type: str | None
    host: str | None = field(repr=False)
    port: int | None
    password: str | None = field(repr=False)
    extra: Any = field(repr=False)

    @classmethod
    def of(cls, connection: Any) -> _ConnectionFields:
        """The fields of a connection, unchecked."""
        password = connection.password
        return cls(
            conn_type=connection.conn_type,
            host=connection.host,
            port=connection.port,
            password=Secret(password) if isinstance(password, str) else password,
            extra=connection.extra,
        )

    def extras(self) -> _HiddenValues:
        """The non-empty extras. Airflow itself reads text that is not JSON as ``{}``.

        :raises CrmConfigurationError: if the extra is neither empty nor a JSON object
        """
        found: Any = self.extra
        if isinstance(found, str):
            try:
                found = json.loads(found) if found.strip() else {}
            except (ValueError, RecursionError):
                found = False  # no object, so it is refused
        if found is not None and not isinstance(found, dict):
            del found  # it may hold a password
            raise e.CrmConfigurationError(
                'Extra is not a JSON object; write it like {"requests_per_second": 5}, with double quotes, true and '
                "false in lower case and no comma at the end"
            )
        texts = {name: Secret(value) if isinstance(value, str) else value for name, value in (found or {}).items()}
        return _HiddenValues({name: value for name, value in texts.items() if value not in ("", None)})


def missing_connection(conn_id: str, fields: str) -> str:
    """The message for a connection that does not exist. It names an environment variable if a shell can export it.

    :param fields: what the connection needs, in words
    """
    variable = f", or set the environment variable AIRFLOW_CONN_{conn_id.upper()}"
    exportable = re.fullmatch(r"\w+", conn_id, re.ASCII)
    return f"Airflow has no connection {conn_id!r}; create it with {fields}{variable if exportable else ''}"


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
