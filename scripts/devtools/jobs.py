"""The jobs of ``scripts/dev.py``."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from devtools import audit as audits
from devtools import core, matrix, pins, pythons, servers
from devtools.steps import ROOT, SIDE_BY_SIDE, StepFailed, run
from devtools.venv import Venv

Command = list[str | Path]
Arguments = list[str]

CACHES = (".coverage", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache")
WASTE = (".venv", matrix.FOLDER, "build", "dist", "site", *CACHES)
NO_TEST = 5
"""The exit code of pytest when no test fits its arguments."""
SOURCES = ("crm_provider", "example_dags", "scripts", "tests")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one job and return its exit code."""
    options, rest = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # ends what was started, too
    try:
        return JOBS[options.job](rest)
    except StepFailed as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


def _parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, Arguments]:
    jobs = "\n".join(f"  {name:12} {job.__doc__}" for name, job in JOBS.items())
    parser = argparse.ArgumentParser(
        prog="dev.py",
        usage="python3 scripts/dev.py JOB [-- ARGUMENTS]      or      make JOB [ARGS='ARGUMENTS']",
        description=f"jobs:\n{jobs}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("job", choices=JOBS, metavar="JOB", help="one of the above")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENTS", help="passed on")
    options = parser.parse_args(arguments)
    rest: Arguments = options.arguments
    return options, rest[1:] if rest[:1] == ["--"] else rest


def project(extra: str = "test") -> Venv:
    """The environment that all jobs but the matrix run in."""
    venv = Venv(ROOT / ".venv", ROOT / "constraints.txt", pythons.current(), extra)
    venv.ensure()
    return venv


# -- the jobs


def demo(arguments: Arguments) -> int:
    """Runs the example pipeline on a real Airflow against the sandbox (--keep, --dag ID)."""
    venv = project()
    return run([venv.python, "scripts/demo.py", *arguments], env=venv.env())


def test(arguments: Arguments) -> int:
    """Style, types, unit and integration tests; with arguments only pytest, with these."""
    venv = project()
    if arguments:
        return run([venv.python, "-m", "pytest", *arguments], env=venv.env())
    commands = _checks(venv)
    commands["unit"] = [venv.python, "-m", "pytest", "tests/unit", *SIDE_BY_SIDE, "--cov", "--cov-report="]
    commands["core"] = [
        venv.python,
        "-m",
        "coverage",
        "report",
        f"--include={','.join(core.files())}",
        "--fail-under=100",
    ]
    commands["integration"] = [venv.python, "-m", "pytest", "tests/contract", "tests/integration", *SIDE_BY_SIDE]
    return _run_all(venv, commands)


def test_system(arguments: Arguments) -> int:
    """Tests that need a real scheduler and triggerer, Celery workers or Redis; arguments go to pytest."""
    venv = project("system")
    servers.get_redis()
    servers.get_browser()
    return run([venv.python, "-m", "pytest", "-m", "system", "tests/system", *arguments], env=venv.env())


def contract(arguments: Arguments) -> int:
    """What is assumed about the API, tried on the sandbox and on the account of CRM_API_KEY (--report FILE)."""
    venv = project()
    return run([venv.python, "-m", "pytest", "tests/contract", "--contract", *arguments], env=venv.env())


def bench(arguments: Arguments) -> int:
    """This provider next to what one would write without it; fails below its bars (--write docs/performance.md)."""
    venv = project("bench")
    return run([venv.python, "tests/benchmarks/bench_side_by_side.py", *arguments], env=venv.env())


def bench_waiting(arguments: Arguments) -> int:
    """What waiting costs: one poll for all next to one for each (--write docs/sensors.md)."""
    venv = project()
    return run([venv.python, "tests/benchmarks/bench_waiting.py", *arguments], env=venv.env())


def bench_pacing(arguments: Arguments) -> int:
    """How much of the rate limit is used, next to what one would write by hand (--write docs/rate-budget.md)."""
    venv = project()
    servers.get_redis()
    return run([venv.python, "tests/benchmarks/bench_pacing.py", *arguments], env=venv.env())


def bench_load(arguments: Arguments) -> int:
    """What a load costs: the share of the limit, calls, memory (--write docs/load.md)."""
    venv = project()
    return run([venv.python, "tests/benchmarks/bench_load.py", *arguments], env=venv.env())


