"""How Sphinx makes the site; ``make docs`` (``scripts/docs_site.py``) hands it the documents."""

from crm_provider import __version__

project = "airflow-provider-crm"
version = release = __version__
html_title = f"{project} {release}"

extensions = ["myst_parser"]
myst_heading_anchors = 6  # the anchors of a code host
exclude_patterns = ["*.trees"]

html_theme = "furo"
html_static_path = ["site"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "monokai"
