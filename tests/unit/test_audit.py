"""What ``make audit`` makes of the answers of advisory services, and the licences of what users install."""

from __future__ import annotations

import json
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from devtools import audit
from devtools.venv import Venv

VENV = Venv(Path("/nowhere"), Path("/nowhere"), "python")


def package(name: str, *flaws: str) -> dict[str, Any]:
    vulns = [{"id": flaw, "fix_versions": ["2.0"] if flaw.startswith("PYSEC") else []} for flaw in flaws]
    return {"name": name, "version": "1.0", "vulns": vulns}


def skipped(name: str) -> dict[str, Any]:
    return {"name": name, "skip_reason": "Dependency not found on PyPI"}


def answers(monkeypatch: pytest.MonkeyPatch, **by_service: list[dict[str, Any]] | str) -> list[list[str]]:
    """Let the services answer with these packages, or with a text that is no JSON."""
    commands: list[list[str]] = []

    def run(command: list[Any], **options: Any) -> subprocess.CompletedProcess[str]:
        commands.append([str(part) for part in command])
        said = by_service[commands[-1][commands[-1].index("--vulnerability-service") + 1]]
        text = said if isinstance(said, str) else json.dumps({"dependencies": said})
        return subprocess.CompletedProcess(command, 1, text, "")

    monkeypatch.setattr(subprocess, "run", run)
    return commands


FINE = [package(f"p{n}") for n in range(40)]


@pytest.mark.parametrize(
    ("pypi", "osv", "code", "said"),
    [
        (FINE, "", audit.CLEAN, "0 known vulnerabilities"),
        ([*FINE, package("bad", "PYSEC-1", "GHSA-2")], "", audit.VULNERABLE, "bad 1.0: PYSEC-1, fixed in 2.0"),
        ([package("bad", "GHSA-2")], "", audit.VULNERABLE, "GHSA-2, fixed in no version yet"),
        ([*FINE, skipped("own")], "", audit.CLEAN, "own: unknown to the service"),
        ([skipped(f"p{n}") for n in range(40)], FINE, audit.CLEAN, "osv was asked about 40 of 40"),
        ([skipped(f"p{n}") for n in range(40)], "no network", audit.NOT_ASKED, "COULD NOT ASK"),
        ([*FINE, *(skipped(f"q{n}") for n in range(4))], "", audit.NOT_ASKED, "40 of 44 packages"),
        ("", "[]", audit.NOT_ASKED, "says nothing about vulnerabilities"),
        ([], "{}", audit.NOT_ASKED, "COULD NOT ASK"),
    ],
)
def test_audit(
    pypi: Any, osv: Any, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = answers(monkeypatch, pypi=pypi, osv=osv)
    assert audit.audit(VENV, ["--ignore-vuln", "X"]) == code
    assert said in capsys.readouterr().out
    assert all(command[-2:] == ["--ignore-vuln", "X"] for command in commands)


def test_not_asked_is_neither_clean_nor_vulnerable() -> None:
    assert len({audit.CLEAN, audit.VULNERABLE, audit.NOT_ASKED}) == 3
    assert audit.CLEAN == 0


# -- licences ----------------------------------------------------------------------------------------------------

FREE = re.compile(r"Apache|MIT|BSD|PSF|Python Software Foundation")
"""Licences that allow use in any product, whatever its own licence."""

FOR_USERS = ("parquet", "phone", "openlineage", "redis", "sandbox")


def what_users_install() -> list[str]:
    wanted = metadata.requires("airflow-provider-crm") or []
    for_all = [text for text in wanted if "extra ==" not in text]
    for_some = [text for text in wanted if any(f"extra == '{extra}'" in text for extra in FOR_USERS)]
    return sorted({match[0] for text in for_all + for_some if (match := re.match(r"[\w.-]+", text))})


def test_the_list_is_what_users_install() -> None:
    assert {"apache-airflow", "requests", "tenacity", "pyarrow", "redis", "fastapi"} <= set(what_users_install())
    assert "pytest" not in what_users_install()


@pytest.mark.parametrize("name", what_users_install())
def test_what_users_install_is_under_a_free_licence(name: str) -> None:
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed here: an optional extra that this matrix run leaves out")
    classifiers = [text for text in about.get_all("Classifier") or [] if text.startswith("License ::")]
    licence = " ".join(filter(None, [about.get("License-Expression"), about.get("License"), *classifiers]))
    assert FREE.search(licence), f"{name}: {licence[:200]!r}"
    assert "GPL" not in licence
