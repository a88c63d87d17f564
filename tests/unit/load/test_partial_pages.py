"""Pages beside the target file: safe page by page, private, and removed when not needed."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from crm_provider.client.pagination import ListedPage, Page
from crm_provider.extract import partial_pages as module
from crm_provider.extract.partial_pages import LONGEST_REST, PAGES_AT_ONCE, Owner, PartialPages

ME = Owner(work="dag/run/task/-1", epoch=3)


def page(number: int, **values: Any) -> ListedPage:
    items = [{"id": f"c-{number}", "n": Decimal("1.10"), "name": "\ud83d é", **values}]
    return ListedPage(number=number, page=Page(items, 100), fresh=items)


def parts_of(target: Any, owner: Owner = ME, *, source: str = "here", now: float = 1000.0) -> PartialPages:
    return PartialPages(target, owner, source=source, clock=lambda: now)


def numbers(parts: PartialPages) -> list[str]:
    return [found.items[0]["id"] for found in parts.pages()]


@pytest.fixture(params=["local", "store"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return tmp_path / "contacts.csv" if request.param == "local" else UPath(f"memory://{tmp_path.name}/contacts.csv")


def names(target: Any) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir()) if target.parent.exists() else []


def test_pages_survive_a_round_trip(target: Any) -> None:
    parts = parts_of(target)
    for number in range(3):
        parts.add(page(number))
    parts.close()
    assert list(parts_of(target).pages()) == [page(number).page for number in range(3)]


def test_each_try_continues(target: Any) -> None:
    for number in range(3):
        parts = parts_of(target)
        assert len(numbers(parts)) == number
        parts.add(page(number))
        parts.close()
    assert numbers(parts_of(target)) == ["c-0", "c-1", "c-2"]
    name = f"contacts.csv.part-{ME.mark}-3"
    on_store = [f"{name}.part-{number:06d}" for number in (1, 2, 3)]
    assert names(target) == ([name] if isinstance(target, Path) and not isinstance(target, UPath) else on_store)


def test_page_on_a_disk_is_safe_at_once_and_private(tmp_path: Path) -> None:
    target = tmp_path / "contacts.csv"
    parts = parts_of(target)
    parts.add(page(0))
    assert numbers(parts_of(target)) == ["c-0"]
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    parts.close()


def test_pages_on_a_store_are_sent_together(target: Any, tmp_path: Path) -> None:
    target = UPath(f"memory://{tmp_path.name}/contacts.csv")
    parts = parts_of(target)
    for number in range(PAGES_AT_ONCE + 1):
        parts.add(page(number))
    assert len(numbers(parts_of(target))) == PAGES_AT_ONCE
    parts.close()
    assert len(numbers(parts_of(target))) == PAGES_AT_ONCE + 1


@pytest.mark.parametrize(
    "torn",
    [
        b'{"page": 1, "total": 5, "it',
        b"\0\0\0\0\n",
        b"\0\0\0\0",
        b"[]\n",
        b'{"page": 2, "total": 5, "items": []}\n',
        b'{"page": 1, "total": 5, "items": [7]}\n',
        b'{"page": 1, "total": "5", "items": []}\n',
    ],
    ids=str,
)
def test_truncated_or_invalid_line_is_read_again(torn: bytes, tmp_path: Path) -> None:
    target = tmp_path / "contacts.csv"
    parts = parts_of(target)
    parts.add(page(0))
    parts.close()
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes() + torn)
    again = parts_of(target)
    assert numbers(again) == ["c-0"]
    again.add(page(1))
    again.close()
    assert numbers(parts_of(target)) == ["c-0", "c-1"]


def test_empty_part_is_harmless(tmp_path: Path) -> None:
    target = tmp_path / "contacts.csv"
    target.with_name(f"contacts.csv.part-{ME.mark}-3").touch()
    parts = parts_of(target)
    parts.sweep()
    parts.add(page(0))
    parts.close()
    assert numbers(parts_of(target)) == ["c-0"]


@pytest.mark.parametrize(
    ("owner", "source", "now", "used", "kept"),
    [
        pytest.param(ME, "here", 0, True, True, id="the next try"),
        pytest.param(Owner(work=ME.work, epoch=4), "here", 0, False, False, id="after a clear"),
        pytest.param(ME, "another account", 0, False, False, id="another account"),
        pytest.param(Owner(work="other", epoch=3), "here", 0, False, True, id="another task"),
        pytest.param(Owner(work="other"), "here", LONGEST_REST + 1, False, False, id="another task, days later"),
        pytest.param(ME, "here", LONGEST_REST + 1, True, True, id="the next try, days later"),
    ],
)
def test_owner_of_parts_decides_their_use(
    owner: Owner, source: str, now: float, used: bool, kept: bool, target: Any
) -> None:
    first = parts_of(target)
    first.add(page(0))
    first.close()
    before = names(target)
    second = parts_of(target, owner, source=source, now=1000.0 + now)
    swept = second.sweep()
    assert swept == ([] if kept else [before[0].removesuffix(".part-000001")])
    assert (names(target) == before) is kept
    assert bool(numbers(second)) is used


def test_part_of_another_version_is_not_used(target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = parts_of(target)
    parts.add(page(0))
    parts.close()
    monkeypatch.setattr(module, "VERSION", 2)
    assert numbers(parts_of(target)) == []
    assert len(parts_of(target).sweep()) == 1


def test_remove_discards_unsynced_pages(target: Any) -> None:
    parts = parts_of(target)
    parts.add(page(0))
    parts.remove()
    parts.close()
    assert numbers(parts_of(target)) == []


def test_missing_folder_has_no_parts(tmp_path: Path) -> None:
    parts = parts_of(tmp_path / "none" / "contacts.csv")
    assert (numbers(parts), parts.sweep()) == ([], [])
