"""The default test suite on every supported Airflow and Python, and with the lowest allowed dependencies."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from devtools import pythons
from devtools.steps import ROOT, SIDE_BY_SIDE, StepFailed, run
from devtools.venv import Venv

FOLDER = ".venv-matrix"
OLDER = {
    "airflow-3.1": "constraints/airflow-3.1.txt",
    "airflow-3.2": "constraints/airflow-3.2.txt",
    "lowest": "constraints/lowest.txt",
}
OLDEST, NEWEST = "lowest", ("airflow-3.3", "constraints.txt")
ENDS, KILLS = "tests/system/test_stack.py", "tests/system/test_waiting.py"
REAL = ("-m", "system", ENDS, f"{KILLS}::test_a_killed_triggerer_loses_nothing_and_moves_no_deadline")
"""What also runs on the processes of a real Airflow, the oldest: the newest has ``make test-system``."""

NO_TESTS = 5  # pytest's exit code


@dataclass(frozen=True)
class Cell:
    """One environment of the matrix."""

    name: str
    constraints: str
    python: tuple[int, int]

    @property
    def names(self) -> set[str]:
        return {self.name, pythons.name(self.python)}

    @property
    def title(self) -> str:
        return f"{self.name} on Python {pythons.name(self.python)}"


@dataclass(frozen=True)
class Result:
    """How one environment did. ``verdict`` is ``ok``, ``FAILED`` or why it was not run."""

    title: str
    verdict: str
    seconds: float


def cells() -> Iterator[Cell]:
    """The older Airflows on the Python that runs this, the newest on every supported one."""
    here = pythons.parse(pythons.full_version(pythons.current()))
    for name, constraints in OLDER.items():
        yield Cell(name, constraints, here)
    for version in pythons.SUPPORTED:
        yield Cell(*NEWEST, version)


def main(arguments: list[str]) -> int:
    """Tests on every supported Airflow and Python (airflow-3.1, lowest, 3.12: these; after -- for pytest)."""
    wanted, rest = split(arguments)
    unknown = set(wanted) - {name for cell in cells() for name in cell.names}
    if unknown:
        titles = ", ".join(cell.title for cell in cells())
        raise StepFailed(f"nothing in the matrix is called {' or '.join(unknown)}; it has {titles}")
    chosen = [cell for cell in cells() if not wanted or not cell.names.isdisjoint(wanted)]
    results = []
    for cell in chosen:
        print(f"== {cell.title}", flush=True)
        start = time.monotonic()
        results.append(Result(cell.title, _try(cell, rest), time.monotonic() - start))
    print("== matrix", table(results), sep="\n", flush=True)
    return 1 if any(failed(result, by_name=bool(wanted)) for result in results) else 0


def failed(result: Result, *, by_name: bool) -> bool:
    """Whether a result is to be mended: what was asked for by name must have been run."""
    return result.verdict != "ok" if by_name else result.verdict == "FAILED"


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names before ``--`` (or all, as long as they are no options), pytest's arguments behind it."""
    if "--" in arguments:
        at = list(arguments).index("--")
        return list(arguments[:at]), list(arguments[at + 1 :])
    names = [argument for argument in arguments if not argument.startswith("-")]
    return (names, []) if len(names) == len(arguments) else ([], list(arguments))


def _try(cell: Cell, arguments: Sequence[str]) -> str:
    interpreter = pythons.find(cell.python)
    if interpreter is None:
        return f"not run: no Python {pythons.name(cell.python)} here"
    venv = Venv(ROOT / FOLDER / f"{cell.name}-py{pythons.name(cell.python)}", ROOT / cell.constraints, interpreter)
    try:
        venv.ensure()
    except StepFailed as error:
        print(error, flush=True)
        return "not run: its packages could not be installed"
    codes = [run([venv.python, "-m", "pytest", *chosen], env=venv.env()) for chosen in _tests(cell, arguments)]
    return "ok" if set(codes) <= {0, NO_TESTS} else "FAILED"


def _tests(cell: Cell, arguments: Sequence[str]) -> list[Sequence[str]]:
    """Arguments of pytest, for each of its runs."""
    if arguments:
        return [arguments]
    return [SIDE_BY_SIDE, REAL] if cell.name == OLDEST else [SIDE_BY_SIDE]


def table(results: Sequence[Result]) -> str:
    width = max(len(result.title) for result in results)
    return "\n".join(f"  {result.title:{width}}  {result.seconds:6.1f} s  {result.verdict}" for result in results)
