"""Leftovers of an earlier try may hold anything: a load or extract uses them only if they are valid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_provider.client.pagination import ListedPage, Page
from crm_provider.extract.partial_pages import Owner, PartialPages
from crm_provider.load.progress import RowCounts, left_of
from crm_provider.load.rows import Contact
from crm_provider.load.state.checkpoint import Checkpoint, DoneRows, FileCheckpoints, resumable
from crm_provider.load.state.fingerprints import Fingerprints

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
WHOLE = Checkpoint(
    epoch=1, fingerprint="f", done_upto=3, done_above=(5, 7), counts={"created": 4, "refused": 1},
    errors={"INVALID_INPUT": 1}, calls=9, seconds=1.5, notes={"rows": 10, "calls_left": 5},
).as_data()  # fmt: skip

TOO_DEEP = "[" * 200_000


def used(data: Any) -> None:
    """Every use of an accepted checkpoint."""
    checkpoint = Checkpoint.from_data(data)
    resumable(checkpoint, 1, "f")
    DoneRows(checkpoint.done_upto, checkpoint.done_above)
    assert RowCounts(checkpoint).refused >= 0
    assert left_of(checkpoint) is None or checkpoint.calls
    checkpoint.notes.get("owner")
    assert json.loads(json.dumps(checkpoint.as_data()))


def test_valid_checkpoint_is_used() -> None:
    used(WHOLE)
    assert Checkpoint.from_data(WHOLE).as_data() == WHOLE


@given(data=JSON)
def test_any_json_is_a_checkpoint_or_refused(data: Any) -> None:
    try:
        used(data)
    except ValueError as refused:
        assert "checkpoint" in str(refused)


@given(name=st.sampled_from(sorted(WHOLE)), value=JSON)
def test_any_field_of_a_checkpoint_may_be_anything(name: str, value: Any) -> None:
    try:
        used({**WHOLE, name: value})
    except ValueError as refused:
        assert "checkpoint" in str(refused)


@pytest.mark.parametrize(
    "change",
    [
        {"done_upto": -1}, {"done_upto": 2.5}, {"done_upto": True}, {"done_upto": 10**30}, {"done_above": ["x"]},
        {"done_above": {}}, {"counts": {"hacked": 1}}, {"counts": {"created": -1}}, {"counts": []}, {"calls": None},
        {"errors": {"X": "1"}}, {"seconds": float("nan")}, {"seconds": float("inf")}, {"notes": []}, {"epoch": "1"},
        {"more": 1}, {"fingerprint": None},
    ],
    ids=str,
)  # fmt: skip
def test_invalid_field_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="invalid parts"):
        Checkpoint.from_data({**WHOLE, **change})


@pytest.mark.parametrize("name", sorted(WHOLE.keys() - {"version"}))
def test_missing_field_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="missing"):
        Checkpoint.from_data({part: value for part, value in WHOLE.items() if part != name})


@pytest.mark.parametrize("text", [TOO_DEEP, "", "\0", "null", "[]", '{"version": 1}', "\ud800"])
def test_any_file_is_a_checkpoint_or_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    path.write_bytes(text.encode(errors="surrogatepass"))
    assert FileCheckpoints(path).load() is None


# -- the pages of an extract -------------------------------------------------------------------------------------

OWNER = Owner(work="x")
LINES = st.one_of(JSON.map(json.dumps), st.text('{}[]",:0123456789ab', max_size=20)).map(lambda text: text.encode())


def parts(folder: Path) -> PartialPages:
    return PartialPages(folder / "contacts.csv", OWNER, clock=lambda: 1e9)


def with_a_page(folder: Path) -> Path:
    made = parts(folder)
    made.add(ListedPage(number=0, page=Page([{"id": "1"}], 1), fresh=[]))
    made.close()
    (path,) = folder.glob("contacts.csv.part-*")
    return path


@given(lines=st.lists(LINES, max_size=5))
def test_lines_after_a_page_are_pages_or_ignored(lines: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("parts")
    path = with_a_page(folder)
    path.write_bytes(path.read_bytes() + b"\n".join([*lines, b""]))
    found = list(parts(folder).pages())
    assert found[0] == Page([{"id": "1"}], 1)
    assert all(isinstance(item, dict) for page in found for item in page.items)


@pytest.mark.parametrize(
    "head",
    ["", "[]", "7", '"x"', "{}", '{"started": "yesterday"}', '{"started": []}', TOO_DEEP, "\0" * 50],
    ids=lambda t: t[:12],
)
def test_any_file_beside_an_extract_is_swept_or_kept(head: str, tmp_path: Path) -> None:
    whose = {"own": OWNER.mark, "another's": "0123456789ab"}
    for mark in whose.values():
        (tmp_path / f"contacts.csv.part-{mark}-0").write_text(f"{head}\n")
    assert list(parts(tmp_path).pages()) == []
    assert len(parts(tmp_path).sweep()) == 2


@pytest.mark.parametrize(
    "name",
    ["part-x", "part-0123456789ab-x", "part-0123456789ab--1", "part-0123456789ab-0-0", "part-0123456789ab-0.part-1"],
)
def test_file_with_another_name_is_kept(name: str, tmp_path: Path) -> None:
    (tmp_path / f"contacts.csv.{name}").write_text("mine")
    made = parts(tmp_path)
    assert made.sweep() == []
    made.add(ListedPage(number=0, page=Page([], 0), fresh=[]))
    made.remove()
    assert [path.name for path in tmp_path.iterdir()] == [f"contacts.csv.{name}"]


# -- the state file ----------------------------------------------------------------------------------------------


def test_state_file_cannot_be_forged_without_the_key(tmp_path: Path) -> None:
    """Its header is keyed, so a file that claims that contacts were loaded is not believed."""
    contact = Contact(email="ada@example.com", attributes={"name": "Ada"})
    for secret, known in ((b"theirs", False), (b"ours", True)):
        forged = Fingerprints(tmp_path / "state", secret)
        forged.remember(contact)
        forged.finish()
        assert Fingerprints(tmp_path / "state", b"ours").unchanged(contact) is known
        (tmp_path / "state").unlink()
