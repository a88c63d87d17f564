"""Whatever goes wrong: each row has one outcome, the CRM holds what the outcomes say, nothing is sent without a slot.

Loads against the sandbox over HTTP, with faults that hypothesis picks, cut off at random, and tried until they end.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.observers import RequestEvent
from crm_provider.client.retry import RetryBudget
from crm_provider.client.settings import Settings
from crm_provider.client.transport import Transport
from crm_provider.errors.on_error import Work
from crm_provider.errors.policy import ErrorPolicy, with_mode
from crm_provider.load.job import LoadJob
from crm_provider.load.options import ContactOptions
from crm_provider.load.rejects.file import RejectsFile
from crm_provider.load.report import LoadInterrupted, LoadStopped, Summary
from crm_provider.load.rows import Outcome
from crm_provider.load.state.checkpoint import FileCheckpoints
from crm_provider.load.workers import CancelToken, RequestStats
from crm_provider.rate_limit.limiter import ProcessRateLimiter
from crm_provider.sandbox import Sandbox

from .fake_crm import PlainMapper, Rows

RATE, BURST = 100.0, 10
ROWS = 25
TRIES = 12

ENDS_A_TRY = (e.CrmThrottledError, e.CrmTransientError, e.CrmAccessError, e.CrmProtocolError)
"""Of a row's call. Reading all contacts belongs to no row: whatever refuses it ends the try."""

FAULTS = (
    st.fixed_dictionaries(
        {
            "effect": st.sampled_from(["drop", "lost", "lost_error", "html", "truncate"]),
            "after": st.integers(0, 20),
            "count": st.integers(1, 6),
        }
    )
    | st.fixed_dictionaries(
        {
            "effect": st.just("latency"),
            "latency": st.sampled_from([0.05, 0.3]),
            "after": st.integers(0, 20),
            "count": st.integers(1, 6),
        }
    )
    | st.fixed_dictionaries(
        {
            "effect": st.just("error"),
            "error": st.sampled_from(
                [
                    "SERVICE_UNAVAILABLE",
                    "INTERNAL_SERVER_ERROR",
                    "throttled",
                    "quota used up",
                    "INVALID_INPUT",
                    "key refused",
                ]
            ),
            "after": st.integers(0, 25),
            "count": st.integers(1, 14),
        }
    )
)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(seed="empty", rate=RATE, burst=BURST) as running:
        yield running


class CountingRateLimiter(ProcessRateLimiter):
    """Notes what it gives. That it does so at the right times is in ``test_rate_limit_limiter.py``."""

    def __init__(self, rate: float, burst: int) -> None:
        super().__init__(rate, burst)
        self.slots: list[float] = []

    def acquire(self, max_wait: float) -> float:
        waited = super().acquire(max_wait)
        self.slots.append(waited)
        return waited


