"""Deletions of contacts as the records of a load: for requests under privacy laws.

An address of a request stands for a person. All contacts are read first, and every contact that is this person is
deleted, in any spelling of the address. It is unknown whether the CRM itself ignores case, so one call with the address
as given could miss a contact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from crm_provider.client import validation
from crm_provider.load.kinds.kind import Kind
from crm_provider.load.mapping.mapper import Mapper
from crm_provider.load.options import LoadOptions
from crm_provider.load.rows import NEVER, WRITTEN, Outcome, SourceError


@dataclass(frozen=True, kw_only=True)
class DeleteOptions(LoadOptions):
    """How to delete contacts.

    :param max_deletes: contacts that all tries of a run may delete at most; more end a try before its first one
    :param every_spelling: read all contacts and delete all spellings of an address; False for the address as given
    """

    records: ClassVar[str] = "contacts"
    shared: ClassVar[str] = "email"
    modes: ClassVar[tuple[str, ...]] = ("delete",)
    plans: ClassVar[tuple[str, ...]] = ("auto",)
    outcomes: ClassVar[tuple[Outcome, ...]] = (*WRITTEN, Outcome.DELETED)
    meanings: ClassVar[Mapping[Outcome, str]] = {
        Outcome.UNCHANGED: "the CRM has no such contact (any more)",
        **dict.fromkeys((Outcome.CREATED, Outcome.UPDATED, Outcome.SUPPRESSED), NEVER),
    }
    plan_words: ClassVar[Mapping[str, str]] = {
        "compare": "Read all contacts of the CRM first, then delete those whose address matches a row.",
        "delete": "Delete the contact with each address, as it is given.",
    }
    title: ClassVar[str] = "Deletions from {source}"
    verb: ClassVar[str] = "delete"
    naive: ClassVar[str] = "one call for each row"

    mode: str = "delete"
    max_deletes: int = 0
    every_spelling: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if wrong := validation.not_count(self.max_deletes, "max_deletes", least=0):
            raise SourceError(wrong)

    @property
    def decisive(self) -> list[Any]:
        return [*super().decisive, self.every_spelling]


class DeleteMapper(Mapper):
    """Maps rows to the addresses that are deleted; all other columns are ignored.

    :param mapping: ``{"email": <column>}``; without it, the column ``email``
    """

    def __init__(self, mapping: Mapping[str, Any] | None = None) -> None:
        others = [name for name in mapping if name != "email"] if isinstance(mapping, Mapping) else []
        if others:
            raise SourceError(
                f"mapping[{others[0]!r}]: a contact is deleted by its address; name the column of 'email'"
            )
        super().__init__(mapping)

    @property
    def sends(self) -> str:
        """Nothing: the address only names the contact."""
        return ""


DELETIONS = Kind(
    name="deletions",
    options=DeleteOptions,
    arguments=("max_deletes", "every_spelling"),
    mapper=DeleteMapper,
    mapper_options=(),
    remote_class="crm_provider.load.kinds.remote_deletions:RemoteDeletions",
    keeps_state=False,
    limited_by="max_deletes",
)
