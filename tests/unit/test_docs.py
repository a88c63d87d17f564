"""The documentation agrees with the code: links, examples, commands, tables, names. No Airflow here."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import docs_operators
import docs_tables
import docs_text
import generated
import pytest
from docs_text import DOCS, ROOT, Fence

from crm_provider import __main__ as cli
from crm_provider.client.client import CrmClient
from crm_provider.client.settings import EXTRAS, Settings
from crm_provider.errors import CrmError
from crm_provider.errors.catalog import CATALOGUE, FAMILY_ADVICE
from crm_provider.errors.on_error import Work
from crm_provider.errors.policy import OPERATORS, ErrorPolicy
from crm_provider.get_provider_info import CONN_FIELDS
from crm_provider.load.mapping.mapper import Mapper
from crm_provider.load.rows import Row as SourceRow

pytestmark = pytest.mark.no_cover  # it reads the core and runs none of it

DOCUMENTS = docs_text.documents()
JOBS = set(re.findall(r"^([a-z-]+):.* ## ", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
PYTHON = [fence for document in DOCUMENTS for fence in docs_text.fences(document, "python")]
JSON = [fence for document in DOCUMENTS for fence in docs_text.fences(document, "json")]


def each_document() -> Any:
    return pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def each(fences: list[Fence]) -> Any:
    return pytest.mark.parametrize("fence", fences, ids=lambda fence: fence.name)


# -- tables -------------------------------------------------------------------------------------------------


def test_generated_parts_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert docs_tables.main(["--check"]) == 0, capsys.readouterr().out


def test_every_generated_part_is_used_once() -> None:
    found = [name.partition(" ") for path in DOCUMENTS for name in generated.parts(path, "generated")]
    assert sorted(name for name, _, about in found if not about) == sorted(docs_tables.PARTS)
    assert {name for name, _, about in found if about} == set(docs_tables.PARTS_ABOUT)


def test_table_of_calls_omits_existing_methods_only() -> None:
    assert [name for name in docs_tables.PARTS_OF_CALLS if not hasattr(CrmClient, name)] == []


# -- links --------------------------------------------------------------------------------------------------


@each_document()
def test_every_link_has_a_target(document: Path) -> None:
    broken = []
    for link in docs_text.links(document):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in docs_text.anchors(target)):
            broken.append(link)
    assert broken == []


HOSTS = {
    "airflow.apache.org", "connect.pingback.com", "docs.astral.sh", "docs.python.org", "github.com",
    "keepachangelog.com", "nox.thea.codes", "semver.org",
}  # fmt: skip
"""Allowed hosts of links: the vendor, our dependencies, standards. No blogs, no link shorteners."""


@each_document()
def test_external_links_are_https_and_go_to_known_hosts(document: Path) -> None:
    text = re.sub(r"`[^`\n]+`", "code", docs_text.prose(document))
    links = {*docs_text.links(document), *re.findall(r"https?://[^\s)>\]]+", text)}
    external = [link for link in links if re.match(r"[A-Za-z][\w+.-]*:|//", link)]
    assert [link for link in external if re.match(r"https://([\w.-]+)(?=/|$)", link) is None] == []
    assert {str(urlsplit(link).hostname) for link in external} <= HOSTS


def test_readme_links_every_document() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in docs_text.links(ROOT / "README.md")}
    assert set(DOCS.glob("*.md")) <= linked  # documents in a folder are linked by the document with the folder's name


# -- pages of operators and sensors -------------------------------------------------------------------------

SECTIONS = ["Parameters", "What it returns", "Calls", "Errors", "Retries and kills"]


def test_every_operator_has_a_page_and_every_page_an_operator() -> None:
    pages = {docs_operators.page_of(name) for name in docs_operators.names()}
    assert pages == set(DOCS.glob("*/*.md"))
    examples = {docs_operators.example_of(name) for name in docs_operators.names()}
    assert examples == {*(ROOT / "example_dags").glob("operators/*.py"), *(ROOT / "example_dags").glob("sensors/*.py")}


@pytest.mark.parametrize("name", docs_operators.names())
def test_operator_page_has_all_sections(name: str) -> None:
    text = docs_operators.page_of(name).read_text("utf-8")
    assert text.startswith(f"# {name}\n")
    sections = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert [section for section in sections if section != "At 3 a.m."] == SECTIONS
    parts = generated.parts(docs_operators.page_of(name), "generated")
    assert list(parts) == [f"example {name}", f"parameters {name}", f"outcomes {name}"]
    assert f"`python -m crm_provider policy --for {name}`" in text


@pytest.mark.parametrize("name", docs_operators.names())
def test_outcomes_on_a_page_are_those_of_the_policy(name: str) -> None:
    shown = {}
    for row in docs_operators.outcomes(name).splitlines()[2:]:
        if row.startswith("|"):
            errors, _, outcome, _, _ = row.strip("| ").split(" | ")
            shown.update(dict.fromkeys(re.findall(r"`(\w+)`", errors), outcome))
    policy = ErrorPolicy(work=OPERATORS[name], operator=name)
    assert shown == {spec.type: policy.decide(spec.error).action.value for spec in CATALOGUE.values()}


# -- examples -----------------------------------------------------------------------------------------------


@each(PYTHON)
def test_python_examples_compile(fence: Fence) -> None:
    compile(fence.code, fence.name, "exec")


@each(JSON)
def test_json_examples_parse(fence: Fence) -> None:
    json.loads(fence.code)


def connections() -> list[tuple[str, str]]:
    """The Airflow connections in JSON that the documents show."""
    texts = [(document, document.read_text("utf-8")) for document in DOCUMENTS]
    return [(path.name, value) for path, text in texts for value in re.findall(r"AIRFLOW_CONN_\w+='(\{.*\})'", text)]


@pytest.mark.parametrize(("document", "value"), connections())
def test_every_connection_is_accepted(document: str, value: str) -> None:
    fields = json.loads(re.sub(r"<[^>]+>", "a-key", value))  # the literal <your API key> is refused
    assert fields.pop("conn_type") == "crm", document
    settings = {"host": None, "port": None, "password": None, "extra": None, **fields}
    assert Settings.from_fields(**settings).api_key == fields["password"]


PUBLIC = (
    r"crm_provider\.(errors|hooks\.crm|sandbox(\.ids)?|tasks|testing|triggers\.watch)",
    r"crm_provider\.(operators|sensors|transfers)\.[a-z]\w*",
)
"""The modules that users import, as listed in the README."""


def package_imports(code: str) -> set[str]:
    """The modules of the package that some code imports, submodules by their full names."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            module = str(node.module)
            submodules = {f"{module}.{alias.name}" for alias in node.names if is_module(f"{module}.{alias.name}")}
            found |= submodules or {module}
    return {name for name in found if name.partition(".")[0] == "crm_provider"}


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


