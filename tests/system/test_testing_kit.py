"""The testing kit in a user's project: the code of ``docs/testing.md``, run by its own pytest."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import docs_text
import pytest
from docs_text import DOCS, ROOT

pytestmark = pytest.mark.system


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with a DAG, and with the conftest, the first test and the test file of the page."""
    conftest, first, *_, whole = (fence.code for fence in docs_text.fences(DOCS / "testing.md", "python"))
    (tmp_path / "dags").mkdir()
    shutil.copy(ROOT / "example_dags" / "crm_quickstart.py", tmp_path / "dags")
    (tmp_path / "conftest.py").write_text(conftest, encoding="utf-8")
    (tmp_path / "test_first.py").write_text(first, encoding="utf-8")
    place = 'Path(__file__).parents[2] / "example_dags"'
    assert place in whole
    (tmp_path / "test_whole.py").write_text(whole.replace(place, 'Path("dags")'), encoding="utf-8")
    return tmp_path


def test_testing_kit_in_a_users_project(project: Path) -> None:
    production = project / "production"  # a setting of the developer's shell, which must not change
    env = {**os.environ, "AIRFLOW_HOME": str(production), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////nowhere"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error:::crm_provider"]
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout[-5000:]
    assert done.stdout.splitlines()[-1].startswith("8 passed")
    assert not production.exists()
