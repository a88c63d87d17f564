"""The pure functions of ``scripts/``, and consistency between its files."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow_client.client.exceptions import NotFoundException
from airflow_env import base_env
from airflow_runs import Task, decode_xcom, exceptions_of, in_order, log_line
from airflow_waits import seconds_between
from demo import error_of_try
from mutants_groups import GROUPS
from outcomes import Expected, Row, differences, table, why

ROOT = Path(__file__).resolve().parents[2]
MAKE = ("make", "--no-print-directory")


# -- the demo's table and verdict

ROWS = [
    Row("read", "success", 1, ""),
    Row("upsert[0]", "success", 1, "created"),
    Row("upsert[1]", "skipped", 1, "INVALID_INPUT 422 -> skip, by on_error"),
    Row("flaky", "success", 2, "updated, after CrmServiceUnavailableError"),
]
AS_THEY_ARE = {
    "read": Expected("success"),
    "upsert": Expected("success", "created"),
    "upsert[1]": Expected("skipped", "^INVALID_INPUT"),
    "flaky": Expected("success", "after", tries=2),
}


def test_no_differences_when_all_is_as_expected() -> None:
    assert differences(ROWS, AS_THEY_ARE) == []


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"read": Expected("failed")}, "read: success instead of failed (no reason given)"),
        (
            {"upsert[1]": Expected("skipped", "DEAL")},
            "upsert[1]: skipped because of 'INVALID_INPUT 422 -> skip, by on_error', which does not match 'DEAL'",
        ),
        ({"flaky": Expected("success", tries=1)}, "flaky: 2 tries instead of 1"),
        ({"other": Expected("success")}, "other: expected, but the run has no such task"),
    ],
)
def test_each_difference_is_named(changed: dict[str, Expected], problem: str) -> None:
    assert differences(ROWS, {**AS_THEY_ARE, **changed}) == [problem]


class LogsOfOneTry:
    """Airflow's API, with a log for the second try only."""

    def log_events(self, run: Any, task: Any, try_number: int) -> list[dict[str, Any]]:
        if try_number == 1:
            raise NotFoundException(status=404, reason="Not Found")
        return [{"error_detail": [{"exc_type": "CrmTimeoutError", "exc_value": "no response"}]}]


@pytest.mark.parametrize(("number", "why"), [(1, "a try that never started"), (2, "CrmTimeoutError")])
def test_try_without_a_log_never_started(number: int, why: str) -> None:
    api, run, task = LogsOfOneTry(), None, None
    assert error_of_try(api, run, task, number) == why  # type: ignore[arg-type]