@each([fence for fence in PYTHON if "crm_provider" in fence.code])
def test_examples_import_public_modules_only(fence: Fence) -> None:
    assert [name for name in package_imports(fence.code) if not re.fullmatch("|".join(PUBLIC), name)] == []


@each_document()
def test_no_sentence_names_an_internal_module(document: Path) -> None:
    named = re.findall(r"`(crm_provider(?:\.[a-z_]+)*)(?:\.[A-Z]\w*)?[`(]", docs_text.prose(document))
    assert [name for name in named if not re.fullmatch("|".join(PUBLIC), name) and name != "crm_provider"] == []


def test_mapping_example_gives_the_documented_result() -> None:
    (code,) = [f.code for f in docs_text.fences(DOCS / "load-mapping.md", "python") if f.code.startswith("mapping = {")]
    shown = {ast.unparse(node.targets[0]): ast.literal_eval(node.value) for node in ast.parse(code).body}  # type: ignore[attr-defined]
    contact = Mapper(shown["mapping"])(SourceRow(1, shown["row"]))
    assert (contact.email, contact.attributes) == ("ada@example.com", shown["attributes"])


# -- on_error -----------------------------------------------------------------------------------------------


def overrides(fence: Fence) -> Iterator[tuple[Work, Mapping[str, str]]]:
    """Every ``on_error`` in an example, with its kind of work."""
    names: dict[str, ast.expr] = {}
    for node in ast.walk(ast.parse(fence.code)):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            names[node.targets[0].id] = node.value
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            found = [v for k, v in pairs if isinstance(k, ast.Constant) and k.value == "on_error"]
            yield from ((Work.TASK, value) for value in map(_mapping, found) if value is not None)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).removesuffix(".partial").rpartition(".")[2]
            found = [keyword.value for keyword in node.keywords if keyword.arg == "on_error"]
            if called in ("ErrorPolicy", "CrmRetryPolicy", "crm_errors"):
                found += node.args[:1]
            found = [names.get(value.id, value) if isinstance(value, ast.Name) else value for value in found]
            work = OPERATORS.get(called, Work.TASK)
            yield from ((work, value) for value in map(_mapping, found) if value is not None)


def _mapping(node: ast.expr) -> Mapping[str, str] | None:
    return ast.literal_eval(node) if isinstance(node, ast.Dict) else None


