"""``docs/sandbox.md`` matches the sandbox."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from crm_provider.sandbox import EFFECTS, MAGIC_EMAILS, Sandbox
from crm_provider.sandbox.__main__ import _parser
from crm_provider.sandbox.admin import create_admin_app
from crm_provider.sandbox.gateway import Gateway
from crm_provider.sandbox.seeds import load_seed

TEXT = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def test_docs_list_all_magic_emails_and_effects() -> None:
    rows = [f"| `{row.email}` | {row.does} |" for row in MAGIC_EMAILS]
    rows += [f"| `{effect}` | {does} |" for effect, does in EFFECTS.items()]
    assert [row for row in rows if row not in TEXT] == []


def test_docs_list_all_sandbox_options() -> None:
    options = {option for action in _parser()._actions for option in action.option_strings if option[:2] == "--"}
    assert set(re.findall(r"`(--[a-z-]+)`", TEXT)) >= options - {"--help"}


def test_docs_list_all_admin_routes() -> None:
    paths = create_admin_app(Gateway()).openapi()["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert [route for route in routes if f"`{route}`" not in TEXT] == []


def test_seed_example_of_the_docs_loads(tmp_path: Path) -> None:
    (seed,) = blocks("json")
    path = tmp_path / "seed.json"
    path.write_text(seed, encoding="utf-8")
    assert load_seed(str(path))["contacts"][0]["email"] == "ann@example.com"


def test_python_examples_of_the_sandbox_docs_run() -> None:
    ids_example, sandbox_example = (block for block in blocks("python") if "import pytest" not in block)
    exec(compile(ids_example, "docs/sandbox.md", "exec"), {})
    exec(compile(sandbox_example, "docs/sandbox.md", "exec"), {})


@pytest.mark.skipif(shutil.which("curl") is None, reason="the examples use curl")
def test_curl_examples_of_the_docs_work(crm_sandbox: Sandbox) -> None:
    script = "\n".join(block for block in blocks("bash") if "curl" in block)
    script = re.sub(r"\bcurl\b", "curl --fail --silent --show-error", script)
    script = script.replace("http://127.0.0.1:8000", crm_sandbox.root_url)
    environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        ["bash", "-euc", script], capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert '"Ada Example"' in done.stdout
    assert done.stdout.count('"effect":"error"') == 4  # two added faults, each printed twice
    assert crm_sandbox.faults() == []
