"""Changes only: applied to the copy of the last run, the changes give the current state of the CRM."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from upath import UPath

from crm_provider import errors as e
from crm_provider.client.settings import Settings
from crm_provider.extract.changes import ChangeTracker
from crm_provider.extract.extractor import Extractor
from crm_provider.extract.partial_pages import Owner
from crm_provider.extract.writers import CHANGE, check_changes_since
from crm_provider.files.lock import InUse

from .test_extract import FakeClient

SETTINGS = Settings(api_key="key", base_url="http://127.0.0.1:9/v2")
State = dict[str, Any]


@pytest.fixture(params=["local", "packed", "store"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    places = {"local": tmp_path / "new" / "seen", "packed": tmp_path / "seen.gz"}
    return places.get(request.param) or UPath(f"memory://s/{uuid.uuid4().hex}/seen")


def tracker(
    path: Any, work: str = "run", *, settings: Settings = SETTINGS, listing: Any = "contacts", merges: bool = False
) -> ChangeTracker:
    return ChangeTracker(path, settings, listing, Owner(work=work), merges=merges)


def changes(
    path: Any, state: State, work: str = "run", *, quiet: bool = True, commit: bool = True, **options: Any
) -> list[tuple[str, str]]:
    """The changes that a run reports: kind and id."""
    with tracker(path, work, **options) as found:
        records = [{"id": key, "attributes": value} for key, value in state.items()]
        reported = [(record[CHANGE], record["id"]) for record in found.changes(records, dict, quiet=quiet)]
        if commit:
            found.commit()
    return reported


# -- applying changes to a copy -------------------------------------------------------------------------------

states = st.dictionaries(st.sampled_from("abcde"), st.integers(0, 2), max_size=5)
runs = st.lists(
    st.tuples(
        states,
        st.sampled_from(["done", "killed before the commit", "killed after the commit", "failed", "noisy"]),
        st.sets(st.sampled_from("abcde")),
    ),
    min_size=1,
    max_size=6,
)


def apply(copy: State, state: State, reported: list[tuple[str, str]]) -> None:
    """Apply the changes strictly: no record is created twice, and a changed or removed record exists."""
    for change, key in reported:
        assert (key in copy) == (change != "created"), f"{change} {key}"
        assert change == "created" or copy[key] != state.get(key), f"{key} has not changed"
        if change == "deleted":
            del copy[key]
        else:
            copy[key] = state[key]


@given(runs)
def test_changes_applied_to_the_old_copy_give_the_new_one(runs: list[tuple[State, str, set[str]]]) -> None:
    copy: State = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "seen")
        for number, (state, event, hidden) in enumerate(runs):
            work, seen = f"run {number}", state
            if event.startswith("killed"):  # after it wrote its output, which the next try replaces
                changes(path, {"a": 7}, work, commit=event == "killed after the commit")
            if event == "failed":
                changes(path, state, work, commit=False)
                continue
            if event == "noisy":
                seen = {key: value for key, value in state.items() if key not in hidden}
            apply(copy, state, changes(path, seen, work, quiet=event != "noisy"))
            if event == "noisy":
                assert {key: value for key, value in copy.items() if key in seen} == seen, "the listing is correct"
            else:
                assert copy == state


# -- the state file -------------------------------------------------------------------------------------------


def test_each_kind_of_change_is_reported(path: Any) -> None:
    assert changes(path, {"a": 1, "b": 1, "c": 1}, "one") == [("created", "a"), ("created", "b"), ("created", "c")]
    assert changes(path, {"a": 1, "b": 2, "d": 1}, "two") == [("updated", "b"), ("created", "d"), ("deleted", "c")]
    assert changes(path, {"d": 1, "b": 2, "a": 1}, "three") == [], "a different order is not a change"


def test_order_of_names_is_not_a_change_but_digits_are(path: Any) -> None:
    from decimal import Decimal

    changes(path, {"a": {"x": Decimal("1.50"), "y": [{"m": 1, "n": 2}]}}, "one")
    assert changes(path, {"a": {"y": [{"n": 2, "m": 1}], "x": Decimal("1.50")}}, "two") == []
    assert changes(path, {"a": {"y": [{"n": 2, "m": 1}], "x": Decimal("1.5")}}, "three") == [("updated", "a")]


def test_merged_table_gets_changes_made_between_two_tries_of_a_run(path: Any) -> None:
    changes(path, {"a": 1, "b": 1}, "one", merges=True)
    first = {"a": 2, "b": 1, "short-lived": 1}
    assert changes(path, first, "two", merges=True) == [("updated", "a"), ("created", "short-lived")]
    between = {"a": 1, "b": 1}
    assert changes(path, between, "two", merges=True) == [("updated", "a"), ("deleted", "short-lived")]
    assert changes(path, between, "two", merges=True) == []
    assert changes(path, {"a": 1}, "three", merges=True) == [("deleted", "b")]


def test_record_that_a_retried_merge_misses_or_finds_again_is_reported_once(path: Any) -> None:
    changes(path, {"a": 1, "b": 1}, "one", merges=True)
    changes(path, {"a": 1, "b": 2, "c": 1}, "two", merges=True)
    assert changes(path, {"b": 2, "c": 1}, "two", merges=True) == [
        ("updated", "b"), ("created", "c"), ("deleted", "a"),
    ]  # fmt: skip


def test_value_within_a_list_is_a_change(path: Any) -> None:
    changes(path, {"a": {"y": [{"m": 1}]}}, "one")
    assert changes(path, {"a": {"y": [{"m": 2}]}}, "two") == [("updated", "a")]


def test_fingerprint_of_text_beyond_ascii_equals_that_of_earlier_versions(tmp_path: Path) -> None:
    """In another form such records would all count as updated once."""
    changes(tmp_path / "seen", {"a": {"n": "\u00e9"}})
    assert (tmp_path / "seen").read_text().splitlines()[2] == "61 7edc94bc5c01e15352c0100fc5afe263"


def test_cleared_task_repeats_its_own_changes_only(path: Any) -> None:
    changes(path, {"a": 1}, "one")
    changes(path, {"a": 2}, "two")
    assert changes(path, {"a": 2, "b": 1}, "two") == [("updated", "a"), ("created", "b")]
    assert changes(path, {"a": 2, "b": 1}, "three") == []


def test_missing_record_is_removed_only_after_a_quiet_run(path: Any, caplog: pytest.LogCaptureFixture) -> None:
    changes(path, {"a": 1, "b": 1, "c": 1}, "one")
    assert changes(path, {"a": 1}, "two", quiet=False) == []
    (text,) = caplog.messages
    assert text.startswith("The listing of contacts changed while it was read, and lacks 2 records of the last run:")
    assert changes(path, {"a": 1}, "three") == [("deleted", "b"), ("deleted", "c")]


def test_new_api_key_reports_all_known_records_as_updated(path: Any, caplog: pytest.LogCaptureFixture) -> None:
    changes(path, {"a": 1, "b": 1}, "one")
    other = SETTINGS.with_(api_key="other")
    assert changes(path, {"a": 1, "c": 1}, "two", settings=other) == [
        ("updated", "a"), ("created", "c"), ("deleted", "b"),
    ]  # fmt: skip
    assert "is of another API key: all known records count as updated" in caplog.text


def test_another_account_is_refused_before_any_record_is_removed(path: Any) -> None:
    changes(path, {"a": 1}, "one")
    with pytest.raises(e.CrmInvalidValueError, match="contains no record of this account; give another state_path"):
        changes(path, {"x": 1}, "two", settings=SETTINGS.with_(api_key="other"))
    assert changes(path, {}, "three") == [("deleted", "a")]


@pytest.mark.parametrize(
    "options",
    [
        {"listing": "deals"},
        {"settings": SETTINGS.with_(base_url="http://127.0.0.1:8/v2")},
        {"settings": SETTINGS.with_(developer_mode=True)},
    ],
    ids=["listing", "host", "mode"],
)
def test_state_of_another_listing_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    changes(tmp_path / "seen", {"a": 1})
    with pytest.raises(e.CrmInvalidValueError, match=r"is not of the \w+ of this CRM; give each listing"):
        changes(tmp_path / "seen", {"a": 1}, **options)


def damaged() -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "seen")
        changes(path, {"a": 1, "b": 1})
        lines = path.read_bytes().splitlines(keepends=True)
    yield from (b"".join(lines[:kept]) for kept in range(len(lines)))  # truncated
    yield b"id,email\n1,a@b.io\n"
    yield lines[0] + b"[]\n" + b"".join(lines[2:])
    yield lines[0] + lines[1].replace(b'"version": 1', b'"version": "1"') + b"".join(lines[2:])
    yield lines[0] + b"[" * 100_000 + b"\n" + b"".join(lines[2:])
    yield b"\xff" + b"".join(lines)
    yield lines[0].replace(b"changes 1", b"changes 2") + b"".join(lines[1:])


@pytest.mark.parametrize("data", damaged())
def test_damaged_state_is_an_error_and_is_kept(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "seen").write_bytes(data)
    with pytest.raises(e.CrmInvalidValueError, match=r"seen is damaged or is another file; restore it, or remove it"):
        changes(tmp_path / "seen", {"a": 1})
    assert (tmp_path / "seen").read_bytes() == data


def test_only_one_run_at_a_time_and_an_error_ends_the_run(tmp_path: Path) -> None:
    with tracker(tmp_path / "seen"), pytest.raises(InUse, match=r"another run is using the state file /\S+/seen"):
        changes(tmp_path / "seen", {})
    with tracker(tmp_path / "seen") as found, pytest.raises(e.CrmProtocolError, match="the response has no id"):
        list(found.changes([{"email": "a@b.io"}], dict, quiet=True))
    assert [path.name for path in tmp_path.iterdir()] == ["seen.lock"]


SAVED = """\
crm_provider changes 1 6ad1a2aae34225a819785062a925b29a
{"listing": "contacts", "place": "4e1e35e8fda7cd7aa6e180c1905a5d57", "work": "3fc4ccfe7458"}
61 3328ef2058264a8963aeba37fba69a95
63 102b2adaa5f5bbd2728d000a555220aa
before
63 -
62 64bc09600621927489b0f4ebd7610e7c
end
"""
"""Run "two" found ``a`` and ``c``. Before it there were ``a`` and ``b``. The numbers are the first 16 bytes of
HMAC-SHA256 of ["check"], ["place", base URL, "False"] (without a key) and ["print", the record]. The key of the
others is the HMAC of the purpose, the base URL and the mode with the API key."""


def test_state_file_without_a_version_is_used_and_gets_one(tmp_path: Path) -> None:
    (tmp_path / "seen").write_text(SAVED)
    now = {"a": {"n": 1}, "c": {"n": 3}}
    assert changes(tmp_path / "seen", now, "two") == [("created", "c"), ("deleted", "b")]
    assert (tmp_path / "seen").read_text() == SAVED.replace('"}', '", "version": 1}')
    assert changes(tmp_path / "seen", now, "three") == []


def announced(path: Any, work: str, *, commit: bool = True) -> tuple[str, ...]:
    """The runs whose output a run replaces."""
    with tracker(path, work) as found:
        list(found.changes([{"id": "a", "attributes": work}], dict, quiet=True))
        runs = found.announce()
        if commit:
            found.commit()
    return runs


def mark(run: str) -> str:
    """The mark of a task instance and the version of the state file that it found, such as ``a-0``."""
    work, _, version = run.partition("-")
    return f"{Owner(work=work).mark}-{version}"


def test_run_replaces_the_output_of_uncommitted_runs(path: Any) -> None:
    assert announced(path, "a", commit=False) == (mark("a-0"),)
    assert announced(path, "a", commit=False) == (mark("a-0"),)
    assert announced(path, "b", commit=False) == (mark("b-0"), mark("a-0"))
    assert announced(path, "c") == (mark("c-0"), mark("b-0"), mark("a-0"))
    assert [each.name for each in path.parent.iterdir() if each.name.endswith("pending")] == []
    assert announced(path, "d", commit=False) == (mark("d-1"),)
    assert announced(path, "e") == (mark("e-1"), mark("d-1"))


def test_run_killed_after_replacing_the_state_file_is_done(path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    announced(path, "a", commit=False)
    with monkeypatch.context() as patch:
        patch.setattr("crm_provider.extract.changes.remove", lambda path: None)
        announced(path, "b")
    assert announced(path, "c") == (mark("c-1"),)


def test_latest_run_replaces_its_rows_and_an_older_one_keeps_them(path: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    announced(path, "a")
    announced(path, "b")
    caplog.clear()
    assert announced(path, "b") == (mark("b-2"), mark("b-1"))
    assert "The rows replace those of the latest run: they are what has changed since the run before it." in caplog.text
    caplog.clear()
    assert announced(path, "a") == (mark("a-3"),)
    assert "what has changed since the latest run. Older rows of this task instance stay." in caplog.text


def test_failed_repeated_run_and_the_run_before_are_replaced_by_the_next(path: Any) -> None:
    changes(path, {"a": 1}, "one")
    changes(path, {"a": 2}, "two")
    assert announced(path, "two", commit=False) == (mark("two-2"), mark("two-1"))
    assert announced(path, "three") == (mark("three-2"), mark("two-2"), mark("two-1"))


def test_latest_run_of_a_state_file_without_a_version_has_none_either(tmp_path: Path) -> None:
    (tmp_path / "seen").write_text(SAVED)
    with tracker(tmp_path / "seen", "two") as found:
        assert found.announce() == ("3fc4ccfe7458-0", "3fc4ccfe7458")


class ChangeLog:
    """The expected content of a table of changes: a list of runs, each with the listings between them.

    It knows neither marks nor files. A run that is repeated, or that failed after it announced itself, is replaced by
    the next one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[tuple[str, str, str, Any]] = []
        self.done: list[tuple[str, State]] = []
        """Runs that replaced the state file, each with the listing it read."""
        self.shown: list[tuple[str, State]] = []
        """Runs whose rows are in the table."""
        self.is_repeated = False
        """Whether a repetition of the latest run announced itself and then failed."""

    def run(self, work: str, state: State, event: str, patch: pytest.MonkeyPatch) -> None:
        with tracker(self.path, work) as found:
            listing = [{"id": key, "attributes": value} for key, value in state.items()]
            reported = [(record[CHANGE], record["id"]) for record in found.changes(listing, dict, quiet=True)]
            if event == "dies before it announces itself":
                return
            replaced = found.announce()
            if event != "dies before apply":
                self.rows = [row for row in self.rows if row[0] not in replaced]
                self.rows += [(found.run, change, key, state.get(key)) for change, key in reported]
            if event.startswith("done"):
                with patch.context() as undone:
                    if event == "done, but dies before it removes the names":
                        undone.setattr("crm_provider.extract.changes.remove", lambda path: None)
                    found.commit()
        self.expect(work, state, event)

    def expect(self, work: str, state: State, event: str) -> None:
        self.is_repeated |= bool(self.done) and self.done[-1][0] == work
        runs = [*(self.done[:-1] if self.is_repeated else self.done), (work, state)]
        if event != "dies before apply":
            self.shown = runs
        if event.startswith("done"):
            self.done, self.is_repeated = runs, False

    def expected(self) -> list[tuple[str, str, str]]:
        """Task instance, change, and id, run after run."""
        rows, before = [], State()
        for work, state in self.shown:
            for key in sorted({*before, *state}):
                if before.get(key) != state.get(key):
                    change = "created" if key not in before else "updated" if key in state else "deleted"
                    rows.append((work, change, key))
            before = state
        return rows

    def check(self) -> None:
        marks = {Owner(work=work).mark: work for work in "ABC"}
        found = [(marks[run.partition("-")[0]], change, key) for run, change, key, _ in self.rows]
        assert sorted(found) == sorted(self.expected())
        copy: State = {}
        for _, change, key, value in self.rows:
            apply(copy, {key: value}, [(change, key)])
        assert copy == (self.shown[-1][1] if self.shown else {})


