"""The generated parts of the pages of operators and sensors: examples, parameters, outcomes of errors."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any

from generated import table

from crm_provider.errors.policy import OPERATORS, DecidedBy, ErrorPolicy
from crm_provider.errors.policy_table import PolicyLine, explain

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "crm_provider"
FOLDERS = ("operators", "transfers", "sensors")

GUIDES: Mapping[str, Mapping[str, str]] = {
    "CrmOperator": {
        "crm_conn_id": "connection.md",
        "on_error": "errors.md#on_error",
        "retry_policy": "errors.md#your-own-retry_policy",
    },
    "CrmSensor": {
        "crm_conn_id": "connection.md",
        "on_error": "errors.md#on_error",
        "max_errors_in_a_row": "sensors.md#what-ends-the-wait",
        "deferrable": "sensors.md#waiting-without-a-slot",
        "retry_policy": "errors.md#your-own-retry_policy",
    },
    "CrmLoadOperator": {
        "mapping": "load-mapping.md",
        "duplicates": "load.md#several-rows-with-one-email",
        "rejects_path": "load.md#rejects",
        "state_path": "load.md#plans-few-calls",
        "full_refresh": "load.md#plans-few-calls",
        "report_path": "load.md#what-it-leaves-behind",
        "checkpoint_path": "load.md#resuming",
        "dry_run": "load.md#dry-run",
    },
    "CrmContactLoadOperator": {
        "mode": "load.md#modes",
        "plan": "load.md#plans-few-calls",
        "suppression": "load.md#people-who-have-said-no",
        "list_ids": "load.md#audiences",
    },
    "CrmDealLoadOperator": {
        "mode": "load-deals.md#modes",
        "plan": "load-deals.md#plans-and-calls",
        "only_from_stages": "load-deals.md#stages-that-a-deal-may-leave",
    },
    "CrmLoadContactsOperator": {"source": "load-sources.md", "source_options": "load-sources.md#files"},
    "CrmLoadDealsOperator": {"source": "load-sources.md", "source_options": "load-sources.md#files"},
    "CrmDeleteContactsOperator": {"max_deletes": "load.md#erasure", "every_spelling": "load.md#erasure"},
    "_ExtractOperator": {
        "target": "extract.md#the-file",
        "if_changed": "extract.md#a-listing-that-changes-while-it-is-read",
        "changes_since": "extract.md#only-what-has-changed",
        "state_path": "extract.md#only-what-has-changed",
    },
    "CrmToSqlOperator": {
        "mode": "crm-to-sql.md#modes",
        "create_table": "crm-to-sql.md#columns-and-types",
        "columns": "crm-to-sql.md#columns-and-types",
        "if_changed": "extract.md#a-listing-that-changes-while-it-is-read",
        "changes_since": "crm-to-sql.md#only-what-has-changed",
        "state_path": "crm-to-sql.md#only-what-has-changed",
        "pages_path": "crm-to-sql.md#tries-and-kills",
    },
}
"""The page with more about a parameter, by the class that defines it."""

DEFAULTS = {
    "deferrable": "`False`, or `[operators] default_deferrable`",
    "retry_policy": "`DEFAULT_RETRY_POLICY`",  # a name; None before Airflow 3.3
}
"""Defaults that depend on Airflow's configuration and version."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of an operator.

    :param owner: the class that defines it in ``__init__``
    """

    name: str
    default: str
    meaning: str
    owner: str


@cache
def classes() -> Mapping[str, type]:
    """The classes of operators, transfers and sensors, by name."""
    names = [f"{folder}.{path.stem}" for folder in FOLDERS for path in sorted((PACKAGE / folder).glob("[a-z]*.py"))]
    modules = [import_module(f"{PACKAGE.name}.{name}") for name in names]
    found = [one for module in modules for one in vars(module).values() if inspect.isclass(one)]
    return {one.__name__: one for one in found if one.__module__.startswith(f"{PACKAGE.name}.")}


def names() -> list[str]:
    """The names of all public operators and sensors."""
    return list(dict.fromkeys(name.partition("(")[0] for name in OPERATORS))


def page_of(name: str) -> Path:
    """The page of an operator or a sensor: ``CrmUpsertContactOperator`` is at ``operators/upsert-contact.md``."""
    folder = "sensors" if name.endswith("Sensor") else "operators"
    words = re.findall(r"[A-Z][a-z]+", re.sub(r"^Crm(?!To)|Operator$|Sensor$", "", name))
    return DOCS / folder / f"{'-'.join(words).lower()}.md"


def example_of(name: str) -> Path:
    """The example on its page."""
    page = page_of(name)
    return ROOT / "example_dags" / page.parent.name / f"{page.stem.replace('-', '_')}.py"


# -- parts of the pages -------------------------------------------------------------------------------------


def example(document: Path, name: str) -> str:
    """The example of an operator."""
    path = example_of(name)
    link = f"[`{path.relative_to(ROOT).as_posix()}`]({_relative(path, document)})"
    return f"{file_shown(path)}\n\nThis is {link}; the tests run it against the sandbox."


def file_shown(path: Path) -> str:
    """A file without its docstring."""
    code = re.sub(r'\A""".*?"""\n+from __future__ import annotations\n+', "", path.read_text("utf-8"), flags=re.DOTALL)
    return f"```python\n{code}```"


def parameter_table(document: Path, name: str) -> str:
    """All parameters of a class, inherited ones last."""
    return _table(document, classes()[name], list(parameters(classes()[name])))


def own_parameter_table(document: Path, name: str) -> str:
    """The parameters that a class adds to those of its bases."""
    return _table(document, classes()[name], [one for one in parameters(classes()[name]) if one.owner == name])


def outcomes(name: str) -> str:
    """The lines of ``python -m crm_provider policy --for NAME``, with equal lines merged."""
    usual = explain(_policy(name))
    order = sorted(usual, key=lambda line: (_strength(line), line.origin, line.in_call, line.effect))
    rows = []
    for (_, in_call, effect, origin), lines in groupby(order, key=_cells):
        same = list(lines)
        rows.append((", ".join(f"`{line.type}`" for line in same), in_call, same[0].action, effect, f"`{origin}`"))
    text = table(("Errors", "In one call", "Outcome", "What happens", "Decided by"), rows)
    for other in [one for one in OPERATORS if one.startswith(f"{name}(")]:
        shown = other[len(name) + 1 : -1].replace("'", '"')
        for line, before in zip(explain(_policy(other)), usual, strict=True):
            if line.action != before.action:
                text += f"\n\nWith `{shown}`: `{line.type}` is {_counted(line)}."
    return text


def overview(document: Path, kind: str) -> str:
    """The operators or sensors with their pages, purpose and calls."""
    rows = []
    for name in names():
        page = page_of(name)
        if page.parent.name == kind:
            does = re.split(r"[.;] ", _plain(str(classes()[name].__doc__).split("\n\n")[0]))[0]
            rows.append((f"[`{name}`]({_relative(page, document)})", does, _calls(page)))
    return table(("Sensor" if kind == "sensors" else "Operator", "What it does", "Calls"), rows)


def _calls(page: Path) -> str:
    """The first paragraph of the section "Calls" of a page."""
    found = re.search(r"^## Calls\n\n(.+?)\n\n", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    text = " ".join(found[1].split()).removesuffix(".") if found else "-"
    return re.sub(r"\[([^]]*)\]\((?!\.\./)[^)]*\)", r"\1", text).replace("](../", "](")


# -- reading classes ----------------------------------------------------------------------------------------


def parameters(cls: type) -> Iterator[Parameter]:
    """The parameters of a class, then those of its bases."""
    for owner in cls.__mro__:
        if owner.__module__.startswith(f"{PACKAGE.name}.") and "__init__" in vars(owner):
            meanings = documented(owner)
            for name, parameter in inspect.signature(vars(owner)["__init__"]).parameters.items():
                if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                    yield Parameter(name, _default(parameter), _plain(meanings[name]), owner.__name__)


def documented(cls: type) -> dict[str, str]:
    """The parameters in the docstring of a class."""
    return dict(re.findall(r"^:param (\w+): (.*?)(?=^:|\Z)", inspect.getdoc(cls) or "", re.DOTALL | re.MULTILINE))


def _default(parameter: inspect.Parameter) -> str:
    """A default as users write it."""
    value = parameter.default
    if value is inspect.Parameter.empty:
        return "required"
    return DEFAULTS.get(parameter.name) or (f'`"{value}"`' if isinstance(value, str) else f"`{value!r}`")


# -- writing Markdown ---------------------------------------------------------------------------------------


def _plain(text: str) -> str:
    """A docstring's text as Markdown, without its cross-references, which the tables link already."""
    text = re.sub(r"[.;]? ?[Ss]ee :\w+:`[^`]+`", "", " ".join(text.split()))
    text = re.sub(r":\w+:`~?[\w.]*?(\w+)`", r"`\1`", text)
    return re.sub(r"(?<!\.)\.$", "", text.replace("``", "`").strip())


