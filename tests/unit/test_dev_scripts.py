"""The pure functions of ``scripts/``, and what its files say about each other."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow_runs import Task, decode_xcom, exceptions_of, in_order, log_line, seconds_between
from devtools import jobs, matrix, pins, pythons, servers, venv
from devtools.venv import stamp
from mutants_groups import GROUPS
from outcomes import Expected, Row, table, verdict, why

ROOT = Path(__file__).resolve().parents[2]


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


def test_verdict_is_empty_when_all_is_as_expected() -> None:
    assert verdict(ROWS, AS_THEY_ARE) == []


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
def test_verdict_names_each_difference(changed: dict[str, Expected], problem: str) -> None:
    assert verdict(ROWS, {**AS_THEY_ARE, **changed}) == [problem]


def test_verdict_knows_no_task_by_default() -> None:
    assert verdict(ROWS[:1], {}) == ["read: not in the table of expectations, it ended as success"]


def test_table_has_columns_as_wide_as_needed_and_no_trailing_blanks() -> None:
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
        ("success", {"return_value": {"outcome": "moved"}, "crm_error": ERROR}, [], "moved"),
        ("skipped", {"crm_error": ERROR}, [], "DEAL_NOT_FOUND 404 -> skip, by on_error"),
        (
            "failed",
            {"crm_error": {"type": "INVALID_VALUE", "status": None, "action": "fail"}},
            [],
            "INVALID_VALUE -> fail",
        ),
        ("upstream_failed", {}, [], "a task before it failed"),
        (None, {}, [], ""),
    ],
)
def test_why(state: str | None, xcoms: dict[str, Any], earlier: list[str], reason: str) -> None:
    assert why(state, xcoms, earlier) == reason


# -- what the REST API answers


def task(task_id: str, map_index: int, started_at: str | None) -> Task:
    return Task(task_id, map_index, "success", 1, None, started_at, None, None)


def test_tasks_are_in_order_of_their_start_with_mapped_ones_together() -> None:
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


def test_the_stamp_changes_with_each_of_its_parts() -> None:
    parts = [b"pyproject", b"constraints", b"3.11.7"]
    changed = [stamp([*parts[:index], b"other", *parts[index + 1 :]]) for index in range(3)]
    moved_border = stamp([b"pyprojectc", b"onstraints", b"3.11.7"])
    assert len({stamp(parts), moved_border, *changed}) == 5
    assert stamp(iter(parts)) == stamp(parts)


def test_the_makefile_has_every_job() -> None:
    targets = re.search(r"^(demo .*):$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets
    assert set(targets[1].split()) == set(jobs.JOBS)


def test_an_extra_is_installed_once_and_leaves_the_rest_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "pins.txt").touch()
    installed: list[str] = []
    monkeypatch.setattr(venv, "ROOT", tmp_path)
    monkeypatch.setattr(venv, "find_uv", lambda: "uv")
    monkeypatch.setattr(venv.pythons, "full_version", lambda _: "3.11.7")
    monkeypatch.setattr(venv, "step", lambda title, command, *, advice: installed.append(command[-1]))
    (tmp_path / "venv").mkdir()
    for extra in ("test", "system", "test", "system"):
        venv.Venv(tmp_path / "venv", tmp_path / "pins.txt", "python", extra).ensure()
    assert installed == [".[test]", ".[system]"]
    (tmp_path / "pins.txt").write_text("new")
    venv.Venv(tmp_path / "venv", tmp_path / "pins.txt", "python").ensure()
    assert installed[2:] == [".[test]"]


def test_supported_pythons_are_those_of_the_project() -> None:
    named = re.findall(r"Python :: (3\.\d+)\"", (ROOT / "pyproject.toml").read_text())
    assert [pythons.name(version) for version in pythons.SUPPORTED] == named


def test_an_interpreter_is_found_only_if_it_runs() -> None:
    assert pythons.full_version(pythons.current()).startswith(pythons.name(sys.version_info[:2]))
    assert pythons.full_version("/nowhere/python3.11") == ""
    assert pythons.find((3, 2)) is None


def test_every_pins_file_is_in_the_matrix_and_names_no_index() -> None:
    assert {pin.file for pin in pins.FILES} == {*matrix.OLDER.values(), matrix.NEWEST[1]}
    for pin in pins.FILES:
        assert not re.search(r"://|--index|--find-links", (ROOT / pin.file).read_text()), pin.file


@pytest.mark.parametrize(
    ("arguments", "names", "rest"),
    [
        ([], [], []),
        (["airflow-3.1"], ["airflow-3.1"], []),
        (["airflow-3.1", "--", "-k", "x"], ["airflow-3.1"], ["-k", "x"]),
        (["-k", "x"], [], ["-k", "x"]),
    ],
)
def test_arguments_of_the_matrix(arguments: list[str], names: list[str], rest: list[str]) -> None:
    assert matrix.split(arguments) == (names, rest)


INSTALL = "apt-get install -y --no-install-recommends"


@pytest.mark.parametrize(
    ("get", "packages"),
    [(servers.get_redis, "redis-server"), (servers.get_browser, "chromium chromium-driver fonts-dejavu-core")],
)
@pytest.mark.parametrize(("installed", "user", "runs"), [(True, 0, False), (False, 1000, False), (False, 0, True)])
def test_programs_are_installed_where_we_may(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    get: Callable[[], None],
    packages: str,
    installed: bool,
    user: int,
    runs: bool,
) -> None:
    ran: list[str] = []
    monkeypatch.setattr(servers.shutil, "which", lambda name: name if installed or name == "apt-get" else None)
    monkeypatch.setattr(servers.os, "geteuid", lambda: user)
    monkeypatch.setattr(servers, "step", lambda title, command, *, advice: ran.append(" ".join(command)))
    get()
    assert ran == (["apt-get update", f"{INSTALL} {packages}"] if runs else [])
    assert (f"apt-get install {packages}" in capsys.readouterr().out) == (not installed and user != 0)


@pytest.mark.parametrize("file", ["dev.py", "devtools/pythons.py", "devtools/__init__.py"])
def test_an_old_python_can_read_what_tells_it_that_it_is_old(file: str) -> None:
    text = (ROOT / "scripts" / file).read_text()
    assert not re.search(r"from __future__|\bf\"|\) -> |: list\[", re.sub(r"#.*", "", text)), "too new for Python 3.6"


def test_times_of_airflow_and_of_the_sandbox_are_compared() -> None:
    assert seconds_between("2026-01-01T23:59:59.500Z", "2026-01-02T01:00:00+01:00") == 0.5
    with pytest.raises(ValueError, match="not happened yet"):
        seconds_between("2026-01-01T00:00:00Z", None)


def test_dev_py_tells_what_it_can_do() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "dev.py", "--help"], capture_output=True, text=True, check=True
    )
    assert all(f"  {job} " in done.stdout for job in jobs.JOBS)


def test_the_table_of_mutants_has_all_that_is_changed() -> None:
    page = (ROOT / "docs" / "development.md").read_text("utf-8")
    changed = {module.replace("/", ".") for group in GROUPS.values() for module in group.modules}
    assert set(re.findall(r"^\| `([\w.]+)` \|", page.partition("<!-- mutants -->")[2], re.MULTILINE)) == changed
    assert all((ROOT / "crm_provider" / module.replace(".", "/")).with_suffix(".py").exists() for module in changed)
