"""One try of a load: how it continues an earlier one, its plan, and its log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crm_provider import errors as e
from crm_provider.client.observers import RequestEvent
from crm_provider.load.job import LoadJob, LoadTry
from crm_provider.load.kinds import remote_contacts as plans
from crm_provider.load.planner import Plan, Sample
from crm_provider.load.preflight import check
from crm_provider.load.progress import EVERY, READING_STOPPED, REMOTE_EVERY
from crm_provider.load.report import LoadStopped, Summary
from crm_provider.load.rows import Outcome, SourceError
from crm_provider.load.state.checkpoint import FileCheckpoints
from crm_provider.rate_limit.schedule import MARGIN
from unit.fakes import FakeClock

from .test_job import DOWN, INVALID, LIST, REFUSED, Setting, outcomes, people

Make = Callable[..., Setting]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def make(tmp_path: Path, clock: FakeClock) -> Make:
    """Loads with calls of one second each, at 5 calls per second."""

    def made(rows: int, **options: Any) -> Setting:
        it = Setting(tmp_path, people(rows), **options)
        it.more["clock"] = clock
        it.crm.trouble = lambda call, email: _takes(clock, 1.0)
        return it

    return made


def _takes(clock: FakeClock, seconds: float) -> None:
    clock.now += seconds


def stopped(it: Setting, **changes: Any) -> Summary:
    with pytest.raises(LoadStopped) as end:
        it.run(**changes)
    return end.value.summary


# -- the summary --------------------------------------------------------------------------------------------


def test_summary_of_a_load(make: Make) -> None:
    it = make(4)
    load = it.load()
    it.crm.stats(RequestEvent(method="X", route="/x", status=429, seconds=0.1, waited=0, error_type="T", attempt=1))
    summary = load.run()
    assert (summary.rows, summary.calls, summary.throttled, summary.left) == (4, 5, 1, 0)
    assert summary.seconds == 4.0
    assert summary.budget_used == pytest.approx(5 / (5.0 * 4.0))
    assert (summary.plan, summary.plan_calls, summary.plan_why) == (
        "learned",
        8,
        "requested by plan; it may take fewer calls",
    )
    assert summary.plan_seconds == pytest.approx(8 / (5.0 * MARGIN))
    assert not summary.dry_run


@pytest.mark.parametrize(("seconds", "used"), [(0.0, 0.0), (0.0625, 1.0), (0.25, 0.8), (0.5, 0.4)])
def test_used_budget(make: Make, clock: FakeClock, seconds: float, used: float) -> None:
    it = make(2)
    it.crm.trouble = lambda call, email: _takes(clock, seconds)
    assert it.run().budget_used == pytest.approx(used)


def test_time_of_all_tries_counts_but_not_the_time_between(make: Make, clock: FakeClock) -> None:
    it = make(20)

    def trouble(call: str, email: str) -> e.CrmError | None:
        clock.now += 1.0
        return REFUSED if email == "p9@x.org" else None

    it.crm.trouble = trouble
    first = stopped(it)
    assert first.seconds == first.calls >= 9
    clock.now += 1000.0
    it.crm.trouble = lambda call, email: _takes(clock, 1.0)
    again = it.run()
    assert again.seconds == again.calls == first.calls + 20 - first[Outcome.CREATED]
    assert again.resumed_at == first[Outcome.CREATED]


@pytest.mark.parametrize(
    ("options", "there", "outcome", "saved"),
    [
        ({"mode": "create", "plan": "auto"}, 4, {"created": 6, "unchanged": 4}, 0),
        ({"mode": "update", "plan": "auto"}, 10, {"updated": 10}, 0),
        ({"plan": "compare"}, 10, {"updated": 5, "unchanged": 5}, 20 - 2 - 5),
        ({"plan": "compare"}, 4, {"created": 6, "unchanged": 4}, 6 + 2 * 4 - 2 - 6),
        ({"plan": "compare", "list_ids": (LIST,)}, 10, {"updated": 5, "unchanged": 5}, 20 + 10 - 2 - 5 - 5),
    ],
)
def test_calls_saved(make: Make, options: dict[str, Any], there: int, outcome: dict[str, int], saved: int) -> None:
    """Compared with creating each row, updating it on a conflict, and adding it to the lists."""
    it = make(10, **options)
    for number, row in enumerate(it.source.given[:there]):
        old = there == 10 and (number < 5 or options.get("mode") == "update")
        it.crm.add(row["email"], {"name": "old" if old else row["name"]}, segmentedListsIds=[LIST])
    summary = it.run()
    assert outcomes(summary) == outcome
    assert summary.calls_saved == saved


def test_call_that_ended_a_row_without_success_was_not_saved(make: Make) -> None:
    it = make(10, plan="compare")
    for row in it.source.given[1:]:
        it.crm.add(row["email"], {"name": row["name"]})
    it.crm.trouble = lambda call, email: INVALID if call == "create" else None
    summary = it.run()
    assert outcomes(summary) == {"unchanged": 9, "rejected": 1}
    assert summary.calls_saved == 2 * 9 + 1 - summary.calls


def test_no_plan_before_planning(make: Make) -> None:
    it = make(10, plan="compare")
    it.crm.trouble = lambda call, email: DOWN
    summary = stopped(it)
    assert (summary.plan, summary.plan_calls, summary.plan_why) == ("none", 0, "")


def test_dry_run_says_so_and_ignores_earlier_tries(make: Make) -> None:
    it = make(10)
    it.crm.trouble = lambda call, email: REFUSED if email == "p6@x.org" else None
    assert stopped(it)[Outcome.CREATED] > 0
    it.options["dry_run"] = True
    it.crm.trouble = lambda call, email: None
    summary = it.run()
    assert summary.dry_run
    assert (summary.resumed_at, summary.left, summary.plan_calls) == (0, 10, 20)


def run_of(it: Setting, **changes: Any) -> LoadTry:
    load: LoadJob = it.load(**changes)
    return LoadTry(load, check(load.source, load.mapper, load.options))


@pytest.mark.parametrize(
    ("planned", "made", "done", "left"), [(30, 10, 0, 20), (0, 0, 0, 5), (0, 0, 2, 3), (4, 9, 5, 0), (6, 9, 4, 1)]
)
def test_remaining_calls_of_the_plan(make: Make, planned: int, made: int, done: int, left: int) -> None:
    run = run_of(make(5))
    run.progress.plan_calls = planned
    for _ in range(made):
        run.job.stats(
            RequestEvent(method="X", route="/x", status=200, seconds=0.1, waited=0, error_type=None, attempt=1)
        )
    for number in range(1, done + 1):
        run.counts.enter(number, Outcome.CREATED)
    at = run.progress.position()
    assert (at.done, at.rows, at.calls, at.calls_left) == (done, 5, made, left)


# -- the plan -----------------------------------------------------------------------------------------------


def test_learning_starts_from_the_sample(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample weighs as much as its number of rows, so a few new rows do not outweigh it."""
    monkeypatch.setattr(plans, "choose", lambda **asked: (Plan("learned", 30, ""), Sample(20, 15, 0)))
    run = run_of(make(10))
    run._make_plan()
    assert isinstance(run.remote, plans.RemoteContacts)
    assert run.remote.order.share == 0.75
    for _ in range(5):
        run.remote.order.learn(existed=False)
    assert run.remote.order.share == 0.6


