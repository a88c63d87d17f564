"""What is published: the sdist, and the wheel that is built from it. Without a network."""

from __future__ import annotations

import email.message
import email.parser
import importlib.metadata
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from crm_provider import __version__

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text("utf-8")
IGNORED = {"__pycache__"}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> zipfile.ZipFile:
    (path,) = dist.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def sdist(dist: Path) -> set[str]:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> email.message.Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.parser.Parser().parsestr(wheel.read(name).decode())


def files_of(folder: Path) -> set[str]:
    """The files below a folder, without what tools have left behind."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not IGNORED & set(path.parts))
    return {path.relative_to(ROOT).as_posix() for path in paths}


def test_the_wheel_is_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert inside == files_of(ROOT / "crm_provider")
    assert {"crm_provider/py.typed", "crm_provider/rate_limit/schedule.lua"} <= inside


def test_the_wheel_brings_its_licence(wheel: zipfile.ZipFile, metadata: email.message.Message) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("/licenses/LICENSE"))
    assert wheel.read(name) == (ROOT / "LICENSE").read_bytes()
    assert metadata["License-Expression"] == "Apache-2.0"


def test_the_sdist_has_what_is_needed_to_build_test_and_document_it(sdist: set[str]) -> None:
    wanted = {
        "pyproject.toml",
        "README.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "LICENSE",
        "Makefile",
        "constraints.txt",
    } | {"noxfile.py"}
    for folder in ("crm_provider", "example_dags", "tests", "docs", "scripts", "constraints"):
        wanted |= files_of(ROOT / folder)
    assert wanted - sdist == set()
    assert {name.partition("/")[0] for name in sdist} <= {name.partition("/")[0] for name in wanted} | {
        "PKG-INFO", ".gitignore", "",
    }  # fmt: skip


def test_what_an_index_shows(metadata: email.message.Message) -> None:
    assert (metadata["Name"], metadata["Version"]) == ("airflow-provider-crm", __version__)
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert str(metadata.get_payload()).strip() == (ROOT / "README.md").read_text("utf-8").strip()
    assert "Framework :: Apache Airflow :: Provider" in metadata.get_all("Classifier", [])
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])


def test_classifiers_are_known_ones(metadata: email.message.Message) -> None:
    from trove_classifiers import classifiers

    assert set(metadata.get_all("Classifier", [])) <= classifiers


def test_extras_are_documented(metadata: email.message.Message) -> None:
    extras = set(metadata.get_all("Provides-Extra", []))
    readme = (ROOT / "README.md").read_text("utf-8")
    development = (ROOT / "docs" / "development.md").read_text("utf-8")
    assert {extra for extra in extras if f"`[{extra}]`" not in readme + development} == set()


def test_every_extra_that_is_named_exists(metadata: email.message.Message) -> None:
    texts = [path.read_text("utf-8") for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]]
    texts += [path.read_text("utf-8") for path in (ROOT / "crm_provider").rglob("*.py")]
    named = {extra for text in texts for extra in re.findall(r"airflow-provider-crm\[(\w+)\]", text)}
    assert named <= set(metadata.get_all("Provides-Extra", []))
    assert {"parquet", "phone", "redis"} <= named


def test_only_what_is_needed_is_installed_without_extras(metadata: email.message.Message) -> None:
    plain = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert sorted(re.match(r"[\w-]+", line)[0] for line in plain) == ["apache-airflow", "requests", "tenacity"]  # type: ignore[index]


def test_airflow_brings_what_addresses_are_checked_with() -> None:
    assert "email-validator" in _required("apache-airflow", frozenset(), set())


def _required(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]) -> set[str]:
    """The packages that a package always brings, directly or not."""
    if (name, extras) in seen:
        return set()
    seen.add((name, extras))
    found = set()
    for line in importlib.metadata.requires(name) or ():
        required = Requirement(line)
        if required.marker is None or any(required.marker.evaluate({"extra": extra}) for extra in extras or {""}):
            found |= {required.name} | _required(required.name, frozenset(required.extras), seen)
    return found
