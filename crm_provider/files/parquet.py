"""The optional library ``pyarrow``, which Parquet needs: imported when the first file is opened."""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any

MISSING = "Parquet needs pyarrow: pip install 'airflow-provider-crm[parquet]'"


def arrow_modules() -> tuple[Any, Any]:
    """``pyarrow`` and ``pyarrow.parquet``, which have no type annotations.

    :raises ValueError: if they are not installed
    """
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise ValueError(MISSING) from None


def check_pyarrow(files: Any, format: str | None = None) -> None:  # noqa: A002 - the argument's name
    """Check at DAG parse, without importing it, that ``pyarrow`` is installed if files need it.

    :param files: a path or a list of paths, also with templates; anything else is ignored
    :param format: the format, if the names do not decide it
    :raises ValueError: if one is Parquet and the library is not installed
    """
    named = files if isinstance(files, (list, tuple)) else [files]
    texts = [str(file) for file in named if isinstance(file, (str, os.PathLike)) or hasattr(file, "suffix")]
    is_parquet = format == "parquet" or (format is None and any(text.lower().endswith(".parquet") for text in texts))
    if is_parquet and importlib.util.find_spec("pyarrow") is None:
        raise ValueError(MISSING)
