"""Arguments of operators and sensors: their types, the check of their names, the text for ``help()``.

A class declares its own arguments in its ``__init__`` and takes those of its bases as ``**kwargs: Unpack[...]``, a
typed dictionary of this module. So type checkers and editors know all arguments of a class without repeating
them. Airflow applies ``default_args`` by the names in the ``__init__`` of each class. So a base class declares its
arguments there as well; a test compares both places.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, cast

from crm_provider.values.suggest import nearest

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection, MutableMapping, Sequence
    from datetime import datetime, timedelta
    from typing import TypeAlias

    from airflow.sdk import DAG, Context, ObjectStoragePath, TaskGroup, XComArg
    from airflow.sdk.types import WeightRuleParam
    from typing_extensions import Required

    from crm_provider._compat import RetryPolicy
    from crm_provider.errors import CrmError
    from crm_provider.errors.policy import ErrorPolicy
    from crm_provider.load.mapping.deal_mapper import DealMode
    from crm_provider.load.mapping.fields import Empty
    from crm_provider.load.options import Duplicates, Mode, OnInvalid, PlanName
    from crm_provider.load.sources.arrow_tables import ArrowStream

    _T = TypeVar("_T")

    Templated: TypeAlias = _T | XComArg
    """The value of a template field, or the output of another task."""
    PathArgument: TypeAlias = str | os.PathLike[str] | ObjectStoragePath | XComArg
    """A path or a URL."""
    PathsOrRows: TypeAlias = PathArgument | Sequence[PathArgument | Mapping[str, Any]] | ArrowStream
    """Files or rows."""
    Rows: TypeAlias = PathsOrRows | Iterable[Mapping[str, Any]]
    """Rows of a task or a script, or of a generator."""
    PathsOrAddresses: TypeAlias = PathArgument | Collection[PathArgument]
    """Files or addresses."""
    Callbacks: TypeAlias = Callable[[Context], None] | list[Callable[[Context], None]] | None

    TaskAction: TypeAlias = Literal["retry", "skip", "fail"]
    """Actions of an operator."""
    SensorAction: TypeAlias = Literal["wait", "retry", "skip", "fail"]
    """Actions of a sensor."""
    LoadAction: TypeAlias = Literal["reject", "retry", "skip", "fail"]
    """Actions of a load for a row."""
    TaskOnError: TypeAlias = Mapping[str | type[CrmError], TaskAction] | ErrorPolicy | None
    SensorOnError: TypeAlias = Mapping[str | type[CrmError], SensorAction] | ErrorPolicy | None
    LoadOnError: TypeAlias = Mapping[str | type[CrmError], LoadAction] | ErrorPolicy | None


class BaseOperatorArguments(TypedDict, total=False):
    """The arguments of Airflow's ``BaseOperator``, except ``retry_policy``, which has its own default in CRM tasks.

    ``BaseOperator`` documents them. Older versions of Airflow do not have all of them.
    """

    task_id: Required[str]
    owner: str
    email: str | Sequence[str] | None
    email_on_retry: bool
    email_on_failure: bool
    retries: int | None
    retry_delay: timedelta | float
    retry_exponential_backoff: float
    max_retry_delay: timedelta | float | None
    start_date: datetime | None
    end_date: datetime | None
    depends_on_past: bool
    ignore_first_depends_on_past: bool
    wait_for_past_depends_before_skipping: bool
    wait_for_downstream: bool
    dag: DAG | None
    params: MutableMapping[str, Any] | None
    default_args: dict[str, Any] | None
    priority_weight: int
    weight_rule: WeightRuleParam
    queue: str
    pool: str | None
    pool_slots: int
    sla: timedelta | None
    execution_timeout: timedelta | None
    on_execute_callback: Callbacks
    on_failure_callback: Callbacks
    on_success_callback: Callbacks
    on_retry_callback: Callbacks
    on_skipped_callback: Callbacks
    pre_execute: Callable[[Context], None] | None
    post_execute: Callable[[Context, Any], None] | None
    trigger_rule: str
    resources: dict[str, Any] | None
    run_as_user: str | None
    map_index_template: str | None
    max_active_tis_per_dag: int | None
    max_active_tis_per_dagrun: int | None
    executor: str | None
    executor_config: dict[str, Any] | None
    do_xcom_push: bool
    multiple_outputs: bool
    inlets: Any
    outlets: Any
    task_group: TaskGroup | None
    doc: str | None
    doc_md: str | None
    doc_json: str | None
    doc_yaml: str | None
    doc_rst: str | None
    task_display_name: str | None
    logger_name: str | None
    allow_nested_operators: bool
    render_template_as_native_obj: bool | None


class BaseSensorArguments(BaseOperatorArguments, total=False):
    """The arguments of Airflow's ``BaseSensorOperator``, which documents them."""

    poke_interval: timedelta | float
    timeout: timedelta | float | None
    soft_fail: bool
    mode: Literal["poke", "reschedule"]
    exponential_backoff: bool
    max_wait: timedelta | float | None
    silent_fail: bool
    never_fail: bool


