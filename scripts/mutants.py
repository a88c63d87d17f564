"""Mutation testing: checks that the tests of the core's decisions can fail.

    python scripts/mutants.py                       all groups, from the beginning
    python scripts/mutants.py policy schedule       these groups
    python scripts/mutants.py plan --again          only mutants that survived or were not reached
    python scripts/mutants.py --report --write docs/development.md     the table of the runs so far

mutmut makes one small change of the code at a time and runs the tests that reach it. A change that neither a test nor
the type checker notices has survived. It works on a copy in ``build/mutants/GROUP``, with one process and some CPU
minutes per group. Surviving changes are printed, unless ``mutants_explained.py`` has a reason for them. Needs the extra
``mutation``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from generated import replace, table
from mutants_explained import REASONS, explanation
from mutants_groups import COPIED, GROUPS, Group

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "mutants"
PACKAGE = "crm_provider"
ALIVE = ("survived", "no tests", "not checked", "suspicious", "segfault", "check was interrupted by user")
"""The states of mutmut for a mutant that nothing has noticed."""


@dataclass(frozen=True)
class Mutant:
    """One change of the code and its result.

    :param name: the name in mutmut: module, function and a number
    :param fate: the state in mutmut: ``killed``, ``survived``, ``timeout``, ``caught by type check`` ...
    :param change: the removed and added lines, if the mutant is alive
    """

    name: str
    fate: str
    change: str


Counts = dict[str, Counter[str]]
"""The number of mutants by state, for each module below the package."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the groups or report on them.

    :return: the exit code: 1 if a mutant survived without an explanation
    """
    options = _parse(arguments)
    groups = [GROUPS[name] for name in options.groups or GROUPS]
    if not options.report:
        for group in groups:
            _run(group, again=options.again)
    counts: Counts = {}
    reasons: Counter[str] = Counter()
    for group in groups:
        if (WORK / group.name / "mutants").is_dir():
            counts.update(_report(group, reasons))
        else:
            print(f"{group.name} has not been run")
    text = f"{_table(counts)}\n\n{_reasons(reasons)}"
    print(text)
    if options.write:
        replace(options.write, "mutants", text)
    return 1 if any(count["survived"] for count in counts.values()) else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of: {', '.join(GROUPS)}")
    parser.add_argument(
        "--again", action="store_true", help="only mutants that survived so far, with the current tests"
    )
    parser.add_argument("--report", action="store_true", help="run nothing, report on earlier runs")
    parser.add_argument("--write", metavar="FILE", type=Path, help="write the table into this document")
    options = parser.parse_args(arguments)
    if unknown := set(options.groups) - set(GROUPS):
        parser.error(f"no such group: {', '.join(sorted(unknown))}")
    return options


# -- the runs


def _run(group: Group, *, again: bool) -> None:
    folder = WORK / group.name
    names = [mutant.name for mutant in _mutants(folder) if mutant.fate in ALIVE] if again else []
    if again and not names:
        return
    (folder / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)  # of the tests as they were
    if not again:
        shutil.rmtree(folder, ignore_errors=True)
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, dirs_exist_ok=True, ignore=_IGNORED)
        else:
            shutil.copy2(ROOT / name, folder / name)
    _configure(folder / "pyproject.toml", group)
    print(f"== {group.name}", flush=True)
    with (folder / "log").open("wb") as log:
        command = [*_MUTMUT, "run", "--max-children", "1", *names]
        done = subprocess.run(command, cwd=folder, env=_environment(), stdout=log, stderr=log, check=False)
    if done.returncode:
        raise SystemExit(f"mutmut failed, see {folder / 'log'}")


_IGNORED = shutil.ignore_patterns("__pycache__")
_MUTMUT = [sys.executable, "-c", "import sys; from mutmut.__main__ import cli; sys.exit(cli())"]


def _environment() -> dict[str, str]:
    """The environment of mutmut. ``CI`` makes Hypothesis use the same examples in each run."""
    return {**os.environ, "CI": "true", "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def _configure(pyproject: Path, group: Group) -> None:
    """Add the settings of the group to ``[tool.mutmut]``, which has those of all groups."""
    text = _ABOUT_MUTMUTS_CODE.sub("", pyproject.read_text(encoding="utf-8"))
    title = "[tool.mutmut]\n"
    before, found, after = text.partition(title)
    if not found:
        raise SystemExit("pyproject.toml has no [tool.mutmut]")
    files = [f"{PACKAGE}/{module}.py" for module in group.modules]
    options = ["--output=json", *_NOT_OF_THE_CHANGE, f"--cache-dir={WORK / 'types'}"]
    types = [sys.executable, "-m", "mypy", *options, *files]
    added = {
        "only_mutate": files,
        "pytest_add_cli_args_test_selection": [*group.tests, *(f"--deselect={test}" for test in group.too_slow)],
        "type_check_command": types,
    }
    lines = "".join(f"{key} = {json.dumps(values)}\n" for key, values in added.items())
    pyproject.write_text(before + title + lines + after, encoding="utf-8")


_ABOUT_MUTMUTS_CODE = re.compile(r"^(enable_error_code|warn_unreachable|warn_unused_ignores) = .*\n", re.MULTILINE)
"""Settings of mypy that would report on the code around the mutants."""

_NOT_OF_THE_CHANGE = ("--disable-error-code=unused-ignore", "--disable-error-code=no-redef")
"""mypy errors caused by mutmut's layout: all mutants of an ``__init__`` annotate the same attributes in one class."""


