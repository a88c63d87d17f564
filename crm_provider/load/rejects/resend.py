"""The DAG that sends the rejected rows of a load again, as Python, with the arguments of the load. Pure functions."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crm_provider.files.paths import AnyPath
from crm_provider.values.literals import argument

DEFAULTS: Mapping[str, Any] = {
    "mapping": None, "mode": "upsert", "empty": "skip", "region": None, "lowercase_email": False, "list_ids": (),
    "resubscribe": False, "only_from_stages": (), "max_deletes": 0, "every_spelling": True, "duplicates": "last",
    "max_rejects": 0,
}  # fmt: skip
"""What the operator that sends rejected rows again takes over from the load, with its defaults."""

LONGEST, LONGEST_ARGUMENT = 4000, 2500
"""Characters of the code, which is part of the load's XCom, and of an argument that is written out, with its indent."""

INDENT = " " * 8

VALUES = ("constant", "default")
"""Parts of a mapping's line that may hold a value of a record; shown are ids and booleans."""

ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

TASK_ID, LONGEST_ID = "resend", 250
"""The task that sends rejected rows again; characters of a DAG's id in Airflow."""

TAG = "crm-resend"
"""Tag of the DAG. The page CRM starts no DAG without it."""


def resend_dag_id(dag_id: str, task_id: str) -> str:
    """The id by which the page CRM finds the DAG that sends the rejected rows of a task again.

    Two tasks never share one: ids that contain the separator, or are too long, get a hash. Such a DAG also sends again
    what it has rejected itself.
    """
    if task_id == TASK_ID and dag_id.endswith(f"__{TASK_ID}"):
        return dag_id
    plain = f"{dag_id}__{task_id}__{TASK_ID}"
    if plain.split("__") == [dag_id, task_id, TASK_ID] and len(plain) <= LONGEST_ID:
        return plain
    digest = hashlib.sha256(f"{dag_id}\n{task_id}".encode()).hexdigest()[:12]
    return f"{dag_id[:110]}__{task_id[:110]}__{digest}__{TASK_ID}"


def resend_dag(
    path: AnyPath,
    given: Mapping[str, Any],
    *,
    kind: str = "contacts",
    crm_conn_id: str = "crm_default",
    on_error: Mapping[str, str] | None = None,
    task: tuple[str, str] = ("crm", "load"),
) -> str | None:
    """The DAG as Python. Its parameter ``rejects`` is the file; this one by default.

    Addresses of a suppression list, values in a mapping, and long arguments are not written out: ``...`` stands there,
    which the operator refuses until it is filled in. None if the code would be longer than :data:`LONGEST`.

    :param path: of the rejects file
    :param given: the arguments of the load
    :param on_error: the task's own lines of the error policy
    :param task: DAG and task of the load
    """
    again = path.parent / f"resend-{{{{ run_id }}}}{path.suffix}"
    arguments: dict[str, Any] = {"crm_conn_id": crm_conn_id} if crm_conn_id != "crm_default" else {}
    arguments |= {"kind": kind} if kind != "contacts" else {}
    arguments |= {
        name: given[name] for name, default in DEFAULTS.items() if _differs(given.get(name, default), default)
    }
    arguments |= {"on_error": dict(on_error)} if on_error else {}
    lines = [
        "from airflow.sdk import DAG",
        "from crm_provider.operators.load import CrmRetryRejectsOperator",
        "",
        "with DAG(",
        f'    "{resend_dag_id(*task)}",',
        "    schedule=None,",
        "    max_active_runs=1,",
        f'    tags=["{TAG}"],',
        *argument("params", {"rejects": str(path)}, indent=" " * 4),
        "):",
        "    CrmRetryRejectsOperator(",
        f'        task_id="{TASK_ID}",',
        '        rejects="{{ params.rejects }}",',
        '        only="all",  # "retryable": only rows that may succeed as they are',
        *argument("rejects_path", str(again), indent=INDENT),
        *(line for name, value in arguments.items() for line in _argument(name, _without_values(name, value))),
        *_suppression(given.get("suppression")),
        "        retries=3,",
        "    )",
    ]
    code = "\n".join(lines)
    return code if len(code) <= LONGEST else None


def _without_values(name: str, value: Any) -> Any:
    """An argument; of a mapping, without the values of its lines."""
    if name != "mapping" or not isinstance(value, Mapping):
        return value
    return {field: _line(spec) if isinstance(spec, Mapping) else spec for field, spec in value.items()}


def _line(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {option: ... if option in VALUES and not _is_id(value) else value for option, value in spec.items()}


def _is_id(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and ID.fullmatch(value) is not None)


def _differs(value: Any, default: Any) -> bool:
    return bool(value) if default == () else value != default


def _argument(name: str, value: Any) -> Iterator[str]:
    lines = list(argument(name, value, indent=INDENT))
    if sum(map(len, lines)) > LONGEST_ARGUMENT or not _is_literal(lines):
        lines = list(_to_fill_in(name))
    yield from lines


def _is_literal(lines: Sequence[str]) -> bool:
    """Whether an argument can be written as Python: not if it contains an object of the user."""
    try:
        ast.literal_eval("".join(lines).partition("=")[2].removesuffix(","))
    except (ValueError, SyntaxError):
        return False
    return True


def _suppression(people: Any) -> Iterator[str]:
    if isinstance(people, str):
        yield from _argument("suppression", people)
    elif people is not None:
        yield from _to_fill_in("suppression")


def _to_fill_in(name: str) -> Iterator[str]:
    yield f"{INDENT}{name}=...,  # give the {name} of the load"