class CrmArguments(BaseOperatorArguments, total=False):
    """The arguments that all operators share."""

    crm_conn_id: Templated[str]
    """The Airflow connection."""
    on_error: TaskOnError
    """What to do on which error, in addition to the defaults: ``{"DEAL_NOT_FOUND": "skip"}``."""
    retry_policy: RetryPolicy | None
    """Airflow 3.3+: by default only transient errors are retried, not before the server allows it."""


class CrmSensorArguments(BaseSensorArguments, total=False):
    """The arguments that all sensors share."""

    crm_conn_id: Templated[str]
    """The Airflow connection."""
    on_error: SensorOnError
    """What to do on which error, in addition to the defaults: ``{"CONTACT_NOT_FOUND": "fail"}``."""
    max_errors_in_a_row: int
    """Consecutive server errors that do not end the wait. In mode ``reschedule`` they are counted on Airflow 3.3+ only;
    before, only the sensor's ``timeout`` applies."""
    deferrable: bool
    """Wait in the triggerer, where all waiting tasks of a connection share one poll and hold no worker slot; the
    default is Airflow's ``[operators] default_deferrable``. ``exponential_backoff`` and ``max_wait`` have no effect
    then; a warning says so when the DAG is parsed."""
    share_poll: bool
    """False for a separate poll while deferred."""
    retry_policy: RetryPolicy | None
    """Airflow 3.3+: by default only transient errors are retried, not before the server allows it."""


class CrmRowArguments(BaseOperatorArguments, total=False):
    """Like :class:`CrmArguments`, for operators on rows, which can also reject a row."""

    crm_conn_id: Templated[str]
    """The Airflow connection."""
    on_error: LoadOnError
    """What to do on which error, in addition to the defaults: ``{"DEAL_NOT_FOUND": "skip"}``."""
    retry_policy: RetryPolicy | None
    """Airflow 3.3+: by default only transient errors are retried, not before the server allows it."""


class LoadSettings(TypedDict, total=False):
    """How to load: what operators and the hook take for each kind of record."""

    mapping: Templated[Mapping[str, Any]] | None
    """Field of the CRM -> column, or a mapping with ``column``, ``type``, ...; None: the columns' names decide."""
    full_refresh: bool
    """With ``state_path``: send every row and rebuild the state file."""
    duplicates: Duplicates
    """Which of several rows for one record is sent: the ``last``, the ``first``, or none (``reject``)."""
    on_invalid: OnInvalid
    """``reject`` rows that are not valid, or ``stop`` before the first call."""
    max_rejects: int | str
    """Most rejected rows with which the task succeeds: a number or a share such as ``"1%"``."""
    rejects_path: PathArgument | None
    """File for the rejected rows, unchanged, each with the reason."""
    outcomes_path: PathArgument | None
    """File for the outcome of every row (JSON lines, CSV or Parquet, by its suffix)."""
    outcome_keys: Templated[str | Sequence[str]]
    """Columns of the source that ``outcomes_path`` shows, to join it with."""
    state_path: PathArgument | None
    """File that remembers what was loaded: the next run leaves out the rows that did not change."""
    report_path: PathArgument | None
    """File for a Markdown report; by default in the site's ``report_directory``, else beside the rejects file."""
    checkpoint_path: PathArgument | None
    """File that a retry resumes from, instead of Airflow's task state store."""
    errors_in_a_row: int
    """The load stops after this many consecutive rows that failed because of the server."""
    dry_run: bool
    """Check all rows and plan, but write nothing."""


