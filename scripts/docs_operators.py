"""The generated parts of the pages of operators and sensors: examples, parameters, outcomes of errors.

The source of the classes is parsed, not imported, because their modules import Airflow, which needs a home.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

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


@dataclass(frozen=True)
class Parameter:
    """A parameter of an operator.

    :param owner: the class that defines it in ``__init__``
    """

    name: str
    default: str
    meaning: str
    owner: str


@dataclass(frozen=True)
class Source:
    """The parsed source of a class."""

    node: ast.ClassDef
    tree: ast.Module

    @property
    def docstring(self) -> str:
        return ast.get_docstring(self.node) or ""

    @property
    def bases(self) -> list[Source]:
        """The base classes in this package, in order."""
        return [sources()[name] for name in map(ast.unparse, self.node.bases) if name in sources()]

    def assigned(self, name: str) -> ast.expr | None:
        """The value of a name that the class body assigns."""
        return _assigned(self.node.body, name)


@cache
def sources() -> Mapping[str, Source]:
    """The classes of operators, transfers and sensors, by name."""
    found = {}
    for path in [path for folder in FOLDERS for path in sorted((PACKAGE / folder).glob("*.py"))]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found.update({node.name: Source(node, tree) for node in tree.body if isinstance(node, ast.ClassDef)})
    return found


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
    """The example file without its docstring."""
    path = example_of(name)
    code = re.sub(r'\A""".*?"""\n+from __future__ import annotations\n+', "", path.read_text("utf-8"), flags=re.DOTALL)
    link = f"[`{path.relative_to(ROOT).as_posix()}`]({_relative(path, document)})"
    return f"```python\n{code}```\n\nThis is {link}; the tests run it against the sandbox."


def parameter_table(document: Path, name: str) -> str:
    """All parameters of a class, inherited ones last."""
    return _table(document, sources()[name], list(parameters(sources()[name])))


def own_parameter_table(document: Path, name: str) -> str:
    """The parameters that a class adds to those of its bases."""
    return _table(document, sources()[name], [one for one in parameters(sources()[name]) if one.owner == name])


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
        differ = [
            line for line, before in zip(explain(_policy(other)), usual, strict=True) if line.action != before.action
        ]
        for line in differ:
            text += (
                f"\n\nWith `{other[len(name) + 1 : -1].replace(chr(39), chr(34))}`: `{line.type}` is {_counted(line)}."
            )
    return text


def overview(document: Path, kind: str) -> str:
    """The operators or sensors with their pages, purpose and calls."""
    rows = []
    for name in names():
        page = page_of(name)
        if page.parent.name == kind:
            does = re.split(r"[.;] ", _plain(sources()[name].docstring.split("\n\n")[0]))[0]
            rows.append((f"[`{name}`]({_relative(page, document)})", does, _calls(page)))
    return table(("Sensor" if kind == "sensors" else "Operator", "What it does", "Calls"), rows)


def _calls(page: Path) -> str:
    """The first paragraph of the section "Calls" of a page."""
    found = re.search(r"^## Calls\n\n(.+?)\n\n", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", " ".join(found[1].split())) if found else "-"


# -- reading classes ----------------------------------------------------------------------------------------


def parameters(cls: Source) -> Iterator[Parameter]:
    """The parameters of a class, then those of its bases."""
    init = next((one for one in cls.node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"), None)
    said = dict(re.findall(r"^:param (\w+): (.*?)(?=^:|\Z)", cls.docstring, re.DOTALL | re.MULTILINE))
    if init is not None:
        for argument, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True):
            name = argument.arg
            shown = "required" if default is None else _default(default, cls)
            yield Parameter(name, shown, _plain(said[name]), cls.node.name)
    for base in cls.bases:
        yield from parameters(base)


def templated(cls: Source) -> set[str]:
    """The names in ``template_fields``."""
    fields = cls.assigned("template_fields")
    if not isinstance(fields, ast.Tuple):
        return set().union(*map(templated, cls.bases))
    found: set[str] = set()
    for field in fields.elts:
        if isinstance(field, ast.Constant):
            found.add(str(field.value))
        elif isinstance(field, ast.Starred):
            found |= templated(sources()[ast.unparse(field.value).partition(".")[0]])
    return found


def _default(node: ast.expr, cls: Source) -> str:
    """A default as users write it; constants by their value."""
    if isinstance(node, ast.Call):  # conf.getboolean("operators", "default_deferrable", fallback=False)
        section, option = (ast.literal_eval(argument) for argument in node.args)
        fallback = next(keyword.value for keyword in node.keywords if keyword.arg == "fallback")
        return f"{_default(fallback, cls)}, or `[{section}] {option}`"
    value = _value(node, cls.tree)
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return f'`"{value.value}"`'
    return f"`{ast.unparse(value)}`"


def _value(node: ast.expr, tree: ast.Module) -> ast.expr:
    """The value of a constant of this package; other names unchanged."""
    name, _, attribute = ast.unparse(node).partition(".")
    there = _module_of(name, tree)
    value: ast.expr | None = None
    if there is not None and isinstance(node, ast.Attribute):
        body = next(one.body for one in there.body if isinstance(one, ast.ClassDef) and one.name == name)
        value = _assigned(body, attribute)
    elif there is not None and isinstance(node, ast.Name):
        value = _assigned(there.body, name)
    return value if isinstance(value, ast.Constant) else node


def _module_of(name: str, tree: ast.Module) -> ast.Module | None:
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            path = (ROOT / str(node.module).replace(".", "/")).with_suffix(".py")
            return ast.parse(path.read_text("utf-8")) if path.is_file() else None
    return None


def _assigned(body: list[ast.stmt], name: str) -> ast.expr | None:
    for node in body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and name in map(ast.unparse, targets):
            return node.value
    return None


# -- writing Markdown ---------------------------------------------------------------------------------------


def _plain(text: str) -> str:
    """A docstring's text as Markdown, without its cross-references, which the tables link already."""
    text = re.sub(r"[.;]? ?[Ss]ee :\w+:`[^`]+`", "", " ".join(text.split()))
    text = re.sub(r":\w+:`~?[\w.]*?(\w+)`", r"`\1`", text)
    return re.sub(r"(?<!\.)\.$", "", text.replace("``", "`").strip())


def _table(document: Path, cls: Source, rows: list[Parameter]) -> str:
    rendered = templated(cls)
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


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


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
