"""The way to the CRM breaks on a real Airflow: what ``dag.test`` has seen, its own processes must be seen to do, too.

Every fault of the table "Tasks" of ``docs/reliability.md`` hits each kind of task, all at once: tasks in processes of
their own, deferred sensors in the triggerer. And an answer that never ends, by a real clock.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import broken_tasks
import pytest
import reliability
from airflow_api import Run
from airflow_stack import AirflowStack
from broken_tasks import ENDLESS, LASTING, NEW, NOTHING_YET, PASSING, ROWS, TASKS, UNREACHED, UNREACHING
from broken_ways import UNREACHABLE, Way

from crm_provider.sandbox import Sandbox
from crm_provider.testing import assert_no_duplicates

pytest.importorskip("airflow.models.task_state_store", reason="the table is that of Airflow 3.3 and newer")

pytestmark = pytest.mark.reliability("network")

KEY, PROXY_PASSWORD = "zq-key-of-the-crm", "s3cret"

BROKEN, DEFERRED = "broken", "deferred"
"""The DAG with the tasks that are struck as they start, and that with the sensors that are struck while deferred."""

PATIENCE = 1200.0
"""Seconds until something hangs; all of it takes about two minutes."""

NOT_YET = "not yet"
"""The name of the fault that lets sensors wait until they are struck."""

DRIP = {"effect": "drip", "latency": 1.0}

STRUCK: Mapping[str, Mapping[str, Any]] = {
    ENDLESS: DRIP,
    **{
        f"{fault}, once": {**rule, **(DRIP if rule["effect"] == "drip" else {}), "count": 1}
        for fault, rule in PASSING.items()
    },
    **{fault: rule for fault, (rule, _, _) in LASTING.items()},
}

TIMEOUTS = {ENDLESS: 2, "an answer comes byte by byte, once": 12}
"""Of connections, in seconds, where it is waited for: ample for the answer that comes after all."""

DAG_FILE = """
import json
import os
import socket
from datetime import timedelta
from functools import partial

from airflow.sdk import DAG
from broken_tasks import TASKS

with open("PLAN", encoding="utf-8") as file:
    PLAN = json.load(file)

find = socket.getaddrinfo


def resolve(name, *arguments, **keywords):
    if name == "crm.invalid":
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return find("127.0.0.1" if name == "crm.test" else name, *arguments, **keywords)


def enter(environment, context):
    # each task runs in a process of its own: no other one sees this
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        os.environ.pop(name, None)
        os.environ.pop(name.lower(), None)
    os.environ.update(environment)
    socket.getaddrinfo = resolve


for dag_id, tasks in PLAN.items():
    with DAG(dag_id, schedule=None, max_active_tasks=100):
        for name, each in tasks.items():
            operator, arguments = TASKS[each["hit"]]
            operator(
                task_id=name, crm_conn_id=name, on_execute_callback=partial(enter, each["environment"]),
                **{**arguments, **each["arguments"], "retries": 1, "retry_delay": timedelta(seconds=1)})
"""


class Environment:
    """What a broken way wants to be set, for the processes of tasks; stands in for pytest's ``monkeypatch``."""

    def __init__(self) -> None:
        self.set: dict[str, str] = {}

    def setenv(self, name: str, value: str) -> None:
        self.set[name] = value

    def setattr(self, *_: Any) -> None:
        """How names are resolved: the DAG file does it."""


@dataclass(frozen=True)
class Case:
    """One fault that hits one task.

    :param crm: what the task is connected to, if it gets that far
    """

    fault: str
    hit: str
    connection: str
    environment: Mapping[str, str] = field(default_factory=dict)
    crm: Sandbox | None = None

    @property
    def name(self) -> str:
        """Of its task and of its connection."""
        return name_of(self.fault, self.hit)

    def plan(self, folder: Path) -> dict[str, Any]:
        own: dict[str, dict[str, Any]] = {
            "extract": {"target": str(self.target(folder))},
            "sensor": {"timeout": PATIENCE, **({"max_errors_in_a_row": 0} if self.fault == ENDLESS else {})},
            "deferred sensor": {"timeout": 3 * PATIENCE, "poke_interval": 2},
        }
        weight = 10 if self.fault == ENDLESS else 5 if self.dag_id == DEFERRED else 1  # what takes longest goes first
        arguments = {"priority_weight": weight, **own.get(self.hit, {})}
        return {"hit": self.hit, "environment": self.environment, "arguments": arguments}

    @property
    def dag_id(self) -> str:
        return DEFERRED if self.hit == "deferred sensor" else BROKEN

    def target(self, folder: Path) -> Path:
        return folder / f"{self.name}.jsonl"


