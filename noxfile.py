"""The commands with several steps, as nox sessions; ``make`` sets up the environment that most of them run in.

Only the cells of the matrix and the test of the wheel have their own environments, in ``.venv-matrix``.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import nox
from nox import Session

nox.needs_version = ">=2025.2.9"
nox.options.envdir = ".venv-matrix"
nox.options.default_venv_backend = "uv|venv"
nox.options.download_python = "never"
nox.options.reuse_venv = "yes"

HERE = "{}.{}".format(*sys.version_info[:2])

SIDE_BY_SIDE = ("--numprocesses=auto", "--maxprocesses=4", "--dist=worksteal")
"""Tests in several processes. Each starts its own Airflow, so more than a few processes cost more than they save."""

FILE_BY_FILE = ("--numprocesses=2", "--dist=loadfile")
"""System tests in two processes, for they wait more than they compute. The tests of a file share an Airflow."""

NO_TEST = 5
"""The exit code of pytest if no test matches its arguments."""

STACK = ("-m", "system", "tests/system/test_stack.py")
KILLED = "tests/system/test_waiting.py::test_killed_triggerer_loses_no_result_and_keeps_the_timeout"

PACKAGES = {
    "redis-server": ("redis-server",),
    "chromedriver": ("chromium", "chromium-driver", "fonts-dejavu-core"),
    "initdb": ("postgresql",),
    "mariadbd": ("mariadb-server",),
    "mariadb_config": ("libmariadb-dev", "pkg-config", "gcc"),
}
"""Programs that system tests need, and the Debian packages that provide them; mysqlclient is compiled with the last."""

PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", *map(str, Path("/usr/lib/postgresql").glob("*/bin"))])


def run(session: Session, module: str, *arguments: str, **options: Any) -> None:
    """Run a module in the environment of ``make``."""
    session.run(sys.executable, "-m", module, *arguments, **options)


# -- make test, make lint: sessions run side by side, and each prints its output when it ends


@nox.session(python=False, allow_parallel=True)
def style(session: Session) -> None:
    run(session, "ruff", "check", *session.posargs, ".")


@nox.session(python=False, allow_parallel=True)
def format(session: Session) -> None:  # noqa: A001
    run(session, "ruff", "format", "--check", ".")


@nox.session(python=False, allow_parallel=True)
def types(session: Session) -> None:
    run(session, "mypy")


@nox.session(python=False, allow_parallel=True)
def layers(session: Session) -> None:
    """The import contracts of [tool.importlinter]."""
    session.run(str(Path(sys.executable).with_name("lint-imports")), "--no-cache")


@nox.session(python=False, allow_parallel=True)
def unit(session: Session) -> None:
    """Unit tests, which cover every line and branch of the core (see [tool.coverage.run])."""
    run(session, "pytest", "tests/unit", "--cov", "--cov-report=term", "--cov-fail-under=100")


@nox.session(python=False, allow_parallel=True)
def integration(session: Session) -> None:
    run(session, "pytest", "tests/contract", "tests/integration")


# -- tests with further requirements


@nox.session(python=False)
def programs(session: Session) -> None:
    """Install what the system tests need beside Python packages, if it is missing and we may."""
    missing = [
        package for program, them in PACKAGES.items() if not shutil.which(program, path=PATH) for package in them
    ]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        again = ("-o", "Acquire::Retries=5")
        session.run("apt-get", "update", "-q", *again, success_codes=range(256))
        install = ("apt-get", "install", "-q", "-y", "--no-install-recommends", *again, *missing)
        session.run(*install, success_codes=range(256))  # the tests report missing programs
    elif missing:
        session.warn(f"Some tests need more: apt-get install {' '.join(missing)}")


@nox.session(python=False)
def system(session: Session) -> None:
    if any(Path(argument.partition("::")[0]).exists() for argument in session.posargs):
        run(session, "pytest", "-m", "system", *session.posargs)
        return
    for tests in (("system and not alone", *FILE_BY_FILE), ("system and alone",)):
        run(session, "pytest", "-m", *tests, "tests/system", *session.posargs, success_codes=[0, NO_TEST])


@nox.session(python=False)
def reliability(session: Session) -> None:
    seen = Path(session.create_tmp(), "seen.jsonl")
    seen.unlink(missing_ok=True)
    run(session, "pytest", "-m", "reliability", f"--reliability={seen}", *(session.posargs or ["tests"]))
    partly = ["--only-seen"] if session.posargs else []
    session.run(sys.executable, "scripts/reliability.py", str(seen), *partly)


@nox.session(python=False)
def fuzz(session: Session) -> None:
    env = {"CRM_FUZZ_EXAMPLES": os.environ.get("CRM_FUZZ_EXAMPLES", "500")}
    properties = ("-m", "hypothesis or slow", "tests/unit", "tests/unit/fuzz/damaged_parquet.py")
    for tests in (properties, ("-m", "system", "tests/system/openapi")):
        run(session, "pytest", *tests, *session.posargs, env=env, success_codes=[0, NO_TEST])


# -- the matrix: every supported Airflow and Python, and the lowest dependencies


def pinned(session: Session, constraints: str) -> str:
    """A file of exact versions for the installer of a session: only uv takes hashes of constraints, and checks them."""
    if session.virtualenv.venv_backend == "uv":
        return constraints
    versions = Path(session.create_tmp(), "versions.txt").resolve()
    lines = Path(constraints).read_text("utf-8").splitlines()
    versions.write_text("\n".join(line.removesuffix(" \\") for line in lines if not line.startswith("    --hash")))
    return str(versions)


def cell(name: str, python: str, constraints: str, *runs: tuple[str, ...]) -> None:
    """Add one environment of the matrix, with the arguments of pytest for each of its runs."""

    def tests(session: Session) -> None:
        session.install("--constraint", pinned(session, constraints), "--editable", ".[test]")
        for arguments in [session.posargs] if session.posargs else runs:
            session.run("pytest", *arguments, success_codes=[0, NO_TEST])

    nox.session(python=python, name=name, tags=["matrix"])(tests)


WITH_AIRFLOW = ("tests/integration", *SIDE_BY_SIDE)
"""The unit tests of the core use no Airflow, so one version is enough for them."""

cell("airflow-3.1", HERE, "constraints/airflow-3.1.txt", WITH_AIRFLOW)
cell("airflow-3.2", HERE, "constraints/airflow-3.2.txt", WITH_AIRFLOW)
cell("lowest", HERE, "constraints/lowest.txt", ("tests/unit", "tests/integration", *SIDE_BY_SIDE), (*STACK, KILLED))
for version in ("3.10", "3.11", "3.12", "3.13"):
    cell(version, version, "constraints.txt", SIDE_BY_SIDE)


# -- make docs


@nox.session(python=False)
def site(session: Session) -> None:
    """Build the site. Dead links and pages outside the navigation are errors."""
    run(session, "sphinx", *SPHINX, "--builder=html", ".", "site")


@nox.session(python=False)
def linkcheck(session: Session) -> None:
    """Check external links. Not part of CI, because we do not control other people's servers."""
    run(session, "sphinx", *SPHINX, "--builder=linkcheck", ".", "build/linkcheck")