EVENTS = (
    "done",
    "done, but dies before it removes the names",
    "dies before it announces itself",
    "dies before apply",
    "dies between apply and commit",
)
tries = st.tuples(st.sampled_from("ABC"), states, st.sampled_from(EVENTS))
"""A repeated task instance is a retry, or was cleared: as the latest run or as an older one."""


@given(st.lists(tries, min_size=1, max_size=8))
@example([("A", {"a": 1}, "done"), ("B", {"a": 2}, "done"), ("A", {"a": 2}, "done")])
@example([
    ("A", {"a": 1}, "done"), ("A", {"a": 1, "b": 1}, "dies between apply and commit"), ("B", {"a": 1, "b": 1}, "done"),
])  # fmt: skip
def test_each_change_is_in_the_table_once_despite_repeats_and_kills(given: list[tuple[str, State, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        table = ChangeLog(Path(folder, "seen"))
        for work, state, event in given:
            table.run(work, state, event, patch)
            table.check()


@pytest.mark.parametrize("data", [b"{", b"7", b"[]", b"{}", b"\xff", b"[" * 100_000])
def test_damaged_pending_file_is_an_error_and_is_kept(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "seen.pending").write_bytes(data)
    with pytest.raises(
        e.CrmInvalidValueError, match=r"the file /\S+/seen.pending is damaged or is another file; remove it"
    ):
        announced(tmp_path / "seen", "a")
    assert (tmp_path / "seen.pending").read_bytes() == data


def test_state_file_has_ids_but_no_values(tmp_path: Path) -> None:
    changes(tmp_path / "seen", {"a\ud800": "secret@example.com"})
    text = (tmp_path / "seen").read_text("ascii")
    assert b"a".hex() in text
    assert "secret" not in text
    assert changes(tmp_path / "seen", {}, "two") == [("deleted", "a\ud800")]


# -- in a file ------------------------------------------------------------------------------------------------


def test_extract_of_changes_to_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    client = FakeClient([{"id": f"c-{n}", "email": f"{n}@example.com", "attributes": {"n": n}} for n in range(12)])

    def extract(work: str, name: str, **options: Any) -> Any:
        target = tmp_path / name
        found = ChangeTracker(tmp_path / "seen", client.settings, "contacts", Owner(work=work))
        done = Extractor(client, "contacts", target, owner=Owner(work=work), tracker=found, **options).run()  # type: ignore[arg-type]
        return done["records"], done["changes"], target.read_text("utf-8").splitlines()

    records, counts, lines = extract("one", "one.jsonl")
    assert (records, counts) == (12, {"created": 12, "updated": 0, "deleted": 0, "unconfirmed": 0})
    assert json.loads(lines[0]) == {
        "id": "c-0", "email": "0@example.com", "attributes": {"n": 0}, "crm_change": "created",
    }  # fmt: skip
    client.held[3]["attributes"] = {"n": "new"}
    del client.held[7]
    records, counts, lines = extract("two", "two.csv")
    assert (records, counts) == (11, {"created": 0, "updated": 1, "deleted": 1, "unconfirmed": 0})
    assert lines == ["id,email,attributes.n,crm_change", "c-3,3@example.com,new,updated", "c-7,,,deleted"]
    client.held[4]["email"] = "other@example.com"
    assert extract("three", "three.csv", fields=["id", "attributes.n"])[2][0] == "id,attributes.n,crm_change"
    client.held[5]["email"] = "not shown"
    assert extract("four", "four.csv", fields=["id", "attributes.n"])[2] == ["id,attributes.n,crm_change"]
    again = extract("four", "four.csv", fields=["attributes.n", "crm_change", "id"])[2]
    assert again[0] == "attributes.n,crm_change,id"
    assert "No record has the field" not in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("first", "s"), "changes_since is 'first'; use 'last'"),
        (("last", None), "needs a state_path"),
        ((None, "s"), "state_path is only for changes_since"),
        (("last", "s", ["email"]), "fields must contain 'id'"),
    ],
)
def test_invalid_arguments_of_changes(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_changes_since(*arguments)
    check_changes_since("last", "s", ["id"])
    check_changes_since(None, None)