def name_of(fault: str, hit: str) -> str:
    return re.sub(r"\W+", "_", f"{fault}__{hit}").lower()


@dataclass(frozen=True)
class Ended:
    """How a task has ended.

    :param errors: of its last try, as its log tells them: class and text
    :param requests: how many its CRM has had, looks without any fault left aside but for the first
    """

    state: str | None
    tries: int
    errors: tuple[tuple[str, str], ...]
    requests: int

    @property
    def words(self) -> str:
        """In those of the table."""
        if self.state == "success":
            return "success" if self.tries == 1 else f"success, after {self.tries} tries"
        return f"{self.state}, {'at once' if self.tries == 1 else f'after {self.tries} tries'}"


@dataclass(frozen=True)
class Scene:
    """What is left when all tasks have ended.

    :param runs: by DAG
    :param ended: by the task's name
    :param before: whom every CRM knew
    """

    stack: AirflowStack
    runs: Mapping[str, Run]
    cases: Mapping[str, Case]
    ways: Mapping[str, Way]
    folder: Path
    ended: Mapping[str, Ended]
    before: frozenset[str]

    def crm(self, fault: str, hit: str) -> Sandbox:
        crm = self.cases[name_of(fault, hit)].crm
        assert crm is not None
        return crm

    def new(self, fault: str, hit: str) -> dict[str, Any]:
        """Contacts that were written, with their names."""
        contacts = self.crm(fault, hit).store.contacts.items()
        return {email: contact.attributes["name"] for email, contact in contacts if email not in self.before}


