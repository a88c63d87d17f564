"""Assets of the CRM, ``crm://connect.pingback.com/contacts``: a load tells what it wrote, and DAGs can wait for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from crm_provider.client.settings import DEFAULT_BASE_URL

if TYPE_CHECKING:
    from airflow.sdk import Asset


SCHEME = "crm"
LISTINGS = ("contacts", "deals", "lists")
DEFAULT_HOST = urlsplit(DEFAULT_BASE_URL).netloc

EVENT_EXTRA = (
    "rows", "created", "updated", "unchanged", "skipped", "rejected", "suppressed", "calls", "seconds",
)  # fmt: skip
"""What of a load's result goes with the event."""


def create_asset(
    *,
    listing: str = "contacts",
    account: str | None = None,
    host: str = DEFAULT_HOST,
    extra: Mapping[str, Any] | None = None,
) -> Asset:
    """The asset of the CRM's contacts, deals or lists.

    >>> create_asset(account="acme").uri
    'crm://connect.pingback.com/acme/contacts'

    :param account: tells apart several accounts of one host; any name
    :raises ValueError: if a part makes no sense
    """
    from airflow.sdk import Asset

    path = "/".join(part for part in (account, listing) if part)
    return Asset(uri=f"{SCHEME}://{host}/{path}", extra=dict(extra or {}))


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """The one way to write a ``crm://`` URI: a host in lower case, perhaps an account, and what is listed there.

    :raises ValueError: saying what is wrong; Airflow asks when a DAG file names an asset
    """
    parts = uri.path.removeprefix("/").removesuffix("/").split("/")
    if not uri.hostname or parts[-1] not in LISTINGS or len(parts) > 2 or not all(parts):
        raise ValueError(
            f"a CRM asset is written crm://host/contacts or crm://host/account/contacts, such as "
            f"crm://{DEFAULT_HOST}/contacts; known after the host: {', '.join(LISTINGS)}"
        )
    if uri.query or "@" in uri.netloc:
        raise ValueError("a CRM asset's URI has no user, key or query; remove them")
    return uri._replace(netloc=uri.netloc.lower(), path=f"/{'/'.join(parts)}", fragment="")


def convert_asset_to_openlineage(asset: Asset, lineage_context: Any) -> Any:  # noqa: ARG001 - Airflow gives it
    """The asset as a dataset of OpenLineage: ``crm://host`` and ``contacts``."""
    from airflow.providers.common.compat.openlineage.facet import Dataset

    namespace, name = dataset_of(asset.uri)
    return Dataset(namespace=namespace, name=name)


def dataset_of(uri: str) -> tuple[str, str]:
    """Namespace and name of a CRM asset's dataset."""
    parts = urlsplit(uri)
    return f"{SCHEME}://{parts.netloc}", parts.path.strip("/")


def crm_assets(assets: Any, listing: str) -> Iterator[Any]:
    """Those of a task's inlets or outlets that are a listing of the CRM."""
    for asset in assets or ():
        uri = str(getattr(asset, "uri", ""))
        if uri.startswith(f"{SCHEME}://") and uri.rpartition("/")[2] == listing:
            yield asset


def note_load(task: Any, context: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Put a load's counts on the events of the contacts' assets among the task's outlets.

    A dry run has written nothing: it makes no event.
    """
    found = list(crm_assets(task.outlets, "contacts"))
    if result.get("dry_run"):
        task.outlets = [asset for asset in task.outlets if asset not in found]
        return
    for asset in found:
        context["outlet_events"][asset].extra.update({name: result[name] for name in EVENT_EXTRA if name in result})