class ContactLoadSettings(LoadSettings, total=False):
    """How to load contacts."""

    mode: Mode
    """``upsert``, ``create`` (existing contacts are left alone) or ``update`` (new ones are rejected)."""
    plan: PlanName
    """``auto`` takes the plan with the fewest calls; ``learned`` upserts in the order that the rows so far suggest;
    ``compare`` reads all contacts of the CRM first and sends only what differs."""
    empty: Empty
    """What an empty value becomes unless the mapping says it: ``skip``, ``clear`` or ``keep``."""
    region: str | None
    """Country of phone numbers without ``+`` unless the mapping says it: ``"BR"``."""
    lowercase_email: bool
    """Convert addresses to lower case."""
    suppression: PathsOrAddresses | None
    """Addresses, or hashes of them, that are never written to: a list, a path or a pattern of files."""
    list_ids: Templated[str | Sequence[str]]
    """Segmentation lists that each contact is added to."""
    resubscribe: bool
    """Also add contacts to the lists that the CRM shows as unsubscribed or blacklisted."""


class DealLoadSettings(LoadSettings, total=False):
    """How to load deals."""

    mode: DealMode
    """``move``, ``update``, ``create``, or ``upsert`` (found by its id, or by its contact and pipeline)."""
    plan: Literal["auto", "compare"]
    """``auto`` takes the plan with the fewest calls; ``compare`` reads all deals of the CRM first and sends only what
    differs."""
    empty: Empty
    """What an empty value becomes unless the mapping says it: ``skip``, ``clear`` or ``keep``."""
    only_from_stages: Templated[str | Sequence[str]]
    """Stages that a deal may leave: a deal in another stage is left alone and counted as skipped."""


class LoadArguments(CrmRowArguments, LoadSettings, total=False):
    """The arguments that all loads share."""


class ContactLoadArguments(CrmRowArguments, ContactLoadSettings, total=False):
    """The arguments that all loads of contacts share."""


class DealLoadArguments(CrmRowArguments, DealLoadSettings, total=False):
    """The arguments that all loads of deals share."""


def rendered(value: Templated[_T]) -> _T:
    """Tell type checkers that a template field has been rendered. The value is returned unchanged."""
    return cast("_T", value)


# -- names --------------------------------------------------------------------------------------------------

_INPUTS = (
    "csv data dataframe df file file_name file_path filename filepath files input input_file path paths source_file"
)
NAMES_ELSEWHERE: Mapping[str, str] = {
    "source": f"{_INPUTS} contacts deals emails input_path records rows source_path",
    "rejects": f"{_INPUTS} rejects_file source",
    "target": f"{_INPUTS} dest destination output output_file output_path target_path",
    "sql": "query select source sql_query statement table",
    "mode": "if_exists update_existing upsert",
    "mapping": "column_mapping columns field_mapping fields",
    "listing": "entity object resource source",
    "fields": "columns",
    "attributes": "fields properties",
    "rejects_path": "rejects",
    "contact_email": "address contact contact_id email_address mail",
    "deal_id": "deal id",
    "crm_conn_id": "conn connection connection_id http_conn_id",
    "execution_timeout": "timeout",
}
"""An argument -> what other operators and libraries call it. The first that an operator has is suggested."""

SAME_WORD = 0.65
"""Minimum similarity of a name with an argument of Airflow's, 0 to 1: ``retry`` and ``retries`` have 0.67."""


