"""The core does not import Airflow, and heavy modules are loaded lazily."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from coverage import Coverage

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "crm_provider"


def named(path: Path) -> str:
    """The module in a file of the package, by its full name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


OMITTED = Coverage(config_file=str(ROOT / "pyproject.toml")).get_option("run:omit")
"""Patterns of modules outside the core. The rest of the package is core, including new modules."""

VERSION = "crm_provider/__init__.py"

CORE = sorted(
    named(path)
    for path in PACKAGE.rglob("*.py")
    if not any(path.relative_to(ROOT).match(pattern) for pattern in OMITTED)
)

WITH_THE_FIRST_CALL = {"crm_provider.client.http_session"}
"""Modules that need `requests`: loaded when a client is created."""

HEAVY = {
    "airflow",
    "requests",
    "urllib3",
    "fastapi",
    "uvicorn",
    "starlette",
    "pydantic",
    "email_validator",
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
    """The packages loaded after some code ran in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOADED.format(code=code)], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout))


def test_importing_the_core_loads_nothing_heavy() -> None:
    loaded = loaded_by("".join(f"import {name}\n" for name in CORE if name not in WITH_THE_FIRST_CALL))
    assert "crm_provider" in loaded
    assert loaded & HEAVY == set()


def test_creating_a_client_loads_requests_but_no_airflow() -> None:
    loaded = loaded_by(
        "from crm_provider.client.client import CrmClient\n"
        "from crm_provider.client.settings import Settings\n"
        "CrmClient(Settings(api_key='k')).close()"
    )
    assert "requests" in loaded
    assert loaded & HEAVY <= {"requests", "urllib3"}


def test_command_line_loads_nothing_heavy() -> None:
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


def _raises_again(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


HANDED_ON = {
    "crm_provider.client.transport",  # guards calls from users' observers
    "crm_provider.waiting.poller",  # each waiter raises the bug
}


@pytest.mark.parametrize("name", sorted({*CORE} - HANDED_ON))
def test_no_broad_except_continues_silently(name: str) -> None:
    caught = [
        ast.unparse(node.type) if node.type else "everything"
        for node in ast.walk(source_of(name))
        if isinstance(node, ast.ExceptHandler) and not _raises_again(node)
    ]
    assert [what for what in caught if what in ("everything", "Exception", "BaseException")] == []


def test_only_the_version_is_excluded_from_coverage() -> None:
    docstring, *statements = ast.parse((ROOT / VERSION).read_text()).body
    assert isinstance(docstring, ast.Expr)
    assert [ast.unparse(statement).partition(" = ")[0] for statement in statements] == ["__version__"]


def test_every_pattern_outside_the_core_matches_a_file() -> None:
    assert [pattern for pattern in OMITTED if not any(ROOT.glob(pattern))] == []
