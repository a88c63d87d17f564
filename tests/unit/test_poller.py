"""One poll for all waiters: cost and time of a round, and the end of a wait. Time is fake, and nothing sleeps."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_provider import errors as e
from crm_provider.client.pagination import ListedPage, Page
from crm_provider.errors.catalog import CATALOGUE
from crm_provider.errors.on_error import Action, Work
from crm_provider.errors.policy import QUOTA_DELAY, ErrorPolicy
from crm_provider.waiting.backoff import LONGEST_BACK_OFF, WaitState
from crm_provider.waiting.conditions import Condition, ContactIs, DealInStage, ListExists, ListHasMembers, Lookup
from crm_provider.waiting.poller import LAST_CHECK, MAX_FAILURES, CachedLookup, Poller, Waiter, WaitResult

from .reference import OUTCOMES

pytestmark = pytest.mark.usefixtures("no_loop_logs")

START = 6_000_010.0
"""Ten seconds after a point of every grid used here."""

POLICY = ErrorPolicy(work=Work.SENSOR, operator="CrmListSensor")
DEAL = "dddddddd-aaaa-4aaa-8aaa-00000000000"
STAGE = "eeeeeeee-aaaa-4aaa-8aaa-000000000000"

ABSENT = e.CrmContactNotFoundError("Contact not found.", status=404)
BROKEN = e.CrmInternalServerError("broken", status=500)
THROTTLED = e.CrmTooManyRequestsError("Too many requests.", status=429)
REFUSED = e.CrmForbiddenError("no", status=403, request_id="req-7")


@dataclass
class Time:
    """Time that advances only by the poller's sleep or a slow call, up to ``until``.

    Every wait here uses an event. A busy loop would take the GIL from the thread that sets the event,
    5 ms each time: on a small machine such a test takes minutes.
    """

    now: float = START
    until: float = START
    waits: list[float] = field(default_factory=list)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        wake = self.now + seconds
        while wake > self.until:
            self.now = max(self.now, self.until)
            self.goes_on.clear()
            self.stopped.set()
            await self.goes_on.wait()
        self.now = wake
        await asyncio.sleep(0)

    def go_on(self, until: float) -> None:
        self.until = until
        self.stopped.clear()
        self.goes_on.set()


@dataclass
class FakeCrm:
    """A client with tables. ``trouble`` is raised by every call, and a call takes ``seconds``.

    :param calls: time and name of each call
    """

    time: Time
    lists: list[str] = field(default_factory=list)
    contacts: dict[str, Any] = field(default_factory=dict)
    trouble: e.CrmError | None = None
    seconds: float = 0.0
    calls: list[tuple[float, str]] = field(default_factory=list)
    fails_at: str | None = None
    on_call: Callable[[str], None] = lambda what: None

    def list_segmentation_lists(self) -> Iterator[dict[str, Any]]:
        for page in range(len(self.lists) // 10 + 1):
            self._call(f"page {page}")
            yield from ({"id": name, "name": name} for name in self.lists[page * 10 : page * 10 + 10])

    def list_pages(self, listing: str, *, at_once: int) -> Iterator[ListedPage]:
        """The contacts, ten on a page, each in its list in :attr:`contacts`."""
        assert not at_once, "no page is read ahead"
        held = list(self.contacts.items())
        for number in range(len(held) // 10 + 1):
            self._call(f"{listing} {number}")
            fresh = [{"id": who, "segmentedListsIds": [of]} for who, of in held[number * 10 : number * 10 + 10]]
            yield ListedPage(number=number, page=Page(fresh, len(held)), fresh=fresh)

    def get_contact(self, email: str) -> dict[str, Any]:
        self._call(email)
        found = self.contacts.get(email, ABSENT)
        if isinstance(found, Exception):
            raise found
        return {"id": email, "status": found}

    def get_deal(self, deal_id: str) -> dict[str, Any]:
        self._call(deal_id)
        return {"id": deal_id, "stageId": STAGE}

    def _call(self, what: str) -> None:
        self.calls.append((self.time.now, what))
        self.time.now += self.seconds
        self.on_call(what)
        if what == self.fails_at:
            raise BROKEN
        if self.trouble is not None:
            raise self.trouble

    def called(self) -> Counter[str]:
        return Counter(what for _, what in self.calls)

    def rounds(self) -> list[float]:
        """Seconds since :data:`START` at which calls started, without repetitions."""
        return sorted({at - START for at, _ in self.calls})


class Scene:
    """A poller over a fake CRM."""

    def __init__(self) -> None:
        self.time = Time()
        self.crm = FakeCrm(self.time)
        self.poller = Poller(
            self.connect, clock=self.time, sleep=self.time.sleep, jitter=lambda: self.jitter, offset=0.0
        )
        self.jitter = 0.75
        self.connects: Exception | None = None

    async def connect(self) -> Any:
        if self.connects is not None:
            raise self.connects
        return self.crm

    async def join(self, condition: Condition, *, interval: float = 60, **arguments: Any) -> asyncio.Task[WaitResult]:
        """Add a waiter."""
        waiting = WaitState(limit=arguments.pop("limit", 10))
        policy = arguments.pop("policy", POLICY)
        wait = self.poller.wait(condition, interval=interval, policy=policy, waiting=waiting, **arguments)
        task = asyncio.create_task(wait)
        await asyncio.sleep(0)
        return task

    async def run(self, seconds: float) -> None:
        """Advance the time to ``START + seconds``, or until nobody waits."""
        self.time.go_on(START + seconds)
        if self.poller._task is not None:
            stopped = asyncio.create_task(self.time.stopped.wait())
            await asyncio.wait({stopped, self.poller._task}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
        for _ in range(5):  # the waiters react to their results
            await asyncio.sleep(0)


GUARD = 300.0
"""Seconds until a hanging test fails; no passing test takes one second."""


def played(play: Callable[[Scene], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Turn a coroutine into a test. It must leave no task and no busy thread."""

    def test() -> None:
        async def whole() -> None:
            await asyncio.wait_for(play(Scene()), GUARD)
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run(whole())

    test.__name__, test.__doc__ = play.__name__, play.__doc__
    return test