@each([fence for fence in PYTHON if "on_error" in fence.code or "crm_errors({" in fence.code])
def test_every_on_error_in_an_example_is_valid(fence: Fence) -> None:
    found = list(overrides(fence))
    assert found or "on_error" not in fence.code
    for work, on_error in found:
        ErrorPolicy(on_error, work=work)


@each_document()
def test_every_on_error_in_the_text_is_valid(document: Path) -> None:
    text = docs_text.prose(document)
    shown = re.findall(r"on_error=(\{\"[^{}]+\})", text) + re.findall(r"`(\{\"[A-Z]\w+\": \"[a-z]+\".*?\})`", text)
    for on_error in shown:
        fits = []
        for work in (Work.TASK, Work.SENSOR):
            try:
                ErrorPolicy(ast.literal_eval(on_error), work=work)
                fits.append(work)
            except ValueError:
                pass
        assert fits, on_error


def test_quoted_refusals_are_exact() -> None:
    text = (DOCS / "errors.md").read_text("utf-8")
    quoted = re.findall(r"^ValueError: (on_error\[(\w+)\]: '(\w+)' .*)$", text, re.MULTILINE)
    assert quoted
    for message, error, action in quoted:
        with pytest.raises(ValueError, match=re.escape(message)):
            ErrorPolicy({error: action})


# -- commands -----------------------------------------------------------------------------------------------


def commands() -> list[tuple[str, str, str]]:
    """Every ``python -m crm_provider`` line: its location, the line, and its documented output."""
    found = []
    for document in DOCUMENTS:
        for fence in docs_text.fences(document):
            for part in re.split(r"^(?:\$ )?(?=python -m crm_provider )", fence.code, flags=re.MULTILINE)[1:]:
                line, _, output = part.partition("\n")
                found.append((fence.name, line, output))
        lines = re.findall(r"`(python -m crm_provider [^`]+)`", docs_text.prose(document))
        found += [(document.name, line, "") for line in lines]
    return found


@pytest.mark.parametrize(("place", "line", "output"), commands())
def test_every_command_works_and_prints_the_documented_output(
    place: str, line: str, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(shlex.split(line)[3:]) == 0, place
    printed = capsys.readouterr().out.splitlines()
    assert [shown for shown in output.splitlines() if shown not in ("...", "") and shown not in printed] == []


LANGUAGES = {"python", "json", "bash", "console", "text"}
"""Languages of code blocks, each with its tests. A new language needs tests too."""

KNOWN_LINES = (
    r"python -m crm_provider .*",  # test_every_command_works_and_prints_the_documented_output
    r"python -m crm_provider\.sandbox( --[a-z-]+ \w+)*",  # tests/integration/test_sandbox_docs.py
    r"(AIRFLOW__\w+=\S+ )*airflow .*",  # tests/integration/test_docs_dags.py
    r"export AIRFLOW_CONN_\w+='.*'",  # test_every_connection_is_accepted, test_the_connection_as_a_uri_is_understood
    r"export AIRFLOW__[A-Z]+__[A-Z_]+=\S+",
    r"curl .*|  -d .*|(sandbox|json)='?[^']*'?",  # tests/integration/test_sandbox_docs.py
    r"make [a-z-]+.*",  # test_every_job_exists
    r"pip install (\.|uv) .*",  # tests/system/test_install.py
    r"pip install '?airflow-provider-crm(\[\w+\])?'?",  # tests/unit/test_packages.py
    r"\.venv/bin/python scripts/\w+\.py.*",  # test_every_script_exists
    r"#.*|",
)
"""Commands in the documents that a test runs or reads, each with that test."""


@each_document()
def test_every_block_has_a_language(document: Path) -> None:
    fences = [fence for fence in docs_text.fences(document) if fence.language not in LANGUAGES]
    assert [fence.name for fence in fences] == []


@each([f for d in DOCUMENTS for f in docs_text.fences(d) if f.language in ("bash", "console")])
def test_every_command_is_tested(fence: Fence) -> None:
    lines = fence.code.splitlines()
    if fence.language == "console":  # the other lines are output
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        assert lines
    assert [line for line in lines if not re.fullmatch("|".join(KNOWN_LINES), line)] == []


@each([f for d in DOCUMENTS for f in docs_text.fences(d, "bash")])
def test_shell_blocks_are_valid(fence: Fence) -> None:
    done = subprocess.run(["bash", "-n"], input=fence.code, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@each_document()
def test_every_script_exists(document: Path) -> None:
    named = re.findall(
        r"(?:python3?|\.venv/bin/python) (scripts/\w+\.py|tests/[\w/]+\.py)", document.read_text("utf-8")
    )
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_faq_entry_links_to_its_proof() -> None:
    text = (DOCS / "faq.md").read_text("utf-8")
    entries = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert len(entries) >= 10
    assert [entry.splitlines()[0] for entry in entries if not re.search(r"\]\([\w-]+\.md", entry)] == []
    (hours,) = re.findall(r"About (\d+ h \d+ min)", text)
    assert f"| 100,000 | {hours} |" in (DOCS / "load.md").read_text("utf-8")


@each_document()
def test_every_job_exists(document: Path) -> None:
    text = document.read_text("utf-8")
    jobs = re.findall(r"(?:`|\$ )make ([a-z][a-z-]*)", text)
    assert [job for job in jobs if job not in JOBS] == []


# -- names, messages, defaults ------------------------------------------------------------------------------


@cache
def defined_names() -> set[str]:
    """Every class and function of the package."""
    kinds = (ast.ClassDef, ast.FunctionDef)
    trees = [ast.parse(path.read_text("utf-8")) for path in (ROOT / "crm_provider").rglob("*.py")]
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, kinds)}


