"""The hook: from an Airflow connection to a client."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from crm_provider import config
from crm_provider import errors as e
from crm_provider._compat import AirflowNotFoundException, BaseHook
from crm_provider.client.client import CrmClient
from crm_provider.client.observers import Observer
from crm_provider.client.settings import DEFAULT_CONN_ID, Settings
from crm_provider.client.transport import Transport
from crm_provider.rate_limit.limiter import limiter_for
from crm_provider.rate_limit.schedule import Lane

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
            connection = await self.aget_connection(self.crm_conn_id)
        except AirflowNotFoundException:
            connection = None
        return self._checked(connection)

    def client_for(self, settings: Settings, *, transport: Transport | None = None) -> CrmClient:
        """A client with settings of this hook's connection, whose calls Airflow's metrics count and its traces show.

        :param transport: another one than that of the settings; it brings its own metrics
        """
        from crm_provider.observability.metrics import CallMetrics

        transport = transport or Transport(settings, user_agent=_airflow_product(), observer=CallMetrics())
        if "opentelemetry.trace" in sys.modules:  # otherwise nobody can have set up tracing
            from crm_provider.observability.tracing import call_spans

            if (spans := call_spans()) is not None:
                transport.observe(spans)
        return CrmClient(settings, transport=transport)

    def bulk_client(
        self, *, sleep: Callable[[float], None] = time.sleep, observer: Observer | None = None
    ) -> CrmClient:
        """A client of its own for many calls: it draws on the key's budget as loads and extracts do.

        :param sleep: waits for a slot, and before a call is sent again; what it raises ends the wait
        :param observer: is told every call
        """
        from crm_provider.observability.metrics import CallMetrics

        settings = self._settings()
        transport = Transport(
            settings,
            pacer=limiter_for(settings, lane=Lane.BULK, sleep=sleep),
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
            connection = self.get_connection(self.crm_conn_id)
        except AirflowNotFoundException:
            connection = None
        return self._checked(connection)

    def _check_conn_id(self) -> None:
        given: Any = self.crm_conn_id
        if not isinstance(given, str) or not given.strip() or given == "None":
            found = "empty" if given == "" else repr(given) if given == "None" else f"of type {type(given).__name__}"
            raise e.CrmConfigurationError(
                f"crm_conn_id must be the id of an Airflow connection but is {found}; give one, or leave it out for "
                f"{DEFAULT_CONN_ID!r}"
            )

    def _checked(self, connection: Any) -> Settings:
        if connection is None:
            raise e.CrmConfigurationError(
                f"Airflow has no connection {self.crm_conn_id!r}; create it with type CRM and the API key as Password, "
                f"or set the environment variable AIRFLOW_CONN_{self.crm_conn_id.upper()}"
            )
        site = config.connection_defaults()
        try:
            own = {name: value for name, value in _extra(connection).items() if value not in ("", None)}
            settings = Settings.from_fields(
                host=connection.host, port=connection.port, password=connection.password, extra={**site, **own}
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


def _extra(connection: Any) -> dict[str, Any]:
    try:
        extra = connection.extra_dejson
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        raise e.CrmConfigurationError('Extra is no JSON object; write it like {"requests_per_second": 5}')
    return extra


def _airflow_product() -> str:
    from airflow import __version__

    return f"airflow/{__version__}"
