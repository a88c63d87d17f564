"""Clock jumps, such as an NTP correction: waiting and pacing use a monotonic clock.

Only times that are compared between processes or hosts use the wall clock. The first test contains the
the list.
"""

from __future__ import annotations

import ast
import itertools
import random
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import crm_provider
from crm_provider import errors as e
from crm_provider.client.pagination import ListedPage, Page
from crm_provider.extract.partial_pages import LONGEST_REST, Owner, PartialPages
from crm_provider.rate_limit.host_file import HostFileStore
from crm_provider.rate_limit.limiter import Budget
from crm_provider.rate_limit.schedule import LONGEST_RETRY_DELAY, NO_SHOW_AFTER, Lane
from crm_provider.sensors import base
from crm_provider.sensors.lists import CrmListSensor
from crm_provider.waiting.backoff import WaitState, to_steady, to_wall

from .fakes import FakeClock

HOUR, DAY = 3600.0, 24 * 3600.0
JUMPS = [-DAY, -HOUR, HOUR, DAY]

Jump = Callable[[float], None]


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Jump:
    """Moves the wall clock by a number of seconds."""
    true, off = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: true() + off[0])
    return lambda seconds: off.append(off.pop() + seconds)


# -- readers of the wall clock ------------------------------------------------------------------------------

WALL_CLOCK = {
    "extract/extractor.py": "a default, for the age of parts",
    "extract/reader.py": "a default, for the age of parts",
    "transfers/crm_to_sql.py": "the time of a run without one",
    "extract/partial_pages.py": "the age in days of pages left by other runs",
    "load/outcomes/file.py": "the time of a row, for people and joins",
    "tasks/outcome.py": "the date of a reschedule, which Airflow's scheduler compares with its own clock",
    "rate_limit/leases.py": "a default, for slots of several hosts until a response shows the CRM's clock",
    "rate_limit/host_file.py": "the age of unused budget files",
    "client/responses.py": "a Retry-After date, if the response has no Date header",
    "client/transport.py": "the age of a record, to hours, if the CRM does not show its clock",
    "sandbox/settings.py": "dates that the sandbox shows",
    "sensors/base.py": "a deadline that another host continues with, and the date of a reschedule",
    "testing/dag_runs.py": "a test's own time, for Airflow",
    "observability/tracing.py": "the dates of spans",
    "ui/app.py": "elapsed time, for people",
    "waiting/backoff.py": "conversion between the clocks",
}


def test_readers_of_the_wall_clock_are_listed() -> None:
    root = Path(crm_provider.__file__).parent
    found = {str(path.relative_to(root)) for path in root.rglob("*.py") if _looks(path)}
    assert found == set(WALL_CLOCK)


def _looks(path: Path) -> bool:
    wall = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow"), ("date", "today")}
    return any(
        isinstance(node, ast.Attribute) and (ast.unparse(node.value).rpartition(".")[2], node.attr) in wall
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    )


# -- waiting ------------------------------------------------------------------------------------------------


def test_conversion_between_clocks_and_back(jump: Jump) -> None:
    moment = time.time() + 60
    assert to_wall(to_steady(moment)) == pytest.approx(moment, abs=20)
    assert to_steady(moment) == pytest.approx(time.monotonic() + 60, abs=20)


class Patient(CrmListSensor):
    """A sensor whose first check leads to a wait."""

    looks = 0

    def check(self) -> dict[str, Any] | None:
        self.looks += 1
        if self.looks == 1:
            raise e.CrmTooManyRequestsError("slow down", status=429, retry_after=30)
        return {"id": "1"}


@pytest.mark.parametrize("seconds", JUMPS)
def test_poking_sensor_checks_again(seconds: float, jump: Jump, monkeypatch: pytest.MonkeyPatch) -> None:
    sensor, context = Patient(task_id="wait", list_name="late"), {}
    assert sensor.poke(context) is False  # type: ignore[arg-type]
    jump(seconds)
    assert sensor.poke(context) is False  # type: ignore[arg-type]
    # only the sensor's clock: the event loop of a running sandbox would use another one and oversleep
    monkeypatch.setattr(base, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 30))
    found = sensor.poke(context)  # type: ignore[arg-type]
    assert found.xcom_value == {"id": "1"}  # type: ignore[union-attr]


@pytest.mark.parametrize("seconds", JUMPS)
def test_triggerer_receives_a_wall_clock_time(seconds: float, jump: Jump) -> None:
    """The other process has a different monotonic clock but the same time of day."""
    jump(seconds)
    waiting = WaitState(not_before=time.monotonic() + 30)
    assert to_wall(waiting.not_before) == pytest.approx(time.time() + 30, abs=20)


# -- pacing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_rate_budget_neither_stops_nor_bursts(seed: int, tmp_path: Path) -> None:
    """The monotonic clock restarts with each boot (the file may outlive it). The clock of Redis is a wall clock."""
    chance = random.Random(seed)
    true, off = FakeClock(DAY), [0.0]
    store = HostFileStore("key.rate", folder=tmp_path / "private", clock=lambda: true.now + off[0], sleep=true.sleep)
    limiter = Budget(store, 5.0, 2, clock=true, sleep=true.sleep, jitter=lambda: 0.0).lane(Lane.BULK)
    sent, jumps = [], 0
    for _ in range(200):
        if chance.random() < 0.1:
            off[0], jumps = chance.choice([*JUMPS, -true.now, 0.0]), jumps + 1  # -true.now: a boot
        limiter.acquire(10.0)
        sent.append(true.now)
    spacing = 1 / (5.0 * 0.99)
    assert sent[-1] - sent[0] >= (len(sent) - 2 - jumps) * spacing, "at most one early call per jump"
    gaps = [later - earlier for earlier, later in itertools.pairwise(sent)]
    assert max(gaps) <= LONGEST_RETRY_DELAY + NO_SHOW_AFTER + spacing, "no caller is delayed"


# -- pages of an extract ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", JUMPS)
def test_pages_of_another_run_survive_a_jump(seconds: float, tmp_path: Path) -> None:
    """An extract that waits for a quota leaves its pages for a day. Other runs remove them after two days."""
    clock = FakeClock(1e9)
    waiting = PartialPages(tmp_path / "contacts.csv", Owner(work="waiting"), clock=clock)
    waiting.add(ListedPage(number=0, page=Page([{"id": "1"}], 1), fresh=[{"id": "1"}]))
    waiting.close()
    clock.now += seconds
    assert PartialPages(tmp_path / "contacts.csv", Owner(work="other"), clock=clock).sweep() == []
    clock.now = 1e9 + LONGEST_REST + 1
    assert len(PartialPages(tmp_path / "contacts.csv", Owner(work="other"), clock=clock).sweep()) == 1
