"""What an extract is asked to do, checked when the DAG is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

Format = Literal["jsonl", "csv", "parquet"]
IfChanged = Literal["warn", "fail", "restart"]

SUFFIXES: Mapping[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}
"""The formats that a name tells."""


def format_of(name: str, wanted: Format | None = None) -> tuple[Format, bool]:
    """The format of a file, and whether it is compressed with gzip.

    :param wanted: the format, whatever the name says of it
    :raises ValueError: if neither tells
    """
    if wanted is not None and wanted not in get_args(Format):
        raise ValueError(f"format is {wanted!r}; use one of {', '.join(get_args(Format))}")
    base = name.lower()
    zipped = base.endswith(".gz")
    stem = base.removesuffix(".gz")
    found = wanted or next((known for suffix, known in SUFFIXES.items() if stem.endswith(suffix)), None)
    if found is None:
        raise ValueError(
            f"the name {name!r} tells no format; end it with one of {', '.join(SUFFIXES)} (the first three also with "
            f".gz), or give format="
        )
    if found == "parquet" and zipped:
        raise ValueError(f"{name!r}: a Parquet file is compressed within; leave out the .gz")
    return found, zipped


def check_if_changed(value: object) -> None:
    """Refuse what is no :data:`IfChanged`.

    :raises ValueError: naming the choices
    """
    if value not in get_args(IfChanged):
        raise ValueError(f"if_changed is {value!r}; use one of {', '.join(get_args(IfChanged))}")
