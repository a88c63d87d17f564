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
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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

    @property
    def module(self) -> str:
        return self.name.rpartition(".")[0]


@dataclass(frozen=True)
class Line:
    """A module, and the number of its mutants by state."""

    module: str
    counts: Counter[str] = field(default_factory=Counter)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the groups or report on them.

    :return: the exit code: 1 if a mutant survived without an explanation
    """
    options = _parse(arguments)
    groups = [GROUPS[name] for name in options.groups or GROUPS]
    if not options.report:
        for group in groups:
            _run(group, again=options.again)
    lines: list[Line] = []
    reasons: Counter[str] = Counter()
    for group in groups:
        if (WORK / group.name / "mutants").is_dir():
            lines += _report(group, reasons)
        else:
            print(f"{group.name} has not been run")
    text = f"{_table(lines)}\n\n{_reasons(reasons)}"
    print(text)
    if options.write:
        _write(options.write, text)
    return 1 if any(line.counts["survived"] for line in lines) else 0


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


def _report(group: Group, reasons: Counter[str]) -> list[Line]:
    """The lines of the table. Prints the mutants that survived without an explanation.

    :param reasons: counts the mutants of each group of explanations
    """
    found: dict[str, Line] = {}
    for mutant in _mutants(WORK / group.name):
        line = found.setdefault(mutant.module, Line(mutant.module.removeprefix(f"{PACKAGE}.")))
        counts = line.counts
        counts["all"] += 1
        if mutant.fate not in ALIVE:
            counts[{"killed": "tests", "timeout": "tests"}.get(mutant.fate, "types")] += 1
        elif why := explanation(line.module, mutant.name.rpartition(".")[2], mutant.change):
            counts["explained"] += 1
            reasons[why] += 1
        else:
            counts["survived"] += 1
            print(f"{mutant.name} {'' if mutant.fate == 'survived' else mutant.fate}\n{mutant.change}\n")
    return list(found.values())


_COLUMNS = ("all", "tests", "types", "explained", "survived")


def _table(lines: Sequence[Line]) -> str:
    rows = [[f"`{line.module}`", *(line.counts[column] for column in _COLUMNS)] for line in lines]
    total = ["**all**", *(sum(line.counts[column] for line in lines) for column in _COLUMNS)]
    headings = ["Module", "Mutants", "Noticed by a test", "By the type checker", "Explained", "Not explained"]
    return _markdown([headings, ["---", *["---:"] * len(_COLUMNS)], *rows, total])


def _reasons(reasons: Counter[str]) -> str:
    rows = [[name, count, REASONS[name]] for name, count in reasons.most_common()]
    return _markdown([["Explanation", "Mutants", "Why they may survive"], ["---", "---:", "---"], *rows])


def _markdown(rows: Sequence[Sequence[object]]) -> str:
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def _write(document: Path, tables: str) -> None:
    text = document.read_text(encoding="utf-8")
    marked = re.compile(r"(<!-- mutants -->\n).*?(<!-- end -->)", re.DOTALL)
    new, found = marked.subn(lambda marks: f"{marks[1]}\n{tables}\n\n{marks[2]}", text)
    if not found:
        raise SystemExit(f"{document} has no markers for the table: <!-- mutants --> and <!-- end -->")
    document.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