def named(name: str) -> ListExists:
    return ListExists(list_name=name)


def person(name: str, **arguments: Any) -> ContactIs:
    return ContactIs(email=f"{name}@x.io", **arguments)


LIST_IDS = [f"ffffffff-aaaa-4aaa-8aaa-0000000000{n:02}" for n in range(25)]


def deal(number: int) -> DealInStage:
    return DealInStage(deal_id=f"{DEAL}{number}", stage_ids=(f"{DEAL}9",))


# -- cost of a round ----------------------------------------------------------------------------------------


@played
async def test_list_waiters_of_any_number_cost_one_sweep_per_round(scene: Scene) -> None:
    scene.crm.lists = [f"list {n}" for n in range(25)]
    for number in range(200):
        await scene.join(named(f"absent {number}"))
    await scene.run(3 * 60)
    assert scene.crm.called() == {"page 0": 3, "page 1": 3, "page 2": 3}


@played
async def test_each_contact_and_deal_is_read_once_per_round(scene: Scene) -> None:
    scene.crm.contacts = {"ann@x.io": "active", "ill@x.io": BROKEN}
    for _ in range(50):
        await scene.join(person("ann", status="gone"))
        await scene.join(person("new"))  # not found: also a response
        await scene.join(person("ill"))  # fails, and is checked at growing intervals
        await scene.join(deal(1))
        await scene.join(deal(2))
    await scene.run(3 * 60)
    assert scene.crm.called() == {"ann@x.io": 3, "new@x.io": 3, "ill@x.io": 2, f"{DEAL}1": 3, f"{DEAL}2": 3}


@played
async def test_lists_awaited_by_id_are_read_up_to_the_last_of_them(scene: Scene) -> None:
    scene.crm.lists = LIST_IDS
    tasks = [await scene.join(ListExists(list_id=LIST_IDS[n])) for n in (3, 12, 14)]
    await scene.run(60)
    assert [(await task).result for task in tasks] == [{"id": LIST_IDS[n], "name": LIST_IDS[n]} for n in (3, 12, 14)]
    assert scene.crm.called() == {"page 0": 1, "page 1": 1}


@played
async def test_all_pages_are_read_by_name(scene: Scene) -> None:
    """Two lists with one name are an error, and the second may be on the last page."""
    scene.crm.lists = ["VIP", *LIST_IDS]
    task = await scene.join(named("VIP"))
    await scene.run(60)
    assert (await task).result == {"id": "VIP", "name": "VIP"}
    assert scene.crm.called() == {"page 0": 1, "page 1": 1, "page 2": 1}