@each_document()
def test_every_name_exists(document: Path) -> None:
    names = set(re.findall(r"\bCrm[A-Z]\w+", document.read_text("utf-8")))
    if document.name == "development.md":
        names.discard("CrmThingNotFoundError")  # its example of a new type
    assert names - defined_names() == set()


@each_document()
def test_every_named_file_exists(document: Path) -> None:
    paths = re.findall(r"`((?:tests|scripts|docs|example_dags|constraints)/[\w./-]*)`", document.read_text("utf-8"))
    assert [path for path in paths if not (ROOT / path).exists()] == []


@each_document()
def test_quoted_messages_have_the_catalogues_advice(document: Path) -> None:
    quoted = re.findall(
        r"\b([A-Z_]+)(?: \((\d{3})\))? on [A-Z]+ /\S*: .*? What to do: (.*?\.)(?= |$)",
        document.read_text("utf-8"),
        re.MULTILINE,
    )
    for type_, status, advice in quoted:
        spec = CATALOGUE[type_]
        error = spec.error(spec.messages[0], status=spec.status, method="GET", path="/")
        assert f"What to do: {advice}" in str(error), type_
        assert status in ("", str(spec.status))


def test_every_family_has_an_on_call_line() -> None:
    text = (DOCS / "operations.md").read_text("utf-8")
    families = {*FAMILY_ADVICE, *CrmError.__subclasses__()}
    assert [family.__name__ for family in families if f"| `{family.__name__}`" not in text] == []


def test_every_error_of_a_connection_test_is_explained() -> None:
    text = (DOCS / "connection.md").read_text("utf-8")
    section = text[text.index("## Test it") : text.index("### Invalid fields")]
    cannot_happen = {
        "MISSING_BODY", "INVALID_PARAMS", "INVALID_INPUT", "INVALID_VALUE", "CONTACT_NOT_FOUND", "DEAL_NOT_FOUND",
        "SEGMENTATION_LIST_NOT_FOUND", "PIPELINE_NOT_FOUND", "STAGE_NOT_FOUND", "CONTACT_ALREADY_EXISTS",
        "CONTACT_ASSOCIATED_WITH_A_DEAL", "PROTOCOL",
    }  # fmt: skip
    explained = set(re.findall(r"`([A-Z_]+)(?: \(\d{3}\))?`", section))
    assert set(CATALOGUE) - cannot_happen - explained == set()


@pytest.mark.parametrize("name", EXTRAS)
def test_connection_form_matches_the_settings(name: str) -> None:
    schema = CONN_FIELDS[name]["schema"]
    assert schema.get("default") in (getattr(Settings(api_key="key"), name), None)
    assert "null" in schema["type"]
    for bound, beyond in (("minimum", -1e-6), ("maximum", 1e-6)):
        if bound in schema:
            assert EXTRAS[name](schema[bound]) == schema[bound]
            with pytest.raises(ValueError, match=f"{schema['minimum']} to {schema['maximum']}"):
                EXTRAS[name](schema[bound] + beyond)


def test_form_and_settings_have_the_same_extras() -> None:
    assert list(CONN_FIELDS) == list(EXTRAS)


def test_default_host_of_the_connection_is_that_of_the_settings() -> None:
    assert f"| `{Settings(api_key='key').base_url}` |" in (DOCS / "connection.md").read_text("utf-8")


@each_document()
def test_no_machine_specific_text(document: Path) -> None:
    assert re.findall(r"(?<![\w.])/(?:work|root|home|tmp|Users)/\S*", document.read_text("utf-8")) == []
