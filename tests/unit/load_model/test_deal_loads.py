"""Deal loads into one CRM: each row has one outcome, the CRM agrees, and no row creates two deals."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from . import engine
from .fake_crm import FAULTS, Clock, FakeCrm, Http
from .scenario import Fault, Person
from .test_deal_model import FUZZ, PIPELINES, STAGES

STAGE_IDS = (*STAGES, "bbbbbbbb-0000-4000-8000-000000000003")
UNKNOWN_STAGE = "bbbbbbbb-0000-4000-8000-00000000dead"
PEOPLE = tuple(f"p{number}@x.org" for number in range(6))
BY_ID = {"deal_id": "deal", "stage_id": "stage", "pb_name": "name"}
MOVE = {"deal_id": "deal", "stage_id": "stage"}
BY_CONTACT = {"contact_email": "mail", "pipeline_id": "pipeline", "stage_id": "stage", "pb_name": "name"}
MAPPINGS = {"move": MOVE, "update": BY_ID, "create": BY_CONTACT, "upsert": BY_CONTACT}
KILL = "kill"
TRIES = 40


@dataclass(frozen=True)
class There:
    """An existing deal: the indexes of its contact and its stage, and its name."""

    person: int
    stage: int
    name: str = "Old"


@dataclass(frozen=True)
class Wish:
    """A row: the index of a contact (its deal, where the mode asks for an id), a stage, and a name.

    :param person: -1 for a person who is not in the CRM
    """

    person: int
    stage: str
    name: str | None = "New"


@dataclass(frozen=True)
class Story:
    """A load of deals.

    :param guarded: whether deals may leave only the first stage
    :param faults: faults of calls, including ``kill``
    :param fillers: deals of other contacts, so that the listing has several pages
    """

    mode: str
    there: tuple[There, ...]
    wishes: tuple[Wish, ...]
    plan: str = "auto"
    guarded: bool = False
    faults: tuple[Fault, ...] = ()
    fillers: int = 0
    several: bool = False
    dates: str = "both"


@dataclass
class Replay:
    """The results."""

    story: Story
    before: dict[str, dict[str, Any]]
    after: dict[str, dict[str, Any]]
    outcomes: dict[int, str]
    rejects: dict[int, dict[str, Any]]
    last: engine.Ended
    calls: int
    tries: int
    people: dict[int, str]
    deals: dict[int, str]
    writes: list[Any] = field(default_factory=list)


def rows_of(story: Story, deals: dict[int, str]) -> tuple[dict[str, Any], ...]:
    return tuple(
        {
            "deal": deals.get(wish.person, f"dddddddd-0000-4000-8000-{wish.person + 2:012}"),
            "stage": wish.stage, "name": wish.name,
            "mail": PEOPLE[wish.person] if wish.person >= 0 else "nobody@x.org", "pipeline": PIPELINES[0],
        }
        for wish in story.wishes
    )  # fmt: skip


def play(story: Story, folder: Path) -> Replay:
    clock = Clock()
    crm = FakeCrm(clock, several_deals=story.several, dates=story.dates)
    crm.unknown_stages = frozenset({UNKNOWN_STAGE})
    for email in PEOPLE:
        crm.seed(Person(email))
    people = {place: crm.contacts[email].id for place, email in enumerate(PEOPLE)}
    deals = {}
    for there in story.there:
        made = crm.add_deal(
            age=timedelta(days=40), contactId=people[there.person], pipelineId=PIPELINES[0],
            stageId=STAGE_IDS[there.stage], attributes={"pb_name": there.name},
        )  # fmt: skip
        deals[there.person] = made["id"]
    for _ in range(story.fillers):
        crm.add_deal(contactId="cccccccc-0000-4000-8000-000000000001", pipelineId=PIPELINES[1], stageId=STAGE_IDS[0])
    spec = engine.DealSpec(
        rows_of(story, deals), MAPPINGS[story.mode], story.mode, story.plan, STAGE_IDS[:1] if story.guarded else ()
    )
    files, saved = engine.Files(folder / "checkpoint", folder / "rejects.jsonl"), folder / "saved"
    before, calls, outcomes, last = deepcopy(crm.deals), 0, {}, None

    def serve(method: str, path: str, query: Any, body: Any) -> Http:
        nonlocal calls
        number, calls = calls, calls + 1
        fault = next((f.kind for f in story.faults if f.at <= number < f.at + f.count), None)
        if fault != KILL:
            return crm.response(method, path, query, body, fault)
        crm.response(method, path, query, body, None)  # the CRM has processed it, and nobody is notified
        keep(folder, saved)
        raise engine.Killed

    attempt = 0
    while (last is None or last.how != "done") and attempt < TRIES:
        attempt += 1
        heard: dict[int, str] = {}
        try:
            last = engine.attempt_deals(spec, files, crm, serve, on_outcome=heard.__setitem__)
        except engine.Killed:
            restore(folder, saved)
            continue
        finally:
            clock.advance(60)
        outcomes |= heard
    assert last is not None and last.how == "done", f"it never ends: {last}"
    return Replay(
        story, {deal["id"]: deal for deal in before}, {deal["id"]: deal for deal in crm.deals},
        outcomes_of(last, outcomes), engine.rejects_of(files.rejects), last, calls, attempt, people, deals,
        [event for event in crm.log if event.what in ("deal", "put deal")],
    )  # fmt: skip


def outcomes_of(last: engine.Ended, heard: dict[int, str]) -> dict[int, str]:
    """Rows that a killed try completed are counted, but their outcomes were not reported."""
    missing = Counter(last.counts) - Counter(heard.values())
    assert sum(missing.values()) + len(heard) == last.rows, f"a row has no outcome or two outcomes: {last} {heard}"
    return heard


def keep(folder: Path, saved: Path) -> None:
    shutil.rmtree(saved, ignore_errors=True)
    shutil.copytree(folder, saved, ignore=shutil.ignore_patterns("saved"))


def restore(folder: Path, saved: Path) -> None:
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
    for path in saved.iterdir():
        shutil.copy2(path, folder / path.name)


def of_contact(deals: dict[str, dict[str, Any]], contact: str) -> list[dict[str, Any]]:
    return [deal for deal in deals.values() if deal["contactId"] == contact and deal["pipelineId"] == PIPELINES[0]]


def shows(deal: dict[str, Any], story: Story, wish: Wish) -> bool:
    named = story.mode == "move" or wish.name is None or deal["attributes"].get("pb_name") == wish.name
    return deal["stageId"] == wish.stage and named


def sent(story: Story) -> dict[int, Wish]:
    """The rows that are sent: the last of several for one deal."""
    last = {
        (wish.person if wish.person >= 0 else f"unknown {wish.person}"): number
        for number, wish in enumerate(story.wishes, 1)
    }
    return {number: story.wishes[number - 1] for number in last.values()}


def expected(story: Story) -> dict[int, str]:
    """The result of each row without faults; one rule per mode."""
    there = {deal.person: deal for deal in story.there}
    found = dict.fromkeys(range(1, len(story.wishes) + 1), "skipped")
    for number, wish in sent(story).items():
        deal = there.get(wish.person)
        if story.mode == "create" or (story.mode == "upsert" and deal is None):
            found[number] = "created"
            if wish.person < 0:
                found[number] = "rejected"
            elif deal is not None and not (story.several and story.plan != "compare"):
                found[number] = "unchanged"
            elif wish.stage == UNKNOWN_STAGE:
                found[number] = "rejected"
            continue
        if deal is None:
            found[number] = "rejected"
            continue
        same_name = story.mode == "move" or wish.name in (None, deal.name)
        is_same = STAGE_IDS[deal.stage] == wish.stage and same_name
        free = not story.guarded or deal.stage == 0 or STAGE_IDS[deal.stage] == wish.stage
        reads = story.plan == "compare" or story.mode == "upsert" or story.guarded
        if is_same:
            found[number] = "unchanged" if reads else "updated"
        else:
            found[number] = "rejected" if free and wish.stage == UNKNOWN_STAGE else "updated" if free else "skipped"
    return found


def check(story: Story) -> Replay:
    with TemporaryDirectory() as folder:
        replay = play(story, Path(folder))
    about = f"{story}\n{replay.outcomes}"
    assert sum(replay.last.counts.values()) == len(story.wishes), f"the counts do not add up: {about}"
    assert replay.last.calls == replay.calls or was_killed(story), f"calls are not counted: {about}"
    assert set(replay.rejects) >= {n for n, outcome in replay.outcomes.items() if outcome == "rejected"}, about
    for number, wish in sent(story).items():
        holds_for(replay, number, wish, about)
    if not story.faults:
        assert replay.outcomes == expected(story), about
        assert replay.calls == replay.last.calls <= replay.last.forecast, f"more calls than the forecast: {about}"
    for event in replay.writes:
        assert event.fault or event.effect or event.status in (404, 409), f"an unnecessary write: {event} {about}"
    return replay


def was_killed(story: Story) -> bool:
    return any(fault.kind == KILL for fault in story.faults)


def holds_for(replay: Replay, number: int, wish: Wish, about: str) -> None:
    """The CRM's state agrees with the outcome of a row."""
    story, outcome = replay.story, replay.outcomes.get(number)
    contact = replay.people.get(wish.person, "")
    old, new = of_contact(replay.before, contact), of_contact(replay.after, contact)
    assert len(new) - len(old) <= 1, f"row {number} created two deals: {about}"
    if outcome == "created":
        assert any(shows(deal, story, wish) for deal in new if deal not in old), f"row {number} made nothing: {about}"
    if outcome == "updated":
        assert any(shows(deal, story, wish) for deal in new), f"row {number} is not in the CRM: {about}"
    if outcome == "skipped":
        assert old == new, f"row {number} was left alone but has changed: {about}"
    if outcome == "unchanged" and story.mode != "create":
        assert any(shows(deal, story, wish) for deal in new), f"row {number} is not in the CRM: {about}"
    if outcome == "rejected" and replay.rejects[number]["type"].endswith("_NOT_FOUND"):
        assert old == new, f"row {number} was rejected but has changed something: {about}"
    if story.guarded and not story.faults:
        for deal in old:
            if deal["stageId"] not in (STAGE_IDS[0], wish.stage):
                assert deal in new, f"a deal has left a stage that it must not leave: {about}"