def check_names(operator: type, given: Iterable[str]) -> None:
    """Reject arguments that an operator does not have. Airflow's own check would show their values.

    :param given: names; those that start with ``_`` are internal to Airflow
    :raises TypeError: naming the unknown arguments and the nearest valid ones
    """
    known = frozenset(own_parameters(operator))
    wrong = [name for name in given if name not in known and not name.startswith("_")]
    if wrong:
        raise TypeError(f"{operator.__name__} has no argument {', '.join(hinted(name, known) for name in wrong)}")


@functools.cache
def own_parameters(operator: type) -> Mapping[str, inspect.Parameter]:
    """The named parameters of ``__init__`` of the operator and its bases; the operator's own take precedence."""
    found: dict[str, inspect.Parameter] = {}
    for base in operator.__mro__[:-1]:
        if "__init__" in vars(base):
            for name, parameter in inspect.signature(vars(base)["__init__"]).parameters.items():
                if name != "self" and parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                    found.setdefault(name, parameter.replace(kind=parameter.KEYWORD_ONLY))
    return found


def _meant(name: str, known: Iterable[str]) -> str | None:
    """The argument that an author means by a name that is not known: by its usual name elsewhere, or a similar one.

    An argument of Airflow's must be very similar: nobody who writes ``file`` means ``inlets``.
    """
    names = sorted(known)
    for right, elsewhere in NAMES_ELSEWHERE.items():
        if right in names and name in elsewhere.split():
            return right
    own = [each for each in names if each not in BaseOperatorArguments.__annotations__]
    return nearest(name, names, cutoff=SAME_WORD) or nearest(name, own)


def hinted(name: str, known: Collection[str]) -> str:
    """A name that is not known, with the argument or the operators that its author means."""
    if "source" in known and "sql" not in known and name in NAMES_ELSEWHERE["sql"].split():
        return f"{name!r} (the operators of crm_provider.transfers.sql_to_crm load the rows of a query)"
    close = _meant(name, known)
    return f"{name!r} (did you mean {close!r}?)" if close else repr(name)


# -- help() -------------------------------------------------------------------------------------------------


class ClassSignature:
    """``__signature__`` of a class with all arguments, including those of its bases.

    ``help()``, ``inspect.signature``, Sphinx and notebooks show it. Airflow reads each ``__init__`` instead.
    """

    def __get__(self, instance: object, owner: type) -> inspect.Signature:
        return inspect.Signature(list(own_parameters(owner).values()))


_BEGINS = r"^:(?!\w+:`)"  # not a reference, such as :class:`CrmOperator`, at the start of a line
_FIELD = re.compile(rf"{_BEGINS}(?:param (?P<name>\w+)|\w+[^:\n]*):.*?(?={_BEGINS}|\Z)", re.DOTALL | re.MULTILINE)


def full_docstring(cls: type) -> str | None:
    """The docstring of a class, with the parameters documented by its bases.

    :return: None if the class itself has no docstring
    """
    if not cls.__doc__:
        return None
    text = inspect.cleandoc(cls.__doc__)
    found = list(_FIELD.finditer(text))
    summary = text[: found[0].start()].rstrip() if found else text
    own = {field["name"]: field[0].strip() for field in found if field["name"]}
    others = [field[0].strip() for field in found if not field["name"]]
    inherited = {name: field for name, field in _documented(cls.__mro__[1:]) if name not in own}
    fields = "\n".join([*own.values(), *inherited.values(), *others])
    return f"{summary}\n\n{fields}\n" if fields else text


def _documented(classes: Iterable[type]) -> Iterator[tuple[str, str]]:
    """The parameters documented by classes of this package, in the order of the classes."""
    seen: set[str] = set()
    for cls in classes:
        if cls.__module__.startswith("crm_provider."):
            for field in _FIELD.finditer(inspect.cleandoc(vars(cls).get("__doc__") or "")):
                name = field["name"]
                if name and name not in seen:
                    seen.add(name)
                    yield name, field[0].strip()
