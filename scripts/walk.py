"""How far a reader must walk: the package's files that a failed deal move and a load of one row pass.

A file is passed when one of its functions is entered while the operator executes. The sandbox stands for the CRM and
does not count. ``--check`` fails if a limit is exceeded, ``--files`` names the files.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import itertools
import os
import pkgutil
import statistics
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

from generated import replace, table

ID = "123e4567-e89b-12d3-a456-426614174000"

PACKAGE = Path(__file__).resolve().parents[1] / "crm_provider"

LIMITS = {"failed deal move": (20, None), "load of one row": (46, 256)}
"""Files, and changes from one file to another."""

LONGEST, WIDEST = 450, 16
"""Lines of a module, and modules of a folder."""

Figure = tuple[str, int, int | None]
"""What was counted, its value, and its limit."""


def main() -> int:
    """Print the figures; 1 if ``--check`` finds one above its limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit with 1 if a figure exceeds its limit")
    parser.add_argument("--files", action="store_true", help="name the files in the order of their first entry")
    parser.add_argument("--write", metavar="FILE", type=Path, help="write the figures into this document")
    arguments = parser.parse_args()
    figures = [*_sizes(), *_walks(with_files=arguments.files)]
    for name, value, limit in figures:
        print(f"{name}: {value} (limit {limit or '-'})")
    if arguments.write:
        rows = [(name, value, limit or "-") for name, value, limit in figures]
        replace(arguments.write, "walk", table(("Figure", "Value", "Limit"), rows, numbers=("Value", "Limit")))
    exceeded = any(limit is not None and value > limit for _, value, limit in figures)
    return int(arguments.check and exceeded)


def _sizes() -> list[Figure]:
    """The size of the package: packages' ``__init__.py`` count as modules, but not in their folders."""
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in sorted(PACKAGE.rglob("*.py"))}
    folders = Counter(path.parent for path in lines if path.name != "__init__.py")
    return [
        ("Modules", len(lines), None),
        ("Lines of a module, median", round(statistics.median(lines.values())), None),
        ("Lines of the longest module", max(lines.values()), LONGEST),
        ("Modules in the largest folder", max(folders.values()), WIDEST),
    ]


def _walks(*, with_files: bool) -> list[Figure]:
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as home:
        os.environ["AIRFLOW_HOME"] = home  # before Airflow is imported
        for name, execute in _operators().items():
            entered, changes = walk(execute)
            most_files, most_changes = LIMITS[name]
            figures += [(f"Files that a {name} passes", len(entered), most_files)]
            figures += [(f"Changes of file in a {name}", changes, most_changes)]
            print("".join(f"  {file}\n" for file in entered) if with_files else "", end="")
    return figures


def _operators() -> dict[str, Callable[[], object]]:
    """What is measured, against sandboxes that run until the process ends."""
    import crm_provider
    from crm_provider.sandbox import Sandbox

    for module in pkgutil.walk_packages(crm_provider.__path__, "crm_provider."):
        if not module.name.endswith("__main__") and ".ui" not in module.name:
            importlib.import_module(module.name)  # before: what runs at import is no part of the walk
    from crm_provider.operators.deals import CrmMoveDealStageOperator
    from crm_provider.operators.load import CrmLoadContactsOperator

    sandbox = Sandbox(seed="demo").start()
    os.environ["AIRFLOW_CONN_CRM_DEFAULT"] = sandbox.connection_json(rate_store="process")
    sandbox.add_fault(effect="error", error="CONTACT_ASSOCIATED_WITH_A_DEAL", path="/deals/*")
    move = CrmMoveDealStageOperator(task_id="move", deal_id=ID, stage_id=ID)
    load = CrmLoadContactsOperator(task_id="load", source=[{"email": "new@example.com"}], mapping={"email": "email"})
    tasks = {"failed deal move": move, "load of one row": load}
    return {name: partial(task.execute, _context(task)) for name, task in tasks.items()}


def _context(task: Any) -> Any:
    ti: Any = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=1, max_tries=0)
    ti.xcom_push = lambda **_: None
    return {"ti": ti, "task": task}


def walk(execute: Callable[[], object]) -> tuple[list[str], int]:
    """The files that were entered, and how often one followed another within a thread."""
    import crm_provider
    from crm_provider._compat import AirflowException
    from crm_provider.errors import CrmError

    root, entries = str(Path(crm_provider.__file__).parent) + "/", defaultdict[int, list[str]](list)

    def note(frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_flags & inspect.CO_OPTIMIZED and code.co_filename.startswith(root):
            entries[threading.get_ident()].append(code.co_filename.removeprefix(root))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        execute()
    except (AirflowException, CrmError) as ended:
        print(f"{type(ended).__name__}: {ended}", file=sys.stderr)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    own = [passed for passed in entries.values() if not any(file.startswith("sandbox/") for file in passed)]
    changes = sum(before != after for passed in own for before, after in itertools.pairwise(passed))
    return list(dict.fromkeys(itertools.chain(*own))), changes


if __name__ == "__main__":
    sys.exit(main())
