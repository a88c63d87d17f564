"""Sphinx configuration of ``make docs``: a site of README, changelog and ``docs/``, as they are in the repository."""

import re
from pathlib import Path

from sphinx.application import Sphinx

from crm_provider import __version__

ROOT = Path(__file__).resolve().parents[1]

project = "airflow-provider-crm"
version = release = __version__
html_title = f"{project} {release}"

extensions = ["myst_parser", "sphinx_copybutton"]
copybutton_prompt_text = "$ "  # is not copied
myst_heading_anchors = 6  # the same anchors as on GitHub
root_doc = "README"
include_patterns = ["README.md", "CHANGELOG.md", "SECURITY.md", "docs/**.md"]
exclude_patterns = [".*", "build", "crm_provider", "dist", "example_dags", "scripts", "site", "tests"]

html_theme = "furo"
html_static_path = ["site"]
html_css_files = ["site.css"]
html_additional_pages = {"index": "index.html"}  # redirects to the README
templates_path = ["site/templates"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "monokai"

_ROW = re.compile(
    r"^\| (?:\[(?P<title>[^]]+)\]\((?P<link>docs/[\w-]+)\.md\)|\*\*(?P<caption>[^*|]+)\*\*) \|", re.MULTILINE
)


def add_navigation(_app: Sphinx, name: str, source: list[str]) -> None:
    """Build the navigation from the README's table of documents. A row in bold begins a group.

    Pages of a folder (``docs/operators/``) stand below the document with the same name. Sphinx warns of other pages.
    """
    if name == root_doc:
        for row in _ROW.finditer(source[0]):
            entry = f"\n```{{toctree}}\n:hidden:\n:caption: {row['caption']}\n```\n"
            if row["link"]:
                entry = f"{row['title'].replace('`', '')} <{row['link']}>\n```\n"
                source[0] = source[0].removesuffix("```\n")
            source[0] += entry
        source[0] += (
            "\n```{toctree}\n:hidden:\n:caption: Project\n\nChanges <CHANGELOG>\nVulnerabilities <SECURITY>\n```\n"
        )
    elif (ROOT / name).is_dir():
        source[0] += f"\n```{{toctree}}\n:hidden:\n:glob:\n\n{Path(name).name}/*\n```\n"


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_navigation)
