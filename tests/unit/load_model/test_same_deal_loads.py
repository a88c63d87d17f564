"""Consecutive loads with one state file, in which rows name a deal by its id, or by its contact and pipeline."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from . import engine
from .fake_crm import Clock, FakeCrm, Http
from .scenario import Person
from .test_deal_loads import keep, restore
from .test_deal_model import FUZZ, PIPELINES, STAGES

PEOPLE = ("ann@x.org", "bob@x.org")
MAPPING = {"deal_id": "deal", "contact_email": "mail", "pipeline_id": "line", "stage_id": "stage", "pb_name": "name"}


@dataclass(frozen=True)
class Named:
    """A row for the deal of a person: by its id, or by the contact and the pipeline."""

    name: str
    by_id: bool
    person: int = 0

    def values(self, deals: list[str]) -> dict[str, Any]:
        found = {"stage": STAGES[0], "name": self.name}
        if self.by_id:
            return {"deal": deals[self.person], "mail": None, "line": None, **found}
        return {"deal": None, "mail": PEOPLE[self.person], "line": PIPELINES[0], **found}


@dataclass(frozen=True)
class Load:
    """One load.

    :param killed_at: 0-based number of the call at which its process is killed
    :param is_resumed: whether another try follows the kill
    """

    rows: tuple[Named, ...]
    duplicates: str = "last"
    killed_at: int | None = None
    is_resumed: bool = True

    def expected(self) -> dict[int, str]:
        """The name of each person's deal after the load."""
        rows = reversed(self.rows) if self.duplicates == "first" else self.rows
        return {row.person: row.name for row in rows}


class Runs:
    """Loads into one CRM, with one state file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.saved = folder, folder / "saved"
        self.crm = FakeCrm(Clock())
        self.deals = []
        for email in PEOPLE:
            self.crm.seed(Person(email))
            deal = {"contactId": self.crm.contacts[email].id, "pipelineId": PIPELINES[0], "stageId": STAGES[0]}
            self.deals.append(self.crm.add_deal(**deal, attributes={"pb_name": "old"})["id"])

    def names(self) -> dict[int, str]:
        return {n: deal["attributes"]["pb_name"] for n, deal in enumerate(self.crm.deals)}

    def run(self, load: Load) -> dict[str, int] | None:
        """The outcomes of its last try; None if it was killed and not resumed."""
        files = engine.Files(self.folder / "checkpoint", self.folder / "rejects.jsonl", self.folder / "state")
        spec = engine.DealSpec(
            tuple(row.values(self.deals) for row in load.rows), MAPPING, "upsert", duplicates=load.duplicates
        )
        calls = 0

        def serve(method: str, path: str, query: Any, body: Any) -> Http:
            nonlocal calls
            calls += 1
            done = self.crm.response(method, path, query, body, None)
            if calls - 1 == load.killed_at:
                keep(self.folder, self.saved)
                raise engine.Killed
            return done

        for _ in range(2):
            try:
                last = engine.attempt_deals(spec, files, self.crm, serve, on_outcome=lambda number, outcome: None)
            except engine.Killed:
                restore(self.folder, self.saved)
                if not load.is_resumed:
                    files.checkpoint.unlink(missing_ok=True)
                    return None
            else:
                assert last.how == "done", last
                files.checkpoint.unlink(missing_ok=True)
                return last.counts
            finally:
                self.crm.clock.advance(60)
        raise AssertionError("it does not end")


def check(loads: tuple[Load, ...]) -> list[dict[str, int] | None]:
    with TemporaryDirectory() as folder:
        runs, outcomes = Runs(Path(folder)), []
        for load in loads:
            expected = {**runs.names(), **load.expected()}
            outcomes.append(runs.run(load))
            assert outcomes[-1] is None or runs.names() == expected, f"{load} of {loads}"
        return outcomes


ID, CONTACT = Named("id", by_id=True), Named("contact", by_id=False)
UPDATED, SAME, ONE = {"updated": 1, "skipped": 1}, {"unchanged": 1, "skipped": 1}, {"updated": 1}
FIRST, LAST = {"rows": (CONTACT, ID), "duplicates": "first"}, {"rows": (ID, CONTACT)}


@pytest.mark.parametrize(
    ("loads", "outcomes"),
    [
        ((Load((ID, CONTACT)),) * 3, [UPDATED, SAME, SAME]),
        ((Load((CONTACT, ID)),) * 3, [UPDATED, SAME, SAME]),
        ((Load((CONTACT, ID), "first"),) * 3, [UPDATED, SAME, SAME]),
        ((Load((ID, CONTACT), "first"),) * 3, [UPDATED, SAME, SAME]),
        ((Load((CONTACT,)), Load((CONTACT, ID)), Load((CONTACT,))), [ONE, UPDATED, ONE]),
        ((Load((ID,)), Load((ID, CONTACT)), Load((ID,))), [ONE, UPDATED, ONE]),
        ((Load((ID, Named("x", by_id=False, person=1))),) * 2, [{"updated": 2}, {"unchanged": 2}]),
    ],
)
def test_same_row_is_sent_in_each_load(loads: tuple[Load, ...], outcomes: list[dict[str, int]]) -> None:
    assert check(loads) == outcomes


@pytest.mark.parametrize("is_resumed", [False, True])
@pytest.mark.parametrize("killed_at", range(5))
@pytest.mark.parametrize("rows", [FIRST, LAST])
def test_same_row_is_sent_after_a_kill(rows: Any, killed_at: int, is_resumed: bool) -> None:
    check((Load(**rows, killed_at=killed_at, is_resumed=is_resumed), Load(**rows), Load(**rows)))


def both(person: int) -> Any:
    """At least one row of each kind for a person's deal: a state file stores only the keys that such loads use."""
    rows = st.lists(st.builds(Named, st.sampled_from("abc"), st.booleans(), st.just(person)), max_size=1)
    ends = [st.builds(Named, st.sampled_from("abc"), st.just(by_id), st.just(person)) for by_id in (True, False)]
    return st.tuples(*ends, rows).map(lambda found: [*found[:2], *found[2]])


load_rows = st.one_of(both(0), both(1), st.tuples(both(0), both(1)).map(lambda pair: pair[0] + pair[1]))
loads = st.builds(
    Load,
    load_rows.flatmap(st.permutations).map(tuple),
    st.sampled_from(["first", "last"]),
    st.none() | st.integers(0, 6),
    st.booleans(),
)


@settings(
    max_examples=10 * int(os.environ[FUZZ]) if FUZZ in os.environ else 25,
    derandomize=FUZZ not in os.environ,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(loads, min_size=2, max_size=4).map(tuple))
def test_loads_with_both_kinds_of_rows_keep_their_invariants(loads: tuple[Load, ...]) -> None:
    check(loads)