def test_lists_are_part_of_the_cost(make: Make) -> None:
    with_lists, without = make(10, list_ids=(LIST,), dry_run=True).run(), make(10, dry_run=True).run()
    assert (without.plan_calls, with_lists.plan_calls) == (20, 40)


def test_load_may_take_exactly_the_time_limit(make: Make) -> None:
    limit = 20 / (5.0 * MARGIN)
    with pytest.raises(SourceError, match="execution_timeout"):
        make(10).run(time_limit=limit - 1e-9)
    assert outcomes(make(10).run(time_limit=limit)) == {"created": 10}


@pytest.mark.parametrize(("again", "outcome"), [(False, {"suppressed": 1}), (True, {"updated": 1})])
def test_unsubscribed_contacts_are_added_to_lists_only_on_request(
    make: Make, again: bool, outcome: dict[str, int]
) -> None:
    it = make(1, list_ids=(LIST,), resubscribe=again)
    it.crm.add("p1@x.org", {"name": "old"}, status="unsubscribed")
    assert outcomes(it.run()) == outcome


# -- notes for the next try ---------------------------------------------------------------------------------


def test_only_a_try_stopped_while_reading_notes_it(make: Make) -> None:
    it = make(10, plan="compare")
    for row in it.source.given:
        it.crm.add(row["email"], {"name": "old"})

    def notes_of(failing: str) -> Any:
        it.epoch += 1
        pages = 0

        def trouble(call: str, email: str) -> e.CrmError | None:
            nonlocal pages
            pages += call == "page"
            return REFUSED if call == failing and (call != "page" or pages == 2) else None

        it.crm.trouble = trouble
        stopped(it)
        saved = FileCheckpoints(it.folder / "checkpoint").load()
        assert saved is not None
        return saved.notes

    assert notes_of("page")[READING_STOPPED] is True
    assert READING_STOPPED not in notes_of("update")


def test_rejects_of_an_earlier_run_are_replaced_and_those_of_an_earlier_try_are_kept(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    it = make(20)
    it.crm.trouble = lambda call, email: {"p1@x.org": INVALID, "p15@x.org": REFUSED}.get(email)
    stopped(it)
    it.crm.trouble = lambda call, email: None
    assert outcomes(it.run()) == {"created": 19, "rejected": 1}
    assert sorted(it.rejected()) == [1]
    assert "rejects file of an earlier run is replaced" not in caplog.text
    it.epoch = 1
    it.run()
    assert not it.rejected()
    assert "rejects file of an earlier run is replaced" in caplog.text


@pytest.mark.parametrize(
    ("rejects_are_local", "unsynced", "checkpoints_are_local", "often"),
    [
        (None, False, True, True),
        (None, False, False, False),
        (True, True, True, True),
        (True, True, False, False),
        (False, False, True, True),
        (False, True, True, False),
        (False, True, False, False),
    ],
)
def test_checkpoint_interval(
    make: Make, rejects_are_local: bool | None, unsynced: bool, checkpoints_are_local: bool, often: bool
) -> None:
    """Checkpoints are rare where each save waits for an object store."""
    rejects = None
    if rejects_are_local is not None:
        rejects = SimpleNamespace(is_local=rejects_are_local, has_unsynced=unsynced)
    kept = SimpleNamespace(is_local=checkpoints_are_local, load=lambda: None)
    run = run_of(make(1), rejects=rejects, checkpoints=kept)
    assert run.progress.save_interval() == (EVERY if often else REMOTE_EVERY)
