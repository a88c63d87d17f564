"""The files with exact versions: ``constraints.txt`` for the newest Airflow, ``constraints/`` for the matrix.

Made for every Python and platform at once, and without the name of any package index (unlike uv's lock file).
"""

from __future__ import annotations

from dataclasses import dataclass

from devtools.steps import ROOT, StepFailed, step
from devtools.venv import find_uv


@dataclass(frozen=True)
class Pins:
    """One file.

    :param newest: only packages up to this day, "" for all. An older Airflow fails every task with today's starlette
        and pydantic: it needs the packages of its time, one to three days after its release.
    """

    file: str
    about: str
    newest: str = ""
    options: tuple[str, ...] = ()


FILES = (
    Pins("constraints.txt", "The newest Airflow", options=("--extra", "system", "--extra", "docs")),
    Pins("constraints/airflow-3.2.txt", "Airflow 3.2.2 and the packages of its time", newest="2026-05-30"),
    Pins("constraints/airflow-3.1.txt", "Airflow 3.1.8 and the packages of its time", newest="2026-03-15"),
    Pins(
        "constraints/lowest.txt",
        "The lowest versions that pyproject.toml allows, with the packages of Airflow 3.1.0's time",
        newest="2025-09-28",
        options=("--resolution", "lowest-direct"),
    ),
)
OPTIONS = ["--universal", "--python-version", "3.10", "--extra", "test", "--upgrade"]
OPTIONS += ["--no-header", "--no-annotate", "--no-emit-index-url"]


def main(arguments: list[str]) -> int:
    """Makes constraints.txt and constraints/ anew (needs uv; FILE... picks some)."""
    uv = find_uv()
    if uv is None:
        raise StepFailed("Only uv can make files that hold for every Python: install it (`pip install uv`).")
    for pins in FILES:
        if not arguments or pins.file in arguments:
            make(uv, pins)
    return 0


def make(uv: str, pins: Pins) -> None:
    date = ("--exclude-newer", pins.newest) if pins.newest else ()
    command = [uv, "pip", "compile", "--quiet", *OPTIONS, *pins.options, *date, "-o", pins.file, "pyproject.toml"]
    advice = "If a version cannot be found: does the package index tell upload dates (--exclude-newer needs them)?"
    step(f"resolving {pins.file}", command, advice=advice)
    path = ROOT / pins.file
    header = f"# {pins.about}; made by `python3 scripts/dev.py pins`\n"
    path.write_text(header + path.read_text(encoding="utf-8"), encoding="utf-8")