def reliability(arguments: Arguments) -> int:
    """Breaks everything that can break and writes docs/reliability.md; arguments go to pytest."""
    venv = project("system")
    with tempfile.TemporaryDirectory() as folder:
        seen = Path(folder) / "seen.jsonl"
        tests = arguments or ["tests"]
        code = run([venv.python, "-m", "pytest", "-m", "reliability", "--reliability", seen, *tests], env=venv.env())
        partly = ["--only-seen"] if arguments else []
        return code or run([venv.python, "scripts/reliability.py", seen, "--write", *partly], env=venv.env())


def bench_imports(arguments: Arguments) -> int:
    """What a DAG file costs to parse, next to official providers (--write docs/performance.md)."""
    venv = project("bench")
    return run([venv.python, "tests/benchmarks/bench_imports.py", *arguments], env=venv.env())


def fuzz(arguments: Arguments) -> int:
    """Every property with many examples, ever new ones (CRM_FUZZ_EXAMPLES=500); arguments go to pytest."""
    venv = project("system")
    env = {"CRM_FUZZ_EXAMPLES": "500", **venv.env()}
    unit: Command = ["-m", "hypothesis", "tests/unit", "tests/unit/fuzz/damaged_parquet.py"]
    system: Command = ["-m", "system", "tests/system/openapi"]
    codes = [run([venv.python, "-m", "pytest", *tests, *arguments], env=env) for tests in (unit, system)]
    return max((code for code in codes if code != NO_TEST), default=NO_TEST)


def mutants(arguments: Arguments) -> int:
    """Changes the code of the core's decisions and sees whether a test notices (GROUP, --again, --report, --write)."""
    venv = project("mutation")
    return run([venv.python, "scripts/mutants.py", *arguments], env=venv.env())


def audit(arguments: Arguments) -> int:
    """Known vulnerabilities of the pinned versions: exit code 1 if there are any, 3 if nobody could be asked."""
    return audits.audit(project("audit"), arguments)


def lint(arguments: Arguments) -> int:
    """Style and types; arguments go to `ruff check` (--fix)."""
    venv = project()
    return _run_all(venv, _checks(venv, arguments))


def docs(arguments: Arguments) -> int:
    """The documentation as a site, with every link and example checked; with arguments only pytest, with these."""
    venv = project("docs")
    examples: Command = [venv.python, "-m", "pytest", "-m", "docs", *(arguments or ["tests/docs"])]
    if arguments:
        return run(examples, env=venv.env())
    return _run_all(venv, {"site": [venv.python, "scripts/docs_site.py"], "examples": examples})


def dist(arguments: Arguments) -> int:
    """Builds what is published into dist/, checks it, and installs it where nothing else is."""
    venv = project("docs")
    return run([venv.python, "scripts/dist.py", *arguments], env=venv.env())


def clean(_arguments: Arguments) -> int:
    """Deletes the virtual environments and what tools have left behind."""
    caches = [path for folder in SOURCES for path in (ROOT / folder).rglob("__pycache__")]
    for path in [*(ROOT / name for name in WASTE), *ROOT.glob("*.egg-info"), *caches]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return 0


JOBS: dict[str, Callable[[Arguments], int]] = {
    "demo": demo,
    "test": test,
    "test-system": test_system,
    "contract": contract,
    "bench": bench,
    "bench-waiting": bench_waiting,
    "bench-pacing": bench_pacing,
    "bench-load": bench_load,
    "bench-imports": bench_imports,
    "matrix": matrix.main,
    "reliability": reliability,
    "fuzz": fuzz,
    "mutants": mutants,
    "lint": lint,
    "audit": audit,
    "docs": docs,
    "dist": dist,
    "pins": pins.main,
    "clean": clean,
}


def _checks(venv: Venv, arguments: Sequence[str] = ()) -> dict[str, Command]:
    return {
        "style": [venv.python, "-m", "ruff", "check", *arguments, "."],
        "format": [venv.python, "-m", "ruff", "format", "--check", "."],
        "types": [venv.python, "-m", "mypy"],
    }


def _run_all(venv: Venv, commands: dict[str, Command]) -> int:
    """Run them all, also after a failure, so that one run shows all there is to mend."""
    lines, worst = [], 0
    for name, command in commands.items():
        print(f"== {name}", flush=True)
        start = time.monotonic()
        code = run(command, env=venv.env())
        lines.append(f"  {name:10} {time.monotonic() - start:6.1f} s  {'FAILED' if code else 'ok'}")
        worst = worst or code
    print("== summary", *lines, sep="\n", flush=True)
    return worst