@played
async def test_member_counts_share_one_sweep_that_ends_when_all_are_known(scene: Scene) -> None:
    scene.crm.contacts = {f"{n}@x.io": LIST_IDS[n // 10] for n in range(50)}  # ten members each, page by page
    one, many, all_ = [
        await scene.join(ListHasMembers(list_id=LIST_IDS[of], min_members=least))
        for of, least in ((0, 1), (1, 10), (0, 10))
    ]
    late = await scene.join(ListHasMembers(list_id=LIST_IDS[2], min_members=51))
    await scene.run(60)
    assert [(await task).result for task in (one, many, all_)] == [
        {"id": LIST_IDS[0], "members": 10}, {"id": LIST_IDS[1], "members": 10}, {"id": LIST_IDS[0], "members": 10},
    ]  # fmt: skip
    assert scene.crm.called() == {"contacts 0": 1, "contacts 1": 1}, "51 of 50 contacts is known on the first page"
    assert not late.done()


@played
async def test_failed_sweep_is_a_result_for_waiters_it_has_found(scene: Scene) -> None:
    scene.crm.contacts = {f"{n}@x.io": LIST_IDS[n // 10] for n in range(50)}
    early, late = [await scene.join(ListHasMembers(list_id=LIST_IDS[of], min_members=9)) for of in (0, 3)]
    scene.crm.fails_at = "contacts 1"
    await scene.run(60)
    assert (await early).result == {"id": LIST_IDS[0], "members": 10}
    assert not late.done()
    assert scene.crm.called() == {"contacts 0": 1, "contacts 1": 1}


@played
async def test_sweep_ends_with_the_last_waiter(scene: Scene) -> None:
    scene.crm.contacts = {f"{n}@x.io": LIST_IDS[9] for n in range(50)}
    task = await scene.join(ListHasMembers(list_id=LIST_IDS[0], min_members=1))
    loop = asyncio.get_running_loop()
    left = asyncio.Event()

    def leave() -> None:
        task.cancel()
        loop.call_soon(loop.call_soon, left.set)

    def on_call(what: str) -> None:
        if what == "contacts 1":
            loop.call_soon_threadsafe(leave)
            asyncio.run_coroutine_threadsafe(left.wait(), loop).result(GUARD)

    scene.crm.on_call = on_call
    await scene.run(60)
    await asyncio.to_thread(lambda: None)
    await loop.shutdown_default_executor()
    assert scene.crm.called() == {"contacts 0": 1, "contacts 1": 1}


# -- time of a round ----------------------------------------------------------------------------------------


@played
async def test_rounds_of_one_interval_coincide(scene: Scene) -> None:
    for moment in (0, 7, 31, 49):
        await scene.run(moment)
        await scene.join(named(f"from {moment}"))
    await scene.run(3 * 60)
    assert scene.crm.rounds() == [50, 110, 170], "on the grid: whole minutes of the clock"
    assert scene.crm.called() == {"page 0": 3}


@played
async def test_each_interval_is_kept(scene: Scene) -> None:
    await scene.join(person("each-20"), interval=20)
    await scene.join(person("each-60"), interval=60)
    await scene.run(130)
    assert [at - START for at, who in scene.crm.calls if who == "each-20@x.io"] == [10, 30, 50, 70, 90, 110, 130]
    assert [at - START for at, who in scene.crm.calls if who == "each-60@x.io"] == [50, 110]


@played
async def test_new_waiter_does_not_wait_for_a_long_interval(scene: Scene) -> None:
    await scene.join(person("patient"), interval=3600)
    await scene.run(100)
    await scene.join(person("new"), interval=10)
    await scene.run(121)
    assert [at - START for at, _ in scene.crm.calls] == [110, 120]


@played
async def test_zero_interval_is_one_second(scene: Scene) -> None:
    await scene.join(person("hasty"), interval=0.001)
    await scene.run(10)
    assert len(scene.crm.calls) == 10


@played
async def test_round_longer_than_the_interval_stays_one_round(scene: Scene) -> None:
    """The next round includes all waiters too. Otherwise each list waiter would soon cost a sweep."""
    scene.crm.seconds = 30
    scene.crm.contacts = {"slow-0@x.io": "active", "slow-1@x.io": "active"}
    for number in range(3):
        await scene.join(person(f"slow-{number}", status="gone"))
        await scene.join(named(f"list {number}"))
    await scene.run(600)
    calls = scene.crm.called()
    rounds = calls["page 0"]
    assert rounds == 5, "one after the other: 120 s each"
    assert calls == {"page 0": rounds, **{f"slow-{n}@x.io": rounds for n in range(3)}}


@pytest.mark.parametrize("offset", [0.0, 7.5, 59.9])
def test_two_triggerers_start_their_rounds_at_different_times(offset: float) -> None:
    """Each keeps the interval, and all intervals of one triggerer still coincide."""

    async def play(scene: Scene) -> None:
        scene.poller._offset = offset
        await scene.join(person("each-20"), interval=20)
        await scene.join(person("each-60"), interval=60)
        await scene.run(200)
        often, rarely = ([at for at, who in scene.crm.calls if who == f"each-{n}@x.io"] for n in (20, 60))
        assert [(at - offset) % 20 for at in often] == pytest.approx([0.0] * len(often), abs=1e-3)
        assert often[0] - START <= 20
        assert set(rarely) < set(often)
        assert len(rarely) == 3

    played(play)()


@given(st.floats(1e9, 1e10), st.floats(1.0, 1e5), st.floats(0.0, 60.0))
def test_next_check_is_later_by_at_most_one_interval(now: float, interval: float, offset: float) -> None:
    async def connect() -> Any: ...

    due = Poller(connect, offset=offset)._grid(now, interval)
    assert now < due <= now + interval * (1 + 1e-5)


# -- the deadline -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "deadline", "looks"),
    [
        (60, 100, [50, 110]),  # a round that starts anyway
        (60, 130, [50, 110, 140]),  # half a minute later: not a whole interval
        (3600, 100, [110]),
        (10, 34, [10, 20, 30, 40]),
        (60, 50, [50]),  # a round that starts at the deadline is the last
        (60, -5, [20]),  # a slow hand-over
    ],
)
def test_last_check_follows_the_deadline(interval: int, deadline: int, looks: list[int]) -> None:
    async def play(scene: Scene) -> None:
        task = await scene.join(person("one"), interval=interval, deadline=START + deadline)
        await scene.run(looks[-1] - 1)
        assert not task.done()
        await scene.run(looks[-1] + 100)
        assert await task == WaitResult()
        assert scene.crm.rounds() == looks
        assert looks[-1] - deadline <= min(interval, LAST_CHECK) + 50 * (deadline < 0)

    played(play)()


@pytest.mark.parametrize(
    "trouble", [e.CrmLimitExceededError("x"), e.CrmTooManyRequestsError("x", retry_after=500)], ids=["quota", "delay"]
)
def test_no_last_check_before_the_time_requested_by_the_server(trouble: e.CrmError) -> None:
    async def play(scene: Scene) -> None:
        scene.crm.trouble = trouble
        task = await scene.join(person("one"), deadline=START + 130)
        await scene.run(139)
        assert not task.done()
        await scene.run(140)
        assert await task == WaitResult()
        assert scene.crm.rounds() == [50]

    played(play)()


@played
async def test_error_of_the_last_check_is_decided_as_usual(scene: Scene) -> None:
    refused, broken = (
        await scene.join(person("one"), deadline=START + 130),
        await scene.join(person("two"), deadline=START + 130),
    )
    await scene.run(120)
    scene.crm.contacts = {"one@x.io": e.CrmInvalidInputError("no", status=422), "two@x.io": BROKEN}
    await scene.run(140)
    assert type((await refused).error) is e.CrmInvalidInputError
    assert await broken == WaitResult(), "one server error is tolerated, and then the time is over"


# -- waiters that leave ---------------------------------------------------------------------------------------------


@played
async def test_cancelled_waiter_leaves_and_the_last_one_ends_the_loop(scene: Scene) -> None:
    first, second = await scene.join(person("one")), await scene.join(person("two"))
    await scene.run(50)
    first.cancel()
    await scene.run(110)
    assert scene.crm.called() == {"one@x.io": 1, "two@x.io": 2}
    second.cancel()
    await scene.run(600)
    assert scene.crm.called() == {"one@x.io": 1, "two@x.io": 2}
    assert scene.poller._task is None
    assert not scene.poller._waiters


@played
async def test_waiter_cancelled_during_a_round_is_not_checked(scene: Scene) -> None:
    """Marking many tasks as failed ends a long round early."""
    loop, entered, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    ask = scene.crm.get_contact

    def slow(email: str) -> dict[str, Any]:
        loop.call_soon_threadsafe(entered.set)
        go_on.wait(GUARD)
        return ask(email)

    scene.crm.get_contact = slow  # type: ignore[method-assign]
    tasks = [await scene.join(person(f"p{n}")) for n in range(100)]
    scene.time.go_on(START + 60)
    await entered.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    go_on.set()
    await loop.shutdown_default_executor()  # waits until the thread has ended
    assert len(scene.crm.calls) == 1


# -- errors -------------------------------------------------------------------------------------------------


@played
async def test_refused_key_ends_all_waits_after_one_call(scene: Scene) -> None:
    scene.crm.trouble = REFUSED
    tasks = [
        await scene.join(condition) for n in range(30) for condition in (named(f"l{n}"), person(f"p{n}"), deal(n % 10))
    ]
    await scene.run(60)
    endings = await asyncio.gather(*tasks)
    assert len(scene.crm.calls) == 1
    assert {(type(end.error), end.decision and end.decision.action) for end in endings} == {
        (e.CrmForbiddenError, Action.FAIL)
    }
    assert {end.error.request_id for end in endings if end.error} == {"req-7"}


@played
async def test_missing_connection_ends_all_waits_without_a_call(scene: Scene) -> None:
    scene.connects = e.CrmConfigurationError("Airflow has no connection 'crm'")
    tasks = [await scene.join(person(f"p{n}")) for n in range(3)]
    await scene.run(60)
    assert {type(end.error) for end in await asyncio.gather(*tasks)} == {e.CrmConfigurationError}
    assert not scene.crm.calls


@played
async def test_throttled_call_ends_the_round_for_all(scene: Scene) -> None:
    scene.crm.trouble = THROTTLED
    tasks = [await scene.join(person(f"p{n}"), limit=1) for n in range(20)]
    await scene.run(20 * 60)
    assert scene.crm.rounds() == [50, 110, 230, 470, 770, 1070], "at growing intervals, up to 5 minutes"
    assert len(scene.crm.calls) == 6, "one call per round"
    assert not any(task.done() for task in tasks), "throttling alone never ends a wait"


@pytest.mark.parametrize(
    ("error", "rounds"),
    [
        (e.CrmTooManyRequestsError("x", retry_after=200), [50, 290]),
        (e.CrmServiceUnavailableError("x", retry_after=100), [50, 170, 290]),
        (e.CrmTooManyRequestsError("x", retry_after=1), [50, 110, 170, 230, 290]),
        (e.CrmLimitExceededError("x"), [50, 50 + QUOTA_DELAY + 60]),
    ],
    ids=["longer", "of a server error", "shorter than the interval", "quota"],
)
def test_retry_after_postpones_the_next_round(error: e.CrmError, rounds: list[float]) -> None:
    async def play(scene: Scene) -> None:
        scene.crm.trouble = error
        await scene.join(person("one"))
        await scene.run(rounds[-1] + 59)
        assert scene.crm.rounds() == rounds

    played(play)()


@played
async def test_server_errors_end_the_wait_after_too_many_in_a_row(scene: Scene) -> None:
    scene.crm.trouble = BROKEN
    task = await scene.join(person("one"), limit=3)
    await scene.run(469)
    assert not task.done()
    await scene.run(470)
    ending = await task
    assert (type(ending.error), ending.decision and ending.decision.action) == (e.CrmInternalServerError, Action.RETRY)
    assert len(scene.crm.calls) == 4


@played
async def test_outage_costs_few_calls_and_counts_for_all_waiters(scene: Scene) -> None:
    scene.crm.trouble = BROKEN
    tasks = [await scene.join(condition, limit=2) for n in range(20) for condition in (person(f"p{n}"), named(f"l{n}"))]
    await scene.run(4 * 60)
    assert len(scene.crm.calls) <= 3 * MAX_FAILURES
    assert {(end.decision and end.decision.action) for end in await asyncio.gather(*tasks)} == {Action.RETRY}


@played
async def test_outage_costs_no_extra_round_when_others_join(scene: Scene) -> None:
    """A new waiter has no errors yet, and shares its rounds with waiters that have some."""
    scene.crm.trouble = THROTTLED
    for number in range(40):
        await scene.join(person(f"p{number}"))
        await scene.run((number + 1) * 30)
    assert scene.crm.rounds() == [50, 110, 230, 470, 770, 1070]
    scene.crm.trouble = None
    await scene.run(1370 + 120)
    assert scene.crm.rounds()[6:] == [1370, 1430, 1490], "a response, and everything is normal again"
    assert len(scene.crm.calls) == 6 + 3 * 40


@pytest.mark.parametrize("jitter", [0.0, 0.99])
def test_jitter_spreads_the_checks_after_an_outage(jitter: float) -> None:
    async def play(scene: Scene) -> None:
        scene.jitter, scene.crm.trouble = jitter, BROKEN
        await scene.join(person("one"), interval=10, limit=100)
        await scene.run(1600)
        gaps = [later - earlier for earlier, later in itertools.pairwise(scene.crm.rounds())]
        assert min(gaps) >= 10
        assert max(gaps) <= LONGEST_BACK_OFF + 10
        assert gaps[-1] == (160 if jitter == 0.0 else 300)

    played(play)()


@played
async def test_records_that_always_fail_do_not_end_the_waits_for_others(scene: Scene) -> None:
    """They join first, and there are enough of them to end a round."""
    ill = [await scene.join(person(f"ill-{n}"), limit=50) for n in range(MAX_FAILURES)]
    scene.crm.contacts = {f"ill-{n}@x.io": BROKEN for n in range(MAX_FAILURES)}
    well = [await scene.join(person(f"p{n}"), limit=3) for n in range(20)]
    await scene.run(40 * 60)
    assert not any(task.done() for task in [*ill, *well])
    scene.crm.contacts |= {f"p{n}@x.io": "active" for n in range(20)}
    await scene.run(50 * 60)
    assert all(task.done() and task.result().result for task in well)


ENDS = [type_ for type_, (_, sensor, _) in OUTCOMES.items() if sensor != "wait"]


@pytest.mark.parametrize("type_", CATALOGUE)
@pytest.mark.parametrize("interval", [1, 10, 60])
def test_no_response_causes_a_hot_loop(type_: str, interval: int) -> None:
    """Three minutes of the same error, with many waiters."""

    async def play(scene: Scene) -> None:
        scene.crm.trouble = CATALOGUE[type_].error("trouble")
        policy = ErrorPolicy(work=Work.SENSOR)
        for number in range(10):
            await scene.join(person(f"p{number}"), interval=interval, limit=10_000, policy=policy)
        await scene.run(180)
        rounds = 180 // interval
        each_round = 1 if issubclass(CATALOGUE[type_].error, e.CrmThrottledError) else MAX_FAILURES
        most = (
            10
            if type_ in ENDS
            else rounds * (10 if issubclass(CATALOGUE[type_].error, e.CrmNotFoundError) else each_round)
        )
        assert 0 < len(scene.crm.calls) <= most
        assert len(scene.time.waits) <= 180 + 2 * rounds
        assert max(scene.time.waits) <= 1.0
        assert (scene.poller._task is None) == (type_ in ENDS)

    played(play)()


# -- bugs ---------------------------------------------------------------------------------------------------


class Buggy(ContactIs):
    """A condition that breaks."""

    def check(self, lookup: Lookup) -> Mapping[str, Any] | None:  # type: ignore[override]
        raise TypeError("a bug")


@played
async def test_bug_in_a_condition_ends_only_its_own_wait(scene: Scene) -> None:
    bug, other = await scene.join(Buggy(email="a@x.io")), await scene.join(person("one"))
    await scene.run(120)
    with pytest.raises(TypeError, match="a bug"):
        await bug
    assert not other.done()
    assert scene.crm.called() == {"one@x.io": 2}


@played
async def test_result_is_kept_when_a_later_check_fails(scene: Scene) -> None:
    ended: asyncio.Future[WaitResult] = asyncio.get_running_loop().create_future()
    waiter = Waiter(
        condition=person("one"), interval=60.0, policy=POLICY, waiting=WaitState(), deadline=START, ended=ended
    )
    Poller._end(waiter, WaitResult(result={"id": "one"}))
    Poller._fail(waiter, TypeError("a bug"))
    Poller._end(waiter, WaitResult())
    assert (await ended).result == {"id": "one"}


@played
async def test_bug_in_the_loop_ends_all_waits(scene: Scene) -> None:
    scene.connects = RuntimeError("a bug")
    tasks = [await scene.join(person(f"p{n}"), interval=60 * (n + 1)) for n in range(3)]
    await scene.run(60)
    for task in tasks:
        with pytest.raises(RuntimeError, match="a bug"):
            await task
    scene.connects = None
    late = await scene.join(person("late"))
    await scene.run(200)
    assert not late.done()
    assert scene.crm.called() == {"late@x.io": 2}


# -- a single round -----------------------------------------------------------------------------------------


def test_cached_error_does_not_grow_with_the_number_of_waiters() -> None:
    crm = FakeCrm(Time(), trouble=BROKEN)
    lookup = CachedLookup(crm)  # type: ignore[arg-type]
    for look in (lambda: lookup.contact("a@x.io"), lambda: list(lookup.lists()), lambda: lookup.deal(f"{DEAL}1")):
        for _ in range(100):
            with pytest.raises(e.CrmInternalServerError):
                look()
    assert depth_of(BROKEN) < 10
    assert len(crm.calls) == MAX_FAILURES


def depth_of(error: BaseException) -> int:
    trace, depth = error.__traceback__, 0
    while trace is not None:
        trace, depth = trace.tb_next, depth + 1
    return depth


@pytest.mark.parametrize("response", ["active", ABSENT], ids=["found", "not found"])
def test_failures_are_consecutive_only_without_a_response_between(response: Any) -> None:
    crm = FakeCrm(
        Time(), contacts={f"ill-{n}@x.io": BROKEN for n in range(10)} | {f"p{n}@x.io": response for n in range(10)}
    )
    lookup = CachedLookup(crm)  # type: ignore[arg-type]
    for number in range(10):
        for name in (f"ill-{number}@x.io", f"p{number}@x.io"):
            with contextlib.suppress(e.CrmInternalServerError, e.CrmContactNotFoundError):
                lookup.contact(name)
    assert len(crm.calls) == 20


def test_failed_page_keeps_what_was_read_before() -> None:
    crm = FakeCrm(Time(), lists=LIST_IDS)
    lookup = CachedLookup(crm)  # type: ignore[arg-type]
    ListExists(list_id=LIST_IDS[9]).check(lookup)
    crm.trouble = BROKEN
    for _ in range(2):
        with pytest.raises(e.CrmInternalServerError):
            ListExists(list_id=LIST_IDS[10]).check(lookup)
        with pytest.raises(e.CrmInternalServerError):
            named(LIST_IDS[0]).check(lookup)  # another list may have this name
        assert ListExists(list_id=LIST_IDS[0]).check(lookup)["id"] == LIST_IDS[0]
    assert crm.called() == {"page 0": 1, "page 1": 1}
    assert lookup.failure is None, "there was a response"


@pytest.mark.parametrize(
    ("trouble", "failed"), [(BROKEN, True), (THROTTLED, True), (ABSENT, False), (REFUSED, False), (None, False)]
)
def test_round_without_a_response_has_failed(trouble: e.CrmError | None, failed: bool) -> None:
    lookup = CachedLookup(FakeCrm(Time(), trouble=trouble))  # type: ignore[arg-type]
    with contextlib.suppress(e.CrmError):
        lookup.contact("a@x.io")
    assert (lookup.failure is not None) == failed


# -- context ------------------------------------------------------------------------------------------------

OF_A_TRIGGER: contextvars.ContextVar[str] = contextvars.ContextVar("of_a_trigger", default="of none")


@played
async def test_poll_runs_in_an_empty_context(scene: Scene) -> None:
    """Otherwise a triggerer writes the logs of thousands of tasks to the task log of the first waiter."""
    seen = []

    async def connect() -> Any:
        seen.append(OF_A_TRIGGER.get())
        return scene.crm

    scene.poller._connect = connect
    OF_A_TRIGGER.set("of the first")
    await scene.join(person("one"))
    await scene.run(60)
    assert seen == ["of none"]
