"""Deals as the CRM shows them: compared with rows, and kept on disk while a load runs. Memory stays flat."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from crm_provider.client.deals import shown_values
from crm_provider.client.pagination import id_of
from crm_provider.files.temp_database import TempDatabase
from crm_provider.load.mapping.deal_mapper import Deal
from crm_provider.load.state.temp_tables import digest
from crm_provider.values.json_values import json_text, json_value
from crm_provider.values.server_clock import utc_time


@dataclass(frozen=True)
class RemoteDeal:
    """The parts of a deal of the CRM that a write needs; None for what the CRM does not show.

    :param id: as the CRM shows it; the other ids are in lower case
    :param attributes: those that the load writes
    :param created_at: by the CRM's clock
    """

    id: str
    contact_id: str | None = None
    pipeline_id: str | None = None
    stage_id: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    created_at: datetime | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any], names: Collection[str]) -> RemoteDeal:
        """From a record of the API.

        :param names: of the attributes that are kept
        :raises CrmProtocolError: if it has no id
        """
        found = record.get("attributes")
        kept = {name: found[name] for name in names if name in found} if isinstance(found, Mapping) else {}
        return cls(
            id_of(record.get("id"), "/deals"),
            contact_id=_lower(record.get("contactId")),
            pipeline_id=_lower(record.get("pipelineId")),
            stage_id=_lower(record.get("stageId")),
            attributes=kept,
            created_at=utc_time(record.get("createdAt")),
        )

    def changes(self, deal: Deal, contact_id: str | None) -> dict[str, Any]:
        """The parts of a row that the deal does not show, as arguments of ``update_deal``."""
        changes: dict[str, Any] = {}
        if deal.stage_id is not None and deal.stage_id.lower() != self.stage_id:
            changes["stage_id"] = deal.stage_id
        if contact_id is not None and contact_id.lower() != self.contact_id:
            changes["contact_id"] = contact_id
        if not self.shows(deal.attributes):
            changes["attributes"] = deal.attributes
        return changes

    def shows(self, attributes: Mapping[str, Any]) -> bool:
        """Whether the deal has all of these values."""
        return all(shown_values(self.attributes, attributes))


def _lower(value: Any) -> str | None:
    return value.lower() if isinstance(value, str) and value else None


class DealCache:
    """Deals that were read, by id and by contact and pipeline; threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._database: TempDatabase | None = None
        self.complete = False
        """Whether every deal of the CRM was read."""

    def put(self, deal: RemoteDeal) -> None:
        """Keep a deal as it was read."""
        created_at = None if deal.created_at is None else deal.created_at.isoformat()
        data = json_text(
            [deal.id, deal.contact_id, deal.pipeline_id, deal.stage_id, dict(deal.attributes), created_at],
            ascii_only=True,
        )
        pair = None if deal.contact_id is None else _pair(deal.contact_id, deal.pipeline_id)
        with self._lock:
            if self._database is None:
                self._database = TempDatabase(
                    "CREATE TABLE deals (id BLOB PRIMARY KEY, pair BLOB, data TEXT); "
                    "CREATE INDEX by_pair ON deals (pair)",
                    shared=True,
                )
            row = (digest(deal.id.lower()), pair, data)
            self._database.execute("INSERT OR REPLACE INTO deals VALUES (?, ?, ?)", row)

    def get(self, deal_id: str) -> RemoteDeal | None:
        """The deal with this id, None if it was not read."""
        found = self._rows("SELECT data FROM deals WHERE id = ?", (digest(deal_id.lower()),))
        return found[0] if found else None

    def of(self, contact_id: str, pipeline_id: str) -> list[RemoteDeal]:
        """The deals of a contact in a pipeline; a deal that does not show its pipeline may be in any."""
        pairs = _pair(contact_id.lower(), pipeline_id.lower()), _pair(contact_id.lower(), None)
        return self._rows("SELECT data FROM deals WHERE pair IN (?, ?) ORDER BY id", pairs)

    def _rows(self, query: str, parameters: tuple[Any, ...]) -> list[RemoteDeal]:
        with self._lock:
            found = [] if self._database is None else self._database.execute(query, parameters).fetchall()
        return [_restored(data) for (data,) in found]

    def close(self) -> None:
        """Drop the table."""
        with self._lock:
            if self._database is not None:
                self._database.close()


def _pair(contact_id: str, pipeline_id: str | None) -> bytes:
    return digest(json.dumps([contact_id, pipeline_id]))


def _restored(data: str) -> RemoteDeal:
    id_, contact_id, pipeline_id, stage_id, attributes, created_at = json_value(data)
    created = None if created_at is None else datetime.fromisoformat(created_at)
    return RemoteDeal(id_, contact_id, pipeline_id, stage_id, attributes, created)
