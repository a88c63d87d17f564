"""The rows for every client, the data in the CRM before, and the minimum of calls."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from crm_provider.client.pagination import PAGE_SIZE
from crm_provider.sandbox import Sandbox

EXISTING, CHANGED, LATER = 0.8, 0.05, 0.02
"""Shares of rows: in the CRM, different among those, and changed a day later among all."""

COLUMNS = ("email", "name", "phone", "city")


@dataclass(frozen=True)
class Lead:
    """A row of the file.

    :param before: the name in the CRM before the load; None without a contact
    """

    email: str
    name: str
    phone: str
    city: str
    before: str | None

    @property
    def attributes(self) -> dict[str, str]:
        """The expected attributes in the CRM."""
        return {"name": self.name, "phone": self.phone, "city": self.city}


def leads(rows: int, *, later: bool = False) -> list[Lead]:
    """The rows. The existing and the different ones are spread evenly over the file.

    :param later: the rows a day later, when the CRM has all contacts and 2 % of the names are new
    """
    found, existing = [], 0
    every, differing, new_name = round(1 / (1 - EXISTING)), round(1 / CHANGED), round(1 / LATER)
    for n in range(rows):
        name = f"Lead {n}"
        exists = n % every != 0
        before = f"Old {n}" if existing % differing == 1 else name
        existing += exists
        if later:
            exists, before = True, name
            name += " Junior" * (n % new_name == 7)
        found.append(Lead(f"lead{n}@example.com", name, f"+5531{n:08}", "Belo Horizonte", before if exists else None))
    return found


@dataclass(frozen=True)
class Fewest:
    """The minimum of calls for rows without prior knowledge.

    Either each row costs one call, and a second one after a wrong guess between create and update. Or all contacts are
    read, ten per call, and only differences are sent.
    """

    rows: int
    existing: int
    writes: int
    contacts: int

    @classmethod
    def of(cls, given: Iterable[Lead]) -> Fewest:
        given = list(given)
        existing = sum(lead.before is not None for lead in given)
        return cls(len(given), existing, sum(lead.before != lead.name for lead in given), existing)

    @property
    def calls(self) -> int:
        guessing = self.rows + min(self.existing, self.rows - self.existing)
        return min(guessing, math.ceil(self.contacts / PAGE_SIZE) + self.writes)


def write_file(path: Path, rows: Iterable[Mapping[str, str] | Lead]) -> Path:
    """The rows as a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in rows:
            writer.writerow({"email": row.email, **row.attributes} if isinstance(row, Lead) else row)
    return path


def fill(crm: Sandbox, given: Iterable[Lead]) -> None:
    """Create the contacts that the CRM has before."""
    for lead in given:
        if lead.before is not None:
            crm.store.create_contact(lead.email, attributes={**lead.attributes, "name": lead.before})


def not_loaded(crm: Sandbox, given: Iterable[Lead]) -> int:
    """The number of rows that are missing or different in the CRM."""
    contacts = crm.store.contacts
    return sum(lead.email not in contacts or contacts[lead.email].attributes != lead.attributes for lead in given)