def test_components_are_isolated_from_the_callers_airflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", "sqlite:///w.db")
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    monkeypatch.setenv("AIRFLOW_CONFIG", "/etc/airflow.cfg")
    env = base_env(Path("/home"), Path("/dags"), 8080, sys.executable)
    assert "AIRFLOW_CONN_WAREHOUSE" not in env
    assert env["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert "AIRFLOW_CONFIG" not in env
    assert float(env["AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT"]) > 5  # Airflow's default


def test_differences_without_a_task_by_default() -> None:
    assert differences(ROWS[:1], {}) == ["read: not expected, but it ended as success"]


def test_table_columns_fit_without_trailing_blanks() -> None:
    assert table(ROWS[:2]).splitlines() == [
        "task       state    tries  why",
        "---------  -------  -----  -------",
        "read       success  1",
        "upsert[0]  success  1      created",
    ]


ERROR = {"type": "DEAL_NOT_FOUND", "status": 404, "action": "skip", "origin": "on_error"}


@pytest.mark.parametrize(
    ("state", "xcoms", "earlier", "reason"),
    [
        ("success", {"return_value": {"id": "1", "outcome": "created"}}, [], "created"),
        ("success", {"return_value": {"outcome": "created"}}, ["CrmError"], "created, after CrmError"),
        ("success", {"return_value": [1, 2]}, [], ""),
        (
            "success",
            {"return_value": {"rows": 3, "created": 2, "updated": 0, "rejected": 1}},
            [],
            "3 rows: 2 created, 1 rejected",
        ),
        ("success", {"return_value": {"outcome": "moved"}, "crm_error": ERROR}, [], "moved"),
        ("skipped", {"crm_error": ERROR}, [], "DEAL_NOT_FOUND 404 -> skip, by on_error"),
        (
            "failed",
            {"crm_error": {"type": "INVALID_VALUE", "status": None, "action": "fail"}},
            [],
            "INVALID_VALUE -> fail",
        ),
        ("upstream_failed", {}, [], "an upstream task failed"),
        (None, {}, [], ""),
    ],
)
def test_reason_for_a_task_state(state: str | None, xcoms: dict[str, Any], earlier: list[str], reason: str) -> None:
    assert why(state, xcoms, earlier) == reason


# -- responses of the REST API --


def task(task_id: str, map_index: int, started_at: str | None) -> Task:
    return Task(task_id, map_index, "success", 1, None, started_at, None, None)


def test_tasks_are_ordered_by_start_with_mapped_ones_together() -> None:
    tasks = [
        task("later", -1, "2026-01-02"),
        task("many", 1, "2026-01-01"),
        task("many", 0, "2026-01-03"),
        task("never", -1, None),
    ]
    assert [item.name for item in in_order(tasks)] == ["many[0]", "many[1]", "later", "never"]


@pytest.mark.parametrize(
    ("stored", "value"),
    [('{"id": 1}', {"id": 1}), ({"id": 1}, {"id": 1}), ("plain text", "plain text"), ("7", 7), (None, None)],
)
def test_xcoms_are_decoded(stored: Any, value: Any) -> None:
    assert decode_xcom(stored) == value


def test_log_lines_show_exceptions() -> None:
    event = {
        "timestamp": "2026-01-01",
        "level": "error",
        "event": "Task failed",
        "error_detail": [{"exc_type": "CrmError", "exc_value": "gone"}],
    }
    assert log_line(event) == "2026-01-01 error Task failed\n    CrmError: gone"
    assert log_line("::group::") == "::group::"
    assert exceptions_of({"event": "fine"}) == []


# -- set-up


def test_supported_pythons_are_those_of_the_project() -> None:
    named = re.findall(r"Python :: (3\.\d+)\"", (ROOT / "pyproject.toml").read_text())
    supported = re.search(r"^SUPPORTED := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert supported
    assert supported[1].split() == named


def test_unsupported_python_gets_one_clear_line(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 9, 18); $2"\n')
    old.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    done = subprocess.run([*MAKE, "test", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr.splitlines()[0].startswith("Python 3.9 is not supported, only 3.10 3.11")
    assert not (tmp_path / ".venv").exists()


def test_every_command_has_a_line_of_help() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony
    done = subprocess.run([*MAKE, "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {line.split()[0] for line in done.stdout.splitlines()} == set(phony[1].split())


def test_pins_files_name_no_index() -> None:
    files = [ROOT / "constraints.txt", *(ROOT / "constraints").glob("*.txt")]
    assert len(files) == 4
    for file in files:
        assert not re.search(r"://|--index|--find-links", file.read_text()), file.name


def test_times_of_airflow_and_the_sandbox_are_compared() -> None:
    assert seconds_between("2026-01-01T23:59:59.500Z", "2026-01-02T01:00:00+01:00") == 0.5
    with pytest.raises(ValueError, match="not ended yet"):
        seconds_between("2026-01-01T00:00:00Z", None)


def test_table_of_mutants_is_complete() -> None:
    page = (ROOT / "docs" / "development.md").read_text("utf-8")
    changed = {module.replace("/", ".") for group in GROUPS.values() for module in group.modules}
    assert set(re.findall(r"^\| `([\w.]+)` \|", page.partition("<!-- mutants -->")[2], re.MULTILINE)) == changed
    assert all((ROOT / "crm_provider" / module.replace(".", "/")).with_suffix(".py").exists() for module in changed)
    named = [test.partition("::") for group in GROUPS.values() for test in (*group.tests, *group.too_slow)]
    assert [file for file, _, test in named if f"def {test}" not in (ROOT / file).read_text("utf-8")] == []