@pytest.fixture(scope="module")
def scene(airflow_stack: Callable[..., AirflowStack], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """All tasks, run to their ends."""
    folder = tmp_path_factory.mktemp("broken")
    with ExitStack() as running:
        ways = {fault: broken(running, fault, folder) for fault in UNREACHED}
        cases = {case.name: case for case in (*struck_cases(running), *unreached_cases(ways))}
        before = frozenset(next(case.crm for case in cases.values() if case.crm).store.contacts)
        stack = airflow_stack(
            dags_of(cases, folder),
            env={
                **{f"AIRFLOW_CONN_{name.upper()}": case.connection for name, case in cases.items()},
                "PYTHONPATH": str(Path(broken_tasks.__file__).parent),
                "AIRFLOW__CORE__PARALLELISM": "8",  # many of them wait
                "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
            },
        )
        runs = run_all(stack, cases)
        ended = {name: end_of(stack, runs[case.dag_id], case) for name, case in cases.items()}
        yield Scene(stack, runs, cases, {fault: way for fault, (way, _) in ways.items()}, folder, ended, before)
        stack.stop()


def run_all(stack: AirflowStack, cases: Mapping[str, Case]) -> dict[str, Run]:
    """Run both DAGs; what is deferred is struck when all else has ended.

    Not before: where a trigger fires before the scheduler has heard that the task was deferred, Airflow takes the
    task for dead, and gives it another try.
    """
    stack.api.wait_for_dag(BROKEN)
    stack.api.wait_for_dag(DEFERRED)
    deferred, others = stack.api.trigger(DEFERRED), stack.api.trigger(BROKEN)
    runs = {BROKEN: stack.api.wait(BROKEN, others, timeout=PATIENCE)}
    stack.api.wait(DEFERRED, deferred, until=lambda run: set(run.states().values()) == {"deferred"}, timeout=PATIENCE)
    for case in cases.values():
        if case.crm and case.dag_id == DEFERRED:
            case.crm.add_fault(**STRUCK[case.fault])
            case.crm.remove_fault(NOT_YET)
    return {**runs, DEFERRED: stack.api.wait(DEFERRED, deferred, timeout=PATIENCE)}


def broken(running: ExitStack, fault: str, folder: Path) -> tuple[Way, Mapping[str, str]]:
    """A way on which nothing gets to the CRM, and the environment that leads there."""
    environment, own = Environment(), folder / name_of(fault, "way")
    own.mkdir()
    way = running.enter_context(UNREACHABLE[fault](environment, own))  # type: ignore[arg-type]
    return way, environment.set


def unreached_cases(ways: Mapping[str, tuple[Way, Mapping[str, str]]]) -> Iterator[Case]:
    for fault, (way, environment) in ways.items():
        for hit in UNREACHING:
            yield Case(fault, hit, connection(way.base_url, 30), environment)


def struck_cases(running: ExitStack) -> Iterator[Case]:
    """Tasks with a CRM for each."""
    for fault, rule in STRUCK.items():
        for hit in UNREACHING if fault == ENDLESS else TASKS:
            crm = running.enter_context(Sandbox(rate=None, api_key=KEY))
            crm.add_fault(**({**NOTHING_YET, "name": NOT_YET} if hit == "deferred sensor" else rule))
            yield Case(fault, hit, connection(crm.url, TIMEOUTS.get(fault, 30)), crm=crm)


def connection(base_url: str, timeout: int) -> str:
    extra = {"rate_store": "off", "timeout": timeout}
    return json.dumps({"conn_type": "crm", "host": base_url, "password": KEY, "extra": extra})


def dags_of(cases: Mapping[str, Case], folder: Path) -> Path:
    plan, dags = folder / "plan.json", folder / "dags"
    plans: dict[str, dict[str, Any]] = {BROKEN: {}, DEFERRED: {}}
    for name, case in cases.items():
        plans[case.dag_id][name] = case.plan(folder)
    plan.write_text(json.dumps(plans), encoding="utf-8")
    dags.mkdir()
    (dags / "broken.py").write_text(DAG_FILE.replace("PLAN", str(plan), 1), encoding="utf-8")
    return dags


def end_of(stack: AirflowStack, run: Run, case: Case) -> Ended:
    task = run[case.name]
    events = stack.api.log_events(run, task)
    chains = [event.get("error_detail") or [] for event in events if isinstance(event, dict)]
    errors = tuple((each["exc_type"], each["exc_value"]) for each in chain.from_iterable(chains))
    asked = case.crm.journal() if case.crm else []
    waited = sum(entry.fault == NOT_YET for entry in asked)
    return Ended(task.state, task.try_number, errors, len(asked) - max(waited - 1, 0))


# -- as with dag.test ----------------------------------------------------------------------------------------

Told = Callable[[str, str], reliability.Seen]


def check_as_told(scene: Scene, told: Told, fault: str, hit: str) -> None:
    """It ended so, with this error, after so many requests."""
    line, ended = told(fault, hit), scene.ended[name_of(fault, hit)]
    assert ended.words == line.ends, ended
    if hit == "load":  # dag.test sends its rows one after the other, this one as far as the rate allows
        assert int(line.requests) <= ended.requests <= int(line.requests) + len(ROWS)
    else:
        assert ended.requests == int(line.requests)
    if line.said == "nothing":
        return
    check_said(ended, line.said, line.remedy)


def check_said(ended: Ended, said: str, remedy: str) -> None:
    """The log has this error, with what to do."""
    unsure = "The write may or may not have happened"
    found = re.fullmatch(rf"`(\w+)`: (.+?)(\. {unsure})?", said)
    assert found is not None, said
    texts = [reliability.stable(text) for kind, text in ended.errors if kind == found[1]]
    assert texts, ended
    for text in texts:
        assert found[2] in text
        assert remedy[1:] in text
        assert (unsure in text) is bool(found[3])


@pytest.mark.parametrize("hit", UNREACHING)
@pytest.mark.parametrize("fault", UNREACHED)
def test_nothing_gets_to_the_crm(fault: str, hit: str, scene: Scene, told: Told) -> None:
    check_as_told(scene, told, fault, hit)
    assert scene.ways[fault].requests == []
    assert not scene.cases[name_of(fault, hit)].target(scene.folder).exists()


@pytest.mark.parametrize("hit", TASKS)
@pytest.mark.parametrize("fault", PASSING)
def test_what_breaks_once_is_mended_within_the_try(fault: str, hit: str, scene: Scene, told: Told) -> None:
    check_as_told(scene, told, f"{fault}, once", hit)
    check_nothing_lost(scene, f"{fault}, once", hit)
    assert_no_duplicates(scene.crm(f"{fault}, once", hit))


@pytest.mark.parametrize("hit", TASKS)
@pytest.mark.parametrize("fault", LASTING)
def test_what_does_not_get_better_fails(fault: str, hit: str, scene: Scene, told: Told) -> None:
    check_as_told(scene, told, fault, hit)
    check_nothing_else(scene, fault, hit)
    assert_no_duplicates(scene.crm(fault, hit))


def check_nothing_lost(scene: Scene, fault: str, hit: str) -> None:
    """All that was to be written or read is there, each once."""
    case, crm = scene.cases[name_of(fault, hit)], scene.crm(fault, hit)
    wanted = {"upsert": {NEW: "New"}, "load": {row["email"]: row["name"] for row in ROWS}}
    assert scene.new(fault, hit) == wanted.get(hit, {})
    if hit == "extract":
        lines = case.target(scene.folder).read_text(encoding="utf-8").splitlines()
        assert sorted(json.loads(line)["email"] for line in lines) == sorted(crm.store.contacts)


def check_nothing_else(scene: Scene, fault: str, hit: str) -> None:
    """What failed has left nothing that was not asked for, and no half of a file."""
    case = scene.cases[name_of(fault, hit)]
    wanted = {"upsert": {NEW}, "load": {row["email"] for row in ROWS}}.get(hit, set())
    assert set(scene.new(fault, hit)) <= wanted
    assert hit != "extract" or not case.target(scene.folder).exists()


# -- an answer without end, by a real clock ------------------------------------------------------------------

GIVEN_UP_AFTER = {
    "upsert": 2 * 5,  # two tries with five attempts each
    "load": 2 * 5 * len(ROWS),
    "extract, sensor": 2 * 5,
}
"""Requests."""


def test_an_answer_that_never_ends_is_given_up(scene: Scene, observed: Callable[..., None]) -> None:
    said, remedy = (
        "`CrmTimeoutError`: no whole answer in time",
        "try again later, or raise the timeout in the connection's extra",
    )
    unsure = f"{said}. The write may or may not have happened"
    seen = {hit: scene.ended[name_of(ENDLESS, hit)] for hit in UNREACHING}
    for hit, ended in seen.items():
        assert ended.words == broken_tasks.RETRIED, hit
        check_said(ended, unsure if hit in ("upsert", "load") else said, remedy)
        check_nothing_else(scene, ENDLESS, hit)
    for hits, requests in GIVEN_UP_AFTER.items():
        for hit in hits.split(", "):
            assert seen[hit].requests == requests if hit != "load" else seen[hit].requests <= requests, hit
        said_here = unsure if hits in ("upsert", "load") else said
        at_most = "at most " if hits == "load" else ""
        observed(
            fault=ENDLESS,
            hits=hits,
            ends=broken_tasks.RETRIED,
            requests=f"{at_most}{requests}",
            data="at most once; the next run doubles nothing" if hits in ("upsert", "load") else "it only reads",
            said=said_here,
            remedy=remedy,
        )


# -- afterwards ----------------------------------------------------------------------------------------------


def test_no_key_is_in_any_log(scene: Scene) -> None:
    logs = [path for path in scene.stack.home.rglob("*.log") if path.is_file()]
    assert len(logs) >= len(scene.cases)
    for path in logs:
        text = path.read_text(encoding="utf-8", errors="replace")
        assert KEY not in text, path
        assert PROXY_PASSWORD not in text, path


def test_the_next_run_makes_it_good(scene: Scene) -> None:
    """The last test: it changes the scene."""
    again = [
        case
        for case in scene.cases.values()
        if case.fault in (*LASTING, ENDLESS) and case.hit in ("upsert", "load", "extract")
    ]
    for case in again:
        scene.crm(case.fault, case.hit).clear_faults()
    scene.stack.api.clear(scene.runs[BROKEN], [case.name for case in again])
    tries = {case.name: scene.ended[case.name].tries for case in again}

    def done(run: Run) -> bool:
        return run.finished and all(run[name].try_number > before for name, before in tries.items())

    run = scene.stack.api.wait(BROKEN, scene.runs[BROKEN].run_id, timeout=PATIENCE, until=done)
    assert {case.name: run[case.name].state for case in again} == dict.fromkeys(tries, "success")
    for case in again:
        check_nothing_lost(scene, case.fault, case.hit)