def _table(document: Path, cls: Any, rows: list[Parameter]) -> str:
    rendered = cls.template_fields
    return table(
        ("Parameter", "Default", "Templated", "Meaning"),
        [(_linked(one, document), one.default, "yes" if one.name in rendered else "no", one.meaning) for one in rows],
    )


def _linked(one: Parameter, document: Path) -> str:
    guides = {"contact_email": "operators.md#why-contact_email-and-not-email", **GUIDES.get(one.owner, {})}
    if one.name not in guides:
        return f"`{one.name}`"
    path, _, anchor = guides[one.name].partition("#")
    link = "" if DOCS / path == document else _relative(DOCS / path, document)
    return f"[`{one.name}`]({link}{'#' if anchor else ''}{anchor})"


def _relative(path: Path, document: Path) -> str:
    return Path(os.path.relpath(path, document.parent)).as_posix()


def _policy(name: str) -> ErrorPolicy:
    return ErrorPolicy(work=OPERATORS[name], operator=name)


def _cells(line: PolicyLine) -> tuple[str, str, str, str]:
    return line.action, line.in_call, line.effect, line.origin


def _strength(line: PolicyLine) -> tuple[bool, int]:
    """Sort key: lines that the operator decides come first, and failures come last."""
    order = ("skip", "wait", "retry", "reject", "fail")
    return line.decided_by is DecidedBy.DEFAULT, order.index(line.action) if line.action in order else 0


def _counted(line: PolicyLine) -> str:
    return {"skip": "skipped", "fail": "a failure", "reject": "rejected"}.get(line.action, f"counted as {line.action}")