class Story:
    """A load with its tries."""

    def __init__(self, sandbox: Sandbox, folder: Path, mode: str, plan: str) -> None:
        self.sandbox, self.folder, self.mode, self.plan = sandbox, folder, mode, plan
        self.given = [{"email": f"p{n}@x.org", "name": f"New {n}"} for n in range(1, ROWS + 1)]
        self.given[6] = {"email": "nobody", "name": "X"}
        self.given[9] = {"email": "P3@x.org", "name": "Later"}
        self.settings = Settings(api_key="sandbox-key", base_url=sandbox.url)
        self.limiter = CountingRateLimiter(RATE, BURST)

    def attempt(self, cut_after: int | None) -> Summary:
        cancel_token, stats = CancelToken(), RequestStats()

        def observe(seen: RequestEvent) -> None:
            stats(seen)
            if cut_after is not None and stats.calls >= cut_after:
                cancel_token.set()

        budget = RetryBudget(tries=3, seconds=5, first_delay=0.001, longest_delay=0.01)
        transport = Transport(self.settings, limiter=self.limiter, sleep=cancel_token.sleep, observer=observe)
        with CrmClient(self.settings, transport=transport, budget=budget) as client:
            return LoadJob(
                source=Rows(self.given),
                mapper=PlainMapper(),
                client=client,
                stats=stats,
                options=ContactOptions(mode=self.mode, plan=self.plan, errors_in_a_row=4),  # type: ignore[arg-type]
                policy=ErrorPolicy(work=Work.LOAD, operator=with_mode("CrmLoadContactsOperator", self.mode)),
                rate=RATE,
                rejects=RejectsFile(self.folder / "rejects.jsonl"),
                checkpoints=FileCheckpoints(self.folder / "checkpoint"),
                cancel_token=cancel_token,
            ).run()

    def until_it_ends(self, cuts: list[int]) -> Summary:
        """Try as Airflow would; whatever ends a try for good is mended by then, as a person would."""
        for _ in range(TRIES):
            try:
                return self.attempt(cuts.pop(0) if cuts else None)
            except LoadInterrupted:
                continue
            except LoadStopped as stopped:
                assert isinstance(stopped.error, ENDS_A_TRY) or self.read_all(stopped.error)
                if not isinstance(stopped.error, e.CrmTransientError):
                    self.sandbox.clear_faults()
        raise AssertionError(f"no end after {TRIES} tries")

    @staticmethod
    def read_all(error: e.CrmError) -> bool:
        return (error.method, error.path) == ("GET", "/contacts")

    def rejected(self) -> dict[int, dict[str, Any]]:
        path = self.folder / "rejects.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        assert len({line["row"] for line in lines}) == len(lines), "a row is in the rejects file twice"
        return {line["row"]: line for line in lines}


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    faults=st.lists(FAULTS, max_size=3),
    cuts=st.lists(st.integers(1, 30), max_size=2),
    existing=st.integers(0, ROWS),
    mode=st.sampled_from(["upsert", "upsert", "create", "update"]),
    compare=st.booleans(),
)
def test_every_row_has_one_outcome_and_the_crm_agrees(
    sandbox: Sandbox, faults: list[dict[str, Any]], cuts: list[int], existing: int, mode: str, compare: bool
) -> None:
    sandbox.reset()
    for n in range(1, existing + 1):
        sandbox.store.create_contact(f"p{n}@x.org", attributes={"name": f"Old {n}"})
    for fault in faults:
        sandbox.add_fault(**fault)
    with tempfile.TemporaryDirectory() as folder:
        plan = "compare" if compare else "learned" if mode == "upsert" else "auto"
        story = Story(sandbox, Path(folder), mode, plan)
        summary = story.until_it_ends(list(cuts))
        sandbox.clear_faults()
        check_books(story, summary)
        check_crm(story, summary, existing)
    assert 0 < sandbox.counters().total <= len(story.limiter.slots)


def check_books(story: Story, summary: Summary) -> None:
    assert summary.left == 0
    assert sum(summary[outcome] for outcome in Outcome) == summary.rows == ROWS
    rejected = story.rejected()
    assert len(rejected) == summary[Outcome.REJECTED]
    assert rejected[7]["type"] == "INVALID_VALUE"
    assert summary[Outcome.SKIPPED] == 1  # row 3: row 10 has the same email
    assert 3 not in rejected


def check_crm(story: Story, summary: Summary, existing: int) -> None:
    """What the CRM has for each row that was not rejected; of a rejected one it may have either."""
    rejected = set(story.rejected())
    by_key: dict[str, list[Any]] = {}
    for contact in story.sandbox.store.contacts.values():
        by_key.setdefault(contact.email.lower(), []).append(contact)
    for number, row in enumerate(story.given, start=1):
        if number in rejected or number == 3:
            continue
        found = by_key.get(row["email"].lower(), [])
        assert found, f"row {number} counts as done, but the CRM has no such contact"
        before = number <= existing or (number == 10 and existing >= 3)
        if story.mode == "create" and before:
            continue  # left alone
        assert row["name"] in [contact.attributes["name"] for contact in found], (
            f"row {number} counts as done, but the CRM has other values"
        )
    if story.mode == "update":
        assert len(by_key) == existing
    if story.mode == "create":
        assert summary[Outcome.UPDATED] == 0
