"""What is core: all of the package that stands below the line, where nothing knows Airflow. The one list of it."""

from __future__ import annotations

from devtools.steps import ROOT

PACKAGE = "crm_provider"

ABOVE = (
    "_compat",
    "assets",
    "hidden",
    "hooks",
    "lineage",
    "links",
    "metrics",
    "operators",
    "outcome",
    "retry",
    "sensors",
    "site_config",
    "task_arguments",
    "task_checkpoints",
    "task_paths",
    "task_policy",
    "task_templates",
    "tracing",
    "transfers",
    "triggers",
    "ui",
)
"""What stands above the line: modules and folders of the package. What is new counts as core."""

ASIDE = ("sandbox", "testing")
"""What a load or a task never runs: the stand-in of the CRM, and what users' tests are made with."""

UNCOUNTED = (PACKAGE,)
"""Runs before coverage can begin, for pytest loads the package with its plugin; nothing but the version is in it."""


def modules() -> list[str]:
    """The modules of the core, by their full names."""
    paths = (ROOT / PACKAGE).rglob("*.py")
    parts = (path.relative_to(ROOT / PACKAGE).with_suffix("").parts for path in paths)
    names = (part[:-1] if part[-1] == "__init__" else part for part in parts)
    return sorted(".".join((PACKAGE, *name)) for name in names if not name or name[0] not in ABOVE + ASIDE)


def files() -> list[str]:
    """Their files, as coverage wants to have them, but for :data:`UNCOUNTED`."""
    found = []
    for name in modules():
        if name in UNCOUNTED:
            continue
        path = ROOT.joinpath(*name.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        found.append(str(file.relative_to(ROOT)))
    return found
