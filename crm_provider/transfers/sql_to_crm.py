"""The transfers from a database to the CRM: the rows of a query as contacts or deals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from crm_provider._compat import AirflowException, AirflowNotFoundException, BaseHook
from crm_provider.client import validation
from crm_provider.load.rows import SourceError
from crm_provider.observability.lineage import Lineage, lineage_of_query
from crm_provider.operators.load_kinds import CrmContactLoadOperator, CrmDealLoadOperator
from crm_provider.tasks.arguments import rendered
from crm_provider.tasks.mixins import naming_task
from crm_provider.transfers.sql_rows import FETCH_SIZE, SqlRows

if TYPE_CHECKING:
    from airflow.sdk.definitions.mappedoperator import OperatorPartial
    from typing_extensions import Unpack

    from crm_provider.load.sources.source import Source
    from crm_provider.tasks.arguments import ContactLoadArguments, DealLoadArguments, Templated


QUERY_RENDERERS = {"sql": "sql", "parameters": "json"}


class LoadsQuery:
    """An operator whose source is a query.

    :param sql: one query, or the name of a ``.sql`` file
    :param sql_conn_id: connection to any database whose Airflow hook is a ``DbApiHook``
    :param parameters: parameters of the query, in the style of the database's driver
    :param hook_params: arguments for the hook
    :param fetch_size: rows to fetch at once
    """

    if TYPE_CHECKING:
        task_id: str

    _database: tuple[Any, Any] = (None, None)

    def set_query(
        self,
        sql: Templated[str],
        sql_conn_id: Templated[str],
        parameters: Templated[Mapping[str, Any] | Sequence[Any]] | None,
        hook_params: Mapping[str, Any] | None,
        fetch_size: int,
    ) -> None:
        """Check and keep the arguments of the query."""
        with naming_task(type(self), self.task_id):
            if wrong := validation.not_count(fetch_size, "fetch_size"):
                raise SourceError(wrong)
        self.sql = rendered(sql)
        self.sql_conn_id = rendered(sql_conn_id)
        self.parameters = rendered(parameters)
        self.hook_params = hook_params
        self.fetch_size = fetch_size

    def open_source(self) -> Source:
        """The rows of the query."""
        for name in ("sql", "sql_conn_id"):
            if not isinstance(value := getattr(self, name), str):
                raise SourceError(f"{name} must be text but is of type {type(value).__name__}; give one text")
        if not self.sql.strip():
            raise SourceError("sql is empty; give it the text of one query")
        hook, _ = self._database = database_of(self.sql_conn_id, self.hook_params)
        return SqlRows(hook.get_conn, self.sql, parameters=self.parameters, fetch_size=self.fetch_size)

    def lineage_inputs(self) -> Lineage:
        """The tables that the query reads."""
        return lineage_of_query(self.sql, *self._database)


class SqlToCrmContactsOperator(LoadsQuery, CrmContactLoadOperator):
    """Load the rows of a query as contacts. PostgreSQL and MySQL stream them with a server-side cursor.

    Further parameters and the XCom: :class:`~crm_provider.operators.load_base.CrmLoadOperator`. A retry continues where
    the last try stopped only if the query returns the same rows in the same order: give it an ``ORDER BY``.
    """

    template_fields: Sequence[str] = ("sql", "sql_conn_id", "parameters", *CrmContactLoadOperator.template_fields)
    template_ext: Sequence[str] = (".sql",)
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **CrmContactLoadOperator.template_fields_renderers,
        **QUERY_RENDERERS,
    }
    policy_name = "SqlToCrmContactsOperator"

    def __init__(
        self,
        *,
        sql: Templated[str],
        sql_conn_id: Templated[str],
        parameters: Templated[Mapping[str, Any] | Sequence[Any]] | None = None,
        hook_params: Mapping[str, Any] | None = None,
        fetch_size: int = FETCH_SIZE,
        **kwargs: Unpack[ContactLoadArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.set_query(sql, sql_conn_id, parameters, hook_params, fetch_size)

    if TYPE_CHECKING:

        @classmethod
        def partial(
            cls,
            *,
            sql: Templated[str] = ...,
            sql_conn_id: Templated[str] = ...,
            parameters: Templated[Mapping[str, Any] | Sequence[Any]] | None = ...,
            hook_params: Mapping[str, Any] | None = ...,
            fetch_size: int = ...,
            **kwargs: Unpack[ContactLoadArguments],
        ) -> OperatorPartial: ...


class SqlToCrmDealsOperator(LoadsQuery, CrmDealLoadOperator):
    """Load the rows of a query as deals. PostgreSQL and MySQL stream them with a server-side cursor.

    Further parameters and the XCom: :class:`~crm_provider.operators.load_base.CrmLoadOperator`. A retry continues where
    the last try stopped only if the query returns the same rows in the same order: give it an ``ORDER BY``.
    """

    template_fields: Sequence[str] = ("sql", "sql_conn_id", "parameters", *CrmDealLoadOperator.template_fields)
    template_ext: Sequence[str] = (".sql",)
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **CrmDealLoadOperator.template_fields_renderers,
        **QUERY_RENDERERS,
    }
    policy_name = "SqlToCrmDealsOperator"

    def __init__(
        self,
        *,
        sql: Templated[str],
        sql_conn_id: Templated[str],
        parameters: Templated[Mapping[str, Any] | Sequence[Any]] | None = None,
        hook_params: Mapping[str, Any] | None = None,
        fetch_size: int = FETCH_SIZE,
        **kwargs: Unpack[DealLoadArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.set_query(sql, sql_conn_id, parameters, hook_params, fetch_size)

    if TYPE_CHECKING:

        @classmethod
        def partial(
            cls,
            *,
            sql: Templated[str] = ...,
            sql_conn_id: Templated[str] = ...,
            parameters: Templated[Mapping[str, Any] | Sequence[Any]] | None = ...,
            hook_params: Mapping[str, Any] | None = ...,
            fetch_size: int = ...,
            **kwargs: Unpack[DealLoadArguments],
        ) -> OperatorPartial: ...


def database_of(conn_id: str, hook_params: Mapping[str, Any] | None) -> tuple[Any, Any]:
    """The database hook of a connection, and the connection.

    :raises SourceError: if there is no such connection, it is not to a database, or its provider is not installed
    """
    connection = _connection(conn_id)
    hook = _hook_of(connection, hook_params)
    if not callable(getattr(hook, "get_conn", None)) or not hasattr(hook, "get_records"):
        raise SourceError(
            f"the connection {conn_id!r} is of type {type(hook).__name__}, which is not a database hook (DbApiHook)"
        )
    return hook, connection


def _connection(conn_id: str) -> Any:
    from crm_provider.hooks.crm import missing_connection

    try:
        return BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        raise SourceError(missing_connection(conn_id, "the type and the address of your database")) from None


def _hook_of(connection: Any, hook_params: Mapping[str, Any] | None) -> Any:
    """The hook of a connection.

    :raises SourceError: if the provider of its type is not installed
    """
    try:
        return connection.get_hook(hook_params=dict(hook_params or {}))
    except AirflowException as unknown:
        if "Unknown hook type" not in str(unknown):
            raise
        provider = f"apache-airflow-providers-{str(connection.conn_type).replace('_', '-')}"
        raise SourceError(
            f"the connection {connection.conn_id!r} is of type {connection.conn_type!r}, which no installed provider "
            f"knows; install it, for example {provider}, and restart Airflow"
        ) from unknown
