"""Write the generated tables of ``docs/*.md``: from the catalogue, the policy, the settings and the client.

    python scripts/docs_tables.py            rewrites the text between <!-- generated: NAME --> and <!-- end -->;
                                             parts about a class or file: <!-- generated: NAME ARGUMENT -->
    python scripts/docs_tables.py --check    reports outdated parts only; exit code 1 if there are any

The operators are imported, with a temporary Airflow home.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import docs_operators
import generated
from docs_operators import DOCS, ROOT
from generated import table

from crm_provider import errors
from crm_provider.client import http_session, pagination, request, responses, retry
from crm_provider.client.client import CrmClient
from crm_provider.client.settings import Settings
from crm_provider.errors.catalog import CATALOGUE
from crm_provider.errors.on_error import ACTIONS_OF, Action, Work, label
from crm_provider.errors.policy import OPERATORS, OUTCOME_OVERRIDES, PRESETS, ErrorPolicy
from crm_provider.errors.policy_table import explain
from crm_provider.get_provider_info import CONFIG, CONN_FIELDS
from crm_provider.load import planner
from crm_provider.load.rows import duration
from crm_provider.rate_limit.schedule import LONGEST_PAUSE, MARGIN
from crm_provider.testing import fresh_airflow_home
from crm_provider.values import redaction
from crm_provider.waiting import backoff

ID = "123e4567-e89b-12d3-a456-426614174000"
EMAIL = "ada@example.com"


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite or check all documents.

    :return: the exit code: 1 if ``--check`` finds an outdated part
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, report outdated parts")
    check = parser.parse_args(arguments).check
    stale = [name for document in _in_order() for name in update(document, write=not check)]
    for name in stale:
        print(f"{name} {'is out of date: run python scripts/docs_tables.py' if check else 'was rewritten'}")
    return 1 if check and stale else 0


def update(document: Path, *, write: bool) -> list[str]:
    """Rewrite the generated parts of a document.

    :return: the outdated parts
    """
    stale = []
    for shown, old in generated.parts(document, "generated").items():
        name, _, argument = shown.partition(" ")
        new = PARTS_ABOUT[name](document, argument) if argument else PARTS[name]()
        if old != f"\n{new}\n\n":
            stale.append(f"{document.relative_to(ROOT)}: {shown}")
            if write:
                generated.replace(document, f"generated: {shown}", new)
    return stale


def _in_order() -> list[Path]:
    """All documents. Those in folders come first, because others take text from them."""
    return sorted(DOCS.rglob("*.md"), key=lambda path: (path.parent == DOCS, path))


def code(value: object) -> str:
    return f"`{value}`"


# -- errors -------------------------------------------------------------------------------------------------


def error_tree() -> str:
    """The tree in the docstring of ``crm_provider.errors``."""
    lines = (errors.__doc__ or "").split("::\n", 1)[1].splitlines()
    tree = [line for line in lines if line.startswith("    ")]
    return f"```text\n{textwrap.dedent(chr(10).join(tree))}\n```"


def error_table() -> str:
    """Every error type and its default outcome."""
    by_work = [explain(ErrorPolicy(work=work)) for work in Work]
    rows = (
        (
            code(task.type),
            task.status or "-",
            task.in_call,
            task.action,
            sensor.action,
            row.action,
            CATALOGUE[task.type].source.value,
            task.advice,
        )
        for task, sensor, row in zip(*by_work, strict=True)
    )
    return table(("Type", "Status", "In one call", "Task", "Sensor", "Load row", "Known from", "What to do"), rows)


def unknown_answers() -> str:
    """The class of a response without a known type and text, and its outcome."""
    cases = {"400, 422": 422, "404": 404, "409": 409, "413, 415": 413, "3xx, other 4xx": 418, "other 5xx": 599}
    rows = []
    for shown, status in cases.items():
        error = responses.error_of(responses.CrmResponse(method="GET", path="/", status=status, headers={}, body=b""))
        outcomes = [ErrorPolicy(work=work).decide(error).action.value for work in Work]
        rows.append((shown, code(type(error).__name__), *outcomes))
    unreadable = [ErrorPolicy(work=work).decide(errors.CrmProtocolError).action.value for work in Work]
    rows.append(("2xx that is not JSON", code("CrmProtocolError"), *unreadable))
    return table(("Status", "Class", "Task", "Sensor", "Load row"), rows)


def presets() -> str:
    """The presets of operators, which differ from the defaults. What holds in every mode stands there once."""
    rows = []
    for operator, differences in (*PRESETS.items(), *OUTCOME_OVERRIDES.items()):
        in_every_mode = PRESETS.get(operator.partition("(")[0], {}) if "(" in operator else {}
        for error, action in (line for line in differences.items() if line not in in_every_mode.items()):
            default = ErrorPolicy(work=OPERATORS[operator]).decide(error)
            does = "count the row as unchanged" if action is Action.UNCHANGED else action.value
            rows.append((code(operator), code(label(error)), does, default.action.value))
    return table(("Operator", "Error", "Action", "Default action"), rows)


def invalid_pairs() -> str:
    """The invalid actions of each family in each kind of work, and the reason."""
    rows = []
    families: list[type[errors.CrmError]] = [errors.CrmError, *errors.CrmError.__subclasses__()]
    for family in families:
        refused = {work: _refused(family, work) for work in Work}
        reasons = dict.fromkeys(reason for actions in refused.values() for reason in actions.values())
        if reasons:
            shown = [", ".join(code(action) for action in actions) or "-" for actions in refused.values()]
            rows.append((code(family.__name__), *shown, "; ".join(reasons)))
    return table(("Error", "Not in a task", "Not in a sensor", "Not in a load", "Reason"), rows)


def _refused(family: type[errors.CrmError], work: Work) -> dict[str, str]:
    found = {}
    for action in ACTIONS_OF[work]:
        try:
            ErrorPolicy({family: action}, work=work)
        except ValueError as objection:
            reason = re.search(r"because (.*?)\. (?:Did you mean|Valid)", str(objection))
            found[action.value] = reason[1] if reason else str(objection)
    return found


def actions() -> str:
    """The valid actions of each kind of work."""
    meaning = {
        Action.RETRY: "the try fails, and Airflow's `retries` apply",
        Action.SKIP: "the task is skipped",
        Action.FAIL: "the task fails without another try",
        Action.WAIT: "the sensor checks again later",
        Action.REJECT: "the row goes to the rejects file, and the load continues",
    }
    in_loads = {
        Action.RETRY: "; in a load the row is sent again",
        Action.SKIP: "; in a load the row is counted as skipped",
        Action.FAIL: "; in a load the load ends",
    }
    rows = (
        (
            code(action.value),
            *("yes" if action in ACTIONS_OF[work] else "-" for work in Work),
            text + in_loads.get(action, ""),
        )
        for action, text in meaning.items()
    )
    return table(("Action", "Operators, own tasks", "Sensors", "Loads", "What happens"), rows)


# -- connection ---------------------------------------------------------------------------------------------


def extras() -> str:
    """The extras of a connection."""
    rows = []
    for name, known in CONN_FIELDS.items():
        schema, value = known["schema"], getattr(Settings, name)
        default = "-" if value is None else code(f"{value:g}" if isinstance(value, float) else str(value).lower())
        range_ = f"{schema['minimum']} to {schema['maximum']}" if "minimum" in schema else "-"
        rows.append((code(name), schema["type"][0], default, range_, known["description"]))
    return table(("Extra", "Kind", "Default", "Range", "Meaning"), rows)


def site_options() -> str:
    """The options of the section ``[crm]``."""
    rows = []
    for name, known in CONFIG["crm"]["options"].items():
        rows.append((code(name), known["description"].replace("\n", " "), code(known["example"])))
    return table(("Option", "Meaning", "Example"), rows)


MISTAKES: Mapping[str, Mapping[str, Any]] = {
    "no key": {"password": ""},
    "a key with surrounding spaces": {"password": " key "},
    "no scheme": {"host": "connect.pingback.com/v2"},
    "plain HTTP": {"host": "http://connect.pingback.com/v2"},
    "a user or password in the URL": {"host": "https://user:secret@connect.pingback.com/v2"},
    "a query or fragment": {"host": "https://connect.pingback.com/v2?page=1"},
    "two ports": {"host": "https://connect.pingback.com:8443/v2", "port": 443},
    "a misspelt extra": {"extra": {"request_per_second": 3}},
    "the key as an extra": {"extra": {"api_key": "key"}},
    "a number in words": {"extra": {"timeout": "soon"}},
    "a number out of range": {"extra": {"burst": 0}},
    "an unknown rate store": {"extra": {"rate_store": "memcached://cache"}},
}


def connection_mistakes() -> str:
    """The messages about wrong fields of a connection, found before the first call."""
    rows = []
    for mistake, fields in MISTAKES.items():
        try:
            Settings.from_fields(**{"host": None, "port": None, "password": "key", "extra": {}, **fields})
        except errors.CrmConfigurationError as error:
            rows.append((mistake, code(error.message)))
    return table(("Mistake in the connection", "Message"), rows)


# -- client -------------------------------------------------------------------------------------------------

PARTS_OF_CALLS = ("create_or_find", "send_update", "find_own_deal", "start_of_writes", "delete_listed")
"""Methods of the client that are parts of other calls and of loads."""

CALLS = [
    name
    for owner in CrmClient.__mro__
    for name, method in vars(owner).items()
    if inspect.isfunction(method) and not name.startswith("_") and name not in ("close", "request", *PARTS_OF_CALLS)
]
"""Every call with its own route."""

ARGUMENTS: Mapping[str, Any] = {
    "email": EMAIL,
    "attributes": {"name": "Ada"},
    "list_ids": [ID],
    "listing": "contacts",
    "name": "Trial users",
    "stage_id": ID,
}
"""Examples of arguments; other required ones are ids."""


class Recorder(CrmClient):
    """Records the requests of a call, and whether a lost POST is verified by a read."""

    def __init__(self) -> None:
        super().__init__(Settings(api_key="key", rate_store="off"))
        self.routes: dict[str, str] = {}

    def _send(self, call: request.Call, *, verify_write: retry.VerifyWrite | None = None, budget: Any = None) -> Any:
        repeated = call.method in ("GET", "PUT", "DELETE") and budget is not retry.ONE_TRY
        lost = "sent again" if repeated else "not sent again"
        route = f"{call.method} {call.route}{'?page=' if 'page' in call.query else ''}"
        self.routes[route] = "read first, then sent again if the write did not happen" if verify_write else lost
        if call.success_errors and call.method == "POST":
            raise call.success_errors[0]("conflict")
        return {"id": ID, "data": []}


def client_calls() -> str:
    """Every call of the client, its route, and its reaction to a lost response."""
    rows = []
    for name in CALLS:
        method, recorder = getattr(CrmClient, name), Recorder()
        taken = list(inspect.signature(method).parameters.values())[1:]
        needed = [one.name for one in taken if one.name in ARGUMENTS or one.default is one.empty]
        try:
            found = method(recorder, **{each: ARGUMENTS.get(each, ID) for each in needed})
            if inspect.isgenerator(found):
                list(found)
        except errors.CrmError:
            pass  # not found or a conflict: the request is recorded nevertheless
        routes = "<br>".join(code(route) for route in recorder.routes)
        lost = "<br>".join(recorder.routes.values())
        rows.append((code(f"{name}{_arguments(method)}"), routes, lost, _first_sentence(method)))
    return table(("Call", "Route", "After a lost response", "What it does"), rows)


def _arguments(method: Callable[..., Any]) -> str:
    signature = inspect.signature(method)
    plain = [
        p.replace(annotation=inspect.Parameter.empty) for name, p in signature.parameters.items() if name != "self"
    ]
    return str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))


def _first_sentence(method: Callable[..., Any]) -> str:
    lines = (inspect.getdoc(method) or "").split("\n\n")[0].split()
    return re.split(r"(?<=[a-z)])\. ", " ".join(lines).replace("``", "`"), maxsplit=1)[0].rstrip("., ")


def limits() -> str:
    """The limits of the client."""
    budget = retry.RetryBudget()
    rows = (
        (f"{budget.tries}", "maximum attempts of one call, including the first"),
        (f"{pagination.LATER_PAGE_TRIES}", "the same for a page of a listing, except the first page"),
        (f"{budget.seconds:g} s", "latest start of an attempt, counted from the first"),
        (
            f"{budget.first_delay:g} s",
            "delay before the second attempt, then doubled; half is random. A server's `Retry-After` takes precedence",
        ),
        (f"{budget.longest_delay:g} s", "maximum delay between two attempts, unless the server asks for more"),
        (f"{MARGIN:.0%}", "share of `requests_per_second` that is used"),
        (f"{LONGEST_PAUSE:g} s", "a `Retry-After` up to this length pauses all callers of the key"),
        (f"{responses.MAX_RETRY_AFTER / 86400:g} days", "a longer `Retry-After` is ignored"),
        (f"{http_session.CONNECT_TIMEOUT:g} s", "maximum time to connect, or `timeout` if that is shorter"),
        (f"{http_session.MAX_BODY // 2**20} MB", "a larger response, compressed or decompressed, is an error"),
        (f"{redaction.SHORTENED}", "maximum characters of a response in a message"),
        (f"{pagination.STALE_PAGES}", "pages in a row without a new record end a listing with an error"),
        (f"{backoff.MAX_ERRORS_IN_A_ROW}", "default of `max_errors_in_a_row` of the sensors"),
    )
    return table(("Value", "What it limits"), rows)


# -- loads --------------------------------------------------------------------------------------------------

UNCHANGED = 0.99
"""Share of the rows of a daily load that did not change."""


def load_costs() -> str:
    """The duration of a load, by the share of rows that the CRM has already."""

    def hours(calls: float) -> str:
        return duration(calls / (Settings(api_key="key").requests_per_second * MARGIN))

    rows = []
    for count in (10_000, 100_000, 1_000_000):
        without = [planner.calls_without_reading("upsert", count, share) for share in (0.0, 0.5, 1.0)]
        compared = planner.calls_with_compare("upsert", count, count, 1.0, UNCHANGED)
        one_call = planner.calls_without_reading("create", count, 0.0)
        costs = [*without, one_call, compared, count * (1 - UNCHANGED)]
        rows.append((f"{count:,}", *map(hours, costs)))
    return table(
        (
            "Rows",
            "`upsert`, all new",
            "`upsert`, half existing",
            "`upsert`, all existing",
            "`create` or `update`",
            f"`compare`, as many contacts, {1 - UNCHANGED:.0%} differ",
            f"`state_path`, {1 - UNCHANGED:.0%} changed",
        ),
        rows,
    )


# -- development --------------------------------------------------------------------------------------------


def modules() -> str:
    """Every module with the first line of its docstring. The sandbox and the testing kit are one line each."""
    package = ROOT / "crm_provider"
    rows = []
    for path in [path for depth in ("*.py", "*/*.py", "*/*/*.py") for path in sorted(package.glob(depth))]:
        if path.parent.name in ("sandbox", "testing") and path.name != "__init__.py":
            continue
        about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        if about:
            name = path.relative_to(package).as_posix().removesuffix("__init__.py") or "__init__.py"
            rows.append((code(name), about.splitlines()[0].replace("``", "`").rstrip(".")))
    return table(("Module", "Purpose"), rows)


ALONE = (
    *(error_tree, error_table, unknown_answers, presets, actions, invalid_pairs),
    *(extras, site_options, connection_mistakes, client_calls, limits, load_costs, modules),
)
PARTS: Mapping[str, Callable[[], str]] = {part.__name__.replace("_", "-"): part for part in ALONE}
"""The generated parts by the name in their marker."""

PARTS_ABOUT: Mapping[str, Callable[[Path, str], str]] = {
    "example": docs_operators.example,
    "parameters": docs_operators.parameter_table,
    "own-parameters": docs_operators.own_parameter_table,
    "outcomes": lambda document, name: docs_operators.outcomes(name),
    "overview": docs_operators.overview,
    "file": lambda document, name: docs_operators.file_shown(ROOT / name),
}
"""The generated parts whose marker has an argument."""

if __name__ == "__main__":
    fresh_airflow_home()
    sys.exit(main())