# -- results

_LIST = """
import json, sys
from mutmut.__main__ import get_diff_for_mutant, walk_mutatable_files
from mutmut.mutation.data import SourceFileMutationData
from mutmut.stats import status_by_exit_code

for path in walk_mutatable_files():
    data = SourceFileMutationData(path=path)
    data.load()
    for name, code in data.exit_code_by_key.items():
        fate = status_by_exit_code[code]
        change = get_diff_for_mutant(name, path=path) if fate in sys.argv[1:] else ""
        print(json.dumps([name, fate, change]))
"""


def _mutants(folder: Path) -> Iterator[Mutant]:
    """All mutants of a group, with the change of those that are alive."""
    command = [sys.executable, "-c", _LIST, *ALIVE]
    done = subprocess.run(command, cwd=folder, env=_environment(), stdout=subprocess.PIPE, text=True, check=True)
    for line in done.stdout.splitlines():
        name, fate, change = json.loads(line)
        lines = [line for line in change.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
        yield Mutant(name, fate, "\n".join(lines))


def _report(group: Group, reasons: Counter[str]) -> Counts:
    """The mutants of a group by module and state. Prints those that survived without an explanation.

    :param reasons: counts the mutants of each group of explanations
    """
    found: Counts = defaultdict(Counter)
    for mutant in _mutants(WORK / group.name):
        module, _, function = mutant.name.removeprefix(f"{PACKAGE}.").rpartition(".")
        if mutant.fate not in ALIVE:
            fate = "tests" if mutant.fate in ("killed", "timeout") else "types"
        elif why := explanation(module, function, mutant.change):
            fate = "explained"
            reasons[why] += 1
        else:
            fate = "survived"
            print(f"{mutant.name} {'' if mutant.fate == 'survived' else mutant.fate}\n{mutant.change}\n")
        found[module].update(("all", fate))
    return found


_COLUMNS = ("all", "tests", "types", "explained", "survived")


def _table(counts: Counts) -> str:
    rows = [[f"`{module}`", *map(count.__getitem__, _COLUMNS)] for module, count in counts.items()]
    total = ["**all**", *(sum(count[column] for count in counts.values()) for column in _COLUMNS)]
    headings = ("Module", "Mutants", "Noticed by a test", "By the type checker", "Explained", "Not explained")
    return table(headings, [*rows, total], numbers=headings[1:])


def _reasons(reasons: Counter[str]) -> str:
    rows = [[name, count, REASONS[name]] for name, count in reasons.most_common()]
    return table(("Explanation", "Mutants", "Why they may survive"), rows, numbers=("Mutants",))


if __name__ == "__main__":
    sys.exit(main())