SPHINX = ("--quiet", "--fail-on-warning", "--keep-going", "--fresh-env", "--conf-dir=docs", "--doctree-dir=build/docs")


@nox.session(python=False)
def examples(session: Session) -> None:
    run(session, "pytest", "-m", "docs", "tests/docs")


# -- make dist


@nox.session(python=False)
def packages(session: Session) -> None:
    shutil.rmtree("dist", ignore_errors=True)
    run(session, "build", "--no-isolation", "--outdir=dist")
    run(session, "twine", "check", "--strict", *map(str, Path("dist").iterdir()))


SMOKE: tuple[tuple[str, ...], ...] = (
    ("-m", "crm_provider", "policy", "--for", "CrmMoveDealStageOperator"),
    ("-c", "from importlib.metadata import entry_points as e; [p.load() for p in e(group='apache_airflow_provider')]"),
    (
        "-c",
        "import crm_provider.operators.load, crm_provider.sensors.lists, crm_provider.hooks.crm, airflow_provider_crm",
    ),
)


@nox.session(python=HERE, reuse_venv=False)
def wheel(session: Session) -> None:
    """Test the wheel without extras in an empty environment."""
    (path,) = Path("dist").glob("*.whl")
    session.install("--constraint", pinned(session, "constraints.txt"), str(path))
    home = str(
        Path(session.create_tmp()).resolve()
    )  # for Airflow; also prevents an import of the package from this folder
    session.chdir(home)
    for arguments in SMOKE:
        session.run("python", "-W", "error::ImportWarning", *arguments, env={"AIRFLOW_HOME": home})


# -- make pins

PINS: dict[str, tuple[str, ...]] = {
    "constraints.txt": ("--extra=system", "--extra=docs", "--group=tools", "--generate-hashes"),
    # An older Airflow fails every task with current versions of starlette and pydantic. It needs the packages from one
    # to three days after its release.
    "constraints/airflow-3.2.txt": ("--exclude-newer=2026-05-30",),
    "constraints/airflow-3.1.txt": ("--exclude-newer=2026-03-15",),
    "constraints/lowest.txt": (
        "--exclude-newer=2025-09-28",
        "--exclude-newer-package=apache-airflow-client=2025-12-01",  # released after its Airflow
        "--exclude-newer-package=import-linter=2025-12-31",  # the first with a contract against cycles
        "--exclude-newer-package=grimp=2025-12-31",
        "--resolution=lowest-direct",
    ),
}
"""The files with exact versions. Each is for every Python and platform, and names no package index. That of ``make``
also has hashes."""

COMPILE = ("--universal", "--python-version=3.10", "--extra=test", "--upgrade", "--no-annotate", "--no-emit-index-url")


@nox.session(python=False)
def pins(session: Session) -> None:
    for file, options in PINS.items():
        if not session.posargs or file in session.posargs:
            output = ("--quiet", "--custom-compile-command=make pins", f"--output-file={file}", "pyproject.toml")
            run(session, "uv", "pip", "compile", *COMPILE, *options, *output)
