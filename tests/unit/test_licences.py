"""The licences of the packages that users install."""

from __future__ import annotations

import re
from importlib import metadata

import pytest

FREE = re.compile(r"Apache|MIT|BSD|PSF|Python Software Foundation")
"""Licences that allow use in any product under any licence."""

FOR_USERS = ("parquet", "phone", "openlineage", "redis", "sandbox")


def what_users_install() -> list[str]:
    wanted = metadata.requires("airflow-provider-crm") or []
    for_all = [text for text in wanted if "extra ==" not in text]
    for_some = [text for text in wanted if any(f"extra == '{extra}'" in text for extra in FOR_USERS)]
    return sorted({match[0] for text in for_all + for_some if (match := re.match(r"[\w.-]+", text))})


def test_list_matches_the_installed_packages() -> None:
    assert {"apache-airflow", "requests", "tenacity", "pyarrow", "redis", "fastapi"} <= set(what_users_install())
    assert "pytest" not in what_users_install()


@pytest.mark.parametrize("name", what_users_install())
def test_installed_packages_have_free_licences(name: str) -> None:
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed here: an optional extra that this matrix run leaves out")
    classifiers = [text for text in about.get_all("Classifier") or [] if text.startswith("License ::")]
    licence = " ".join(filter(None, [about.get("License-Expression"), about.get("License"), *classifiers]))
    assert FREE.search(licence), f"{name}: {licence[:200]!r}"
    assert "GPL" not in licence
