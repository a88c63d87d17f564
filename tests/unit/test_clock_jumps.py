"""Clocks that jump, as after a correction by NTP: waiting and pacing go by a clock that nobody sets.

Where times must be compared between processes or hosts, the wall clock is used, and only there: the first test holds
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
    """Sets the wall clock, by so many seconds from where it is."""
    true, off = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: true() + off[0])
    return lambda seconds: off.append(off.pop() + seconds)


# -- who looks at the wall clock ----------------------------------------------------------------------------

WALL_CLOCK = {
    "extract/extractor.py": "a default, for the age of parts",
    "extract/reader.py": "a default, for the age of parts",
    "transfers/crm_to_sql.py": "the time of a run that has none",
    "extract/partial_pages.py": "the age of pages that others have left behind, in days",
    "load/outcomes/file.py": "the time of a row, for people and joins",
    "tasks/outcome.py": "the date of a reschedule, which Airflow's scheduler compares with its own clock",
    "rate_limit/leases.py": "a default, for slots of several hosts until a response has shown the CRM's clock",
    "rate_limit/host_file.py": "the age of files of budgets that nobody uses; of those in use it is none",
    "client/responses.py": "a Retry-After as a date, if the answer has no date of its own",
    "client/transport.py": "the age of a record, to hours, if the CRM does not show its clock",
    "sandbox/settings.py": "dates that the sandbox shows",
    "sensors/base.py": "a deadline that another host goes on with, and the date of a reschedule",
    "testing/dag_runs.py": "a test's own time, for Airflow",
    "observability/tracing.py": "spans are at a date",
    "ui/app.py": "how long ago, for people",
    "waiting/backoff.py": "from one clock to the other",
}


def test_who_looks_at_the_wall_clock_is_known() -> None:
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


def test_there_and_back(jump: Jump) -> None:
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
def test_a_sensor_that_pokes_looks_again(seconds: float, jump: Jump, monkeypatch: pytest.MonkeyPatch) -> None:
    sensor, context = Patient(task_id="wait", list_name="late"), {}
    assert sensor.poke(context) is False  # type: ignore[arg-type]
    jump(seconds)
    assert sensor.poke(context) is False  # type: ignore[arg-type]
    # the sensor's clock alone: the loop of a sandbox that runs meanwhile would go by another one, and oversleep
    monkeypatch.setattr(base, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 30))
    found = sensor.poke(context)  # type: ignore[arg-type]
    assert found.xcom_value == {"id": "1"}  # type: ignore[union-attr]


@pytest.mark.parametrize("seconds", JUMPS)
def test_what_goes_to_the_triggerer_is_a_time_of_day(seconds: float, jump: Jump) -> None:
    """The other process has a monotonic clock of its own, but the same time of day."""
    jump(seconds)
    waiting = WaitState(not_before=time.monotonic() + 30)
    assert to_wall(waiting.not_before) == pytest.approx(time.time() + 30, abs=20)


# -- pacing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_the_rate_budget_neither_stops_nor_bursts(seed: int, tmp_path: Path) -> None:
    """The monotonic clock starts again with each boot (the file may outlive it); that of Redis is a wall clock."""
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
    assert sent[-1] - sent[0] >= (len(sent) - 2 - jumps) * spacing, "at most one call too early for each jump"
    gaps = [later - earlier for earlier, later in itertools.pairwise(sent)]
    assert max(gaps) <= LONGEST_RETRY_DELAY + NO_SHOW_AFTER + spacing, "nobody is held up"


# -- pages of an extract ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", JUMPS)
def test_pages_of_another_run_survive_a_jump(seconds: float, tmp_path: Path) -> None:
    """An extract that waits for a used-up quota leaves its pages for a day; others remove them after two."""
    clock = FakeClock(1e9)
    waiting = PartialPages(tmp_path / "contacts.csv", Owner(work="waiting"), clock=clock)
    waiting.add(ListedPage(number=0, page=Page([{"id": "1"}], 1), fresh=[{"id": "1"}]))
    waiting.close()
    clock.now += seconds
    assert PartialPages(tmp_path / "contacts.csv", Owner(work="other"), clock=clock).sweep() == []
    clock.now = 1e9 + LONGEST_REST + 1
    assert len(PartialPages(tmp_path / "contacts.csv", Owner(work="other"), clock=clock).sweep()) == 1