wishes = st.lists(
    st.builds(
        Wish, st.integers(-1, 5), st.sampled_from([*STAGE_IDS, *STAGE_IDS, UNKNOWN_STAGE]),
        st.sampled_from(["New", "Old", None]),
    ),
    min_size=1, max_size=8,
).map(tuple)  # fmt: skip
stories = st.builds(
    Story,
    mode=st.sampled_from(["move", "update", "create", "upsert"]),
    there=st.lists(
        st.builds(There, st.integers(0, 5), st.integers(0, 2), st.sampled_from(["Old", "New"])),
        max_size=5, unique_by=lambda deal: deal.person,
    ).map(tuple),
    wishes=wishes,
    plan=st.sampled_from(["auto", "compare"]),
    guarded=st.booleans(),
    faults=st.lists(
        st.builds(Fault, st.integers(0, 14), st.sampled_from([KILL, KILL, *FAULTS]), st.integers(1, 4)), max_size=3
    ).map(tuple),
    fillers=st.sampled_from([0, 12]),
    several=st.booleans(),
    dates=st.sampled_from(["both", "both", "no Date"]),
).filter(lambda story: not (story.guarded and story.mode == "create"))  # fmt: skip


@settings(
    max_examples=10 * int(os.environ[FUZZ]) if FUZZ in os.environ else 250,
    derandomize=FUZZ not in os.environ,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(stories)
def test_deal_load_keeps_its_invariants(story: Story) -> None:
    check(story)


def test_forecast_includes_the_call_for_the_crms_clock() -> None:
    check(Story("upsert", (), (Wish(0, STAGE_IDS[0], "New"),), dates="no Date"))


@pytest.mark.parametrize("mode", ["create", "upsert"])
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("at", range(1, 9))
def test_kill_after_a_creation_creates_no_second_deal(mode: str, several: bool, at: int) -> None:
    story = Story(
        mode, (), tuple(Wish(n, STAGE_IDS[0]) for n in range(4)), faults=(Fault(at, KILL),), several=several, fillers=3
    )
    replay = check(story)
    assert replay.tries > 1 or replay.calls <= at, "nothing was killed"
    assert [len(of_contact(replay.after, replay.people[n])) for n in range(4)] == [1, 1, 1, 1]
