"""The commands with which README.md installs the package."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTALLS = re.findall(r"^ +\$ (pip install .*)$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)

pytestmark = pytest.mark.system


def test_readme_installs_into_a_new_environment_and_into_an_existing_airflow(tmp_path: Path) -> None:
    into_airflow, into_new = INSTALLS
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    path = f"{tmp_path / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environ |= {"PATH": path, "AIRFLOW_HOME": str(tmp_path / "airflow")}

    def run(command: str, tries: int = 1) -> str:
        """Run a command of the new environment, with two tries if it needs a package index, as the Makefile does."""
        for _ in range(tries):
            shell = ["bash", "-c", command]
            done = subprocess.run(shell, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return done.stdout
        raise AssertionError(f"{command}: {done.stderr[-2000:]}")

    run(into_new, tries=2)
    version = run("airflow version")
    assert "airflow-provider-crm" in run("airflow providers list")
    run("pip uninstall --yes airflow-provider-crm")
    assert "airflow-provider-crm" not in run("airflow providers list")
    run(into_airflow, tries=2)
    assert "airflow-provider-crm" in run("airflow providers list")
    assert run("airflow version") == version
