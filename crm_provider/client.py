"""The client: one method for each call of the Pingback Connect API v2.

Facts about the API are the vendor's unless marked *inferred*. Every method raises a
:class:`~crm_provider.errors.CrmError`; values are checked before anything is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crm_provider.calls.deals import DealCalls
from crm_provider.calls.lists import ListCalls
from crm_provider.calls.other import OtherCalls
from crm_provider.remote_contact import CLOCKS_APART
from crm_provider.settings import Settings
from crm_provider.transport import Transport

if TYPE_CHECKING:
    from datetime import datetime

    from typing_extensions import Self


class CrmClient(ListCalls, DealCalls, OtherCalls):
    """Calls of one account: its contacts, deals and segmentation lists. Threads may share a client.

    >>> client = CrmClient(Settings(api_key=key))
    >>> client.upsert_contact("ada@example.com", attributes={"name": "Ada"})["outcome"]
    'created'

    :param settings: where to, and with which key
    :param transport: what sends the calls; by default one made from the settings
    :param user_agent: further products for the User-Agent header
    """

    def __init__(self, settings: Settings, *, transport: Transport | None = None, user_agent: str = "") -> None:
        super().__init__(transport or Transport(settings, user_agent=user_agent))
        self.settings = settings

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start_of_writes(self) -> datetime | None:
        """A moment by the CRM's clock: what this client makes from now on is younger, what is there already is older.

        One harmless call shows the clock, if no answer has yet; then the doubt about it is waited out, some seconds.

        :return: None if the CRM's answers do not show its clock
        """
        moment = self._transport.server_time()
        if moment is None:
            self.ping()
            moment = self._transport.server_time()
        if moment is None:
            return None
        self._transport.sleep((moment.latest - moment.earliest + 2 * CLOCKS_APART).total_seconds())
        return moment.latest + CLOCKS_APART

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._transport.close()
