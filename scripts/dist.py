"""Build what is published into ``dist/``, check it, and install it where nothing else is.

    python scripts/dist.py        needs what the extra `docs` brings (build, hatchling, twine)

What is in the two files is checked by ``tests/unit/test_packages.py``.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from devtools import pythons
from devtools.steps import ROOT, StepFailed, step
from devtools.venv import PATIENT, find_uv

Command = list[str | Path]

DIST = ROOT / "dist"
SMOKE: tuple[tuple[str, list[str]], ...] = (
    ("import", ["-c", "import crm_provider; print(crm_provider.__version__)"]),
    ("policy", ["-m", "crm_provider", "policy", "--for", "CrmMoveDealStageOperator"]),
    (
        "discovery",
        [
            "-c",
            "from importlib.metadata import entry_points as e; [p.load() for p in e(group='apache_airflow_provider')]",
        ],
    ),
    ("operators", ["-c", "import crm_provider.operators.load, crm_provider.sensors.lists, crm_provider.hooks.crm"]),
)


def main() -> int:
    """Build, check, install, try out."""
    try:
        _build()
        with tempfile.TemporaryDirectory(prefix="crm-dist-") as folder:
            _try_out(Path(folder) / "venv")
    except StepFailed as failed:
        print(failed, file=sys.stderr)
        return 1
    print(*(path.relative_to(ROOT) for path in sorted(DIST.iterdir())), sep="\n")
    return 0


def _build() -> None:
    shutil.rmtree(DIST, ignore_errors=True)
    build: Command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", DIST]
    step("building the sdist, and the wheel from it", build, advice="Is all that it needs in pyproject.toml?")
    files = sorted(DIST.iterdir())
    check: Command = [sys.executable, "-m", "twine", "check", "--strict", *files]
    step("twine check --strict", check, advice="The package index would refuse this.")


def _try_out(venv: Path) -> None:
    """Install the wheel without any extra into an empty environment, and use it."""
    (wheel,) = DIST.glob("*.whl")
    python, uv = venv / "bin" / "python", find_uv()
    what: Command = ["-c", ROOT / "constraints.txt", wheel]
    if uv:
        step("making an empty environment", [uv, "venv", "--python", pythons.current(), venv], advice="See above.")
        install: Command = [uv, "pip", "install", "--python", python, *what]
    else:
        step("making an empty environment", [pythons.current(), "-m", "venv", venv], advice="See above.")
        install = [python, "-m", "pip", "install", "--quiet", *PATIENT, *what]
    step(f"installing {wheel.name} without extras", install, advice="Is there a way to the package index?")
    os.environ["AIRFLOW_HOME"] = str(venv.parent)  # else Airflow makes one in the user's home
    for name, arguments in SMOKE:
        step(f"trying {name}", [python, "-W", "error::ImportWarning", *arguments], advice="A dependency is missing.")


if __name__ == "__main__":
    sys.exit(main())
