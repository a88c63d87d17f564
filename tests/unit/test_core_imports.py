"""Below the line there is no Airflow, and what is heavy is loaded when it is needed."""

from __future__ import annotations

import ast
import importlib.util
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import crm_provider
import crm_provider.calls
import crm_provider.load
import crm_provider.pacing

CORE = [
    "crm_provider",
    *(f"crm_provider.{name}" for name in (
        "__main__", "catalogue", "client", "errors", "ordering", "pacing", "paging", "policy", "readahead", "redaction",
        "responses", "settings",
        "traffic", "transport", "validate", "waiting", "watching", "wire",
    )),
    *(f"crm_provider.calls.{module.name}" for module in pkgutil.iter_modules(crm_provider.calls.__path__)),
    *(f"crm_provider.load.{module.name}" for module in pkgutil.iter_modules(crm_provider.load.__path__)),
    *(f"crm_provider.pacing.{module.name}" for module in pkgutil.iter_modules(crm_provider.pacing.__path__)),
]  # fmt: skip

ABOVE = (
    "airflow",
    *(f"crm_provider.{name}" for name in (
        "_compat", "assets", "hooks", "lineage", "links", "metrics", "operators", "outcome", "retry", "sensors",
        "site_config", "tracing", "transfers", "triggers", "ui",
    )),
)  # fmt: skip
"""What stands above the line."""

HEAVY = {
    "airflow",
    "requests",
    "urllib3",
    "fastapi",
    "uvicorn",
    "starlette",
    "pydantic",
    "tenacity",
    "redis",
    "pyarrow",
    "phonenumbers",
    "hypothesis",
}

LOADED = """
import json, sys
{code}
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""


def loaded_by(code: str) -> set[str]:
    """The packages that are loaded after some code ran in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOADED.format(code=code)], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout))


def test_importing_the_core_loads_nothing_heavy() -> None:
    loaded = loaded_by("".join(f"import {name}\n" for name in CORE))
    assert "crm_provider" in loaded
    assert loaded & HEAVY == set()


def test_making_a_client_loads_requests_but_no_airflow() -> None:
    loaded = loaded_by(
        "from crm_provider.client import CrmClient\n"
        "from crm_provider.settings import Settings\n"
        "CrmClient(Settings(api_key='k')).close()"
    )
    assert "requests" in loaded
    assert loaded & HEAVY <= {"requests", "urllib3"}


def test_the_command_line_loads_nothing_heavy() -> None:
    loaded = loaded_by(
        "import contextlib, io\n"
        "from crm_provider.__main__ import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    assert main(['policy']) == 0"
    )
    assert loaded & HEAVY == set()


def source_of(name: str) -> ast.Module:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted({*CORE} - {"crm_provider.__main__"}))  # --site asks for Airflow's configuration
def test_no_airflow_below_the_line_not_even_later(name: str) -> None:
    imported = {
        module
        for node in ast.walk(source_of(name))
        for module in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert [module for module in imported if module.startswith(ABOVE)] == []


def _raises_again(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


@pytest.mark.parametrize("name", sorted({*CORE} - {"crm_provider.traffic"}))  # guards calls from users' observers
def test_nothing_catches_everything_to_go_on(name: str) -> None:
    caught = [
        ast.unparse(node.type) if node.type else "everything"
        for node in ast.walk(source_of(name))
        if isinstance(node, ast.ExceptHandler) and not _raises_again(node)
    ]
    assert [what for what in caught if what in ("everything", "Exception", "BaseException")] == []
