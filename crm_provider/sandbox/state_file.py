"""A file with what the sandbox holds, so that it comes back with it after it was stopped or killed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crm_provider.sandbox.records import JsonObject


class StateFile:
    """A seed document (see ``seeds``), written anew before a write is answered: what was said to be done is in it.

    For sandboxes of some thousand contacts: each write takes the time to write all of them.

    :param path: of a JSON file; it need not be there yet
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)

    def seed(self, otherwise: str | Mapping[str, Any]) -> str | Mapping[str, Any]:
        """What the file holds, or another seed if there is no file yet.

        :raises ValueError: it cannot be read
        """
        try:
            found: object = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return otherwise
        except ValueError as broken:
            raise ValueError(f"the state file {self._path} cannot be read ({broken}); remove it") from None
        if not isinstance(found, dict):
            raise ValueError(f"the state file {self._path} holds no state of a sandbox; give another one")
        return found

    def write(self, document: JsonObject) -> None:
        """Replace the file, in one step."""
        draft = self._path.with_name(f".{self._path.name}.tmp")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123
            json.dump(document, file)
        draft.replace(self._path)
