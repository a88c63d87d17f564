"""Loads and extracts on a full disk, as real tasks: they fail with the reason, counts and a report, and are retried."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crm_provider.client.pagination import AT_ONCE
from crm_provider.files import journal, paths
from crm_provider.load.progress import SENT_ROWS
from crm_provider.operators.extract import CrmExtractContactsOperator
from crm_provider.operators.load import CrmLoadContactsOperator
from crm_provider.sandbox import Sandbox, SandboxSettings

RunTask = Callable[..., Any]
Observed = Callable[..., None]
pytestmark = pytest.mark.reliability("process")

NO_SPACE = "cannot be written: No space left on device"
ADVICE = "Free disk space or fix the path"

SOURCE = [{"email": f"p{number}@example.com"} for number in range(1, 9)]


class Disk:
    """A disk that rejects some writes of one module and then has space again.

    :param fits: writes that succeed before the disk is full
    :param full: writes that fail before there is space
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any, *, fits: int, full: int) -> None:
        self._write, self._fits, self._full = module.append, fits, full
        monkeypatch.setattr(module, "append", self)

    def __call__(self, *arguments: Any) -> None:
        self._fits -= 1
        if self._fits < 0 < self._full:
            self._full -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        self._write(*arguments)


def test_load_on_a_full_disk_is_retried(
    crm: Sandbox, run_task: RunTask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, observed: Observed
) -> None:
    crm.add_fault(effect="error", error="INVALID_INPUT", email="p3@example.com")
    crm.add_fault(effect="error", error="INVALID_INPUT", email="p6@example.com")
    Disk(monkeypatch, journal, fits=1, full=1)
    rejects = tmp_path / "rejects.jsonl"
    task = run_task(CrmLoadContactsOperator, source=SOURCE, rejects_path=str(rejects), max_rejects=5)
    assert task.states == ["up_for_retry", "success"]
    assert f"LoadUnsaved: {rejects} {NO_SPACE}. The load stopped after: 8 rows:" in task.log
    assert f"Report: {rejects}.report.md" in " ".join(task.log.split())
    line = next(line for line in task.log.splitlines() if f"LoadUnsaved: {rejects}" in line)
    assert line.count(f"{ADVICE}; a retry continues from there") == 1
    assert (task.result["rejected"], task.result["left"]) == (2, 0)
    assert task.result["created"] == len(crm.store.contacts) - 11 == 6
    assert sorted(json.loads(line)["row"] for line in rejects.read_text().splitlines()) == [3, 6]
    sent = [entry for entry in crm.journal(method="POST", route="/contacts") if entry.applied or entry.error]
    assert len(sent) <= len(SOURCE) + SENT_ROWS
    observed(
        fault="the disk is full until somebody frees space",
        hits="load: rejects, state, checkpoint",
        ends="success, after some tries",
        requests=f"at most {SENT_ROWS} rows and those in flight again in each try",
        data="nothing lost, nothing duplicated; each rejected row in the file once",
        said=f"`LoadUnsaved`: FILE {NO_SPACE}. The load stopped after: the counts",
        remedy=f"{ADVICE}; a retry continues",
    )


@pytest.mark.usefixtures("crm")
def test_disk_that_is_full_before_the_load_is_retried(
    run_task: RunTask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    draft_beside = paths.draft_beside

    def full(_: Path) -> None:
        monkeypatch.setattr(paths, "draft_beside", draft_beside)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(paths, "draft_beside", full)
    rejects = tmp_path / "rejects.jsonl"
    task = run_task(CrmLoadContactsOperator, source=SOURCE, rejects_path=str(rejects))
    assert task.states == ["up_for_retry", "success"]
    assert f"LoadUnsaved: {rejects} {NO_SPACE}. The load stopped after: 0 rows" in task.log


@pytest.mark.usefixtures("crm")
def test_load_on_a_full_disk_without_retries_keeps_its_counts(
    run_task: RunTask, crm: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    crm.add_fault(effect="error", error="INVALID_INPUT", email="p3@example.com")
    Disk(monkeypatch, journal, fits=0, full=100)
    task = run_task(CrmLoadContactsOperator, source=SOURCE, rejects_path=str(tmp_path / "rejects.jsonl"), retries=0)
    assert task.states == ["failed"]
    assert type(task.error).__name__ == "LoadUnsaved"
    assert task.result["rows"] == 8
    assert task.result["left"] >= 1
    assert str(task.error).endswith(
        f". {ADVICE}. A cleared task starts with the first row; with state_path, loaded rows then cost no call"
    )
    assert task.result["ending"] == f"{task.error}."
    assert NO_SPACE in Path(task.result["report_path"]).read_text("utf-8")


def test_extract_on_a_full_disk_is_retried(
    crm: Sandbox, run_task: RunTask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, observed: Observed
) -> None:
    crm.reset(SandboxSettings(seed="contacts:35", rate=None))
    Disk(monkeypatch, journal, fits=3, full=1)  # the header and two pages
    target = tmp_path / "contacts.jsonl"
    task = run_task(CrmExtractContactsOperator, target=str(target), retries=1)
    assert task.states == ["up_for_retry", "success"]
    assert f"ExtractUnsaved: {target}.part-" in task.log
    assert f" {NO_SPACE}. 2 pages of contacts are kept beside {target}" in task.log
    assert task.result["calls"] == 2, "saved pages are not read again"
    assert [path.name for path in tmp_path.iterdir()] == ["contacts.jsonl"]
    observed(
        fault="the disk is full until somebody frees space",
        hits="extract",
        ends="success, after some tries",
        requests=f"each page, and at most {AT_ONCE + 1} of them again in each try",
        data="the file is complete; there is none until there is space",
        said=f"`ExtractUnsaved`: FILE {NO_SPACE}. N pages of contacts are kept beside it",
        remedy=f"{ADVICE}; a retry continues",
    )
