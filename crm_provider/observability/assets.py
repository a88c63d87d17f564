"""Assets of the CRM, ``crm://connect.pingback.com/contacts``: tasks report what they write, DAGs can depend on it."""

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
    "rows", "created", "updated", "unchanged", "skipped", "rejected", "suppressed", "deleted", "calls", "seconds",
)  # fmt: skip
"""The parts of a load's result in the asset event."""

LISTING_EXTRA = ("listing", "table", "mode", "records", "rows", "changes", "calls", "seconds")
"""The facts in the asset event of a listing that was written to a file or a table."""


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

    :param account: any name, to distinguish several accounts of one host
    :raises ValueError: if a part is invalid
    """
    from airflow.sdk import Asset

    path = "/".join(part for part in (account, listing) if part)
    return Asset(uri=f"{SCHEME}://{host}/{path}", extra=dict(extra or {}))


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """Normalize a ``crm://`` URI: a host in lower case, an optional account, and a listing.

    :raises ValueError: if the URI is invalid. Airflow calls this when a DAG file declares an asset
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


def convert_asset_to_openlineage(asset: Asset, lineage_context: Any) -> Any:  # noqa: ARG001 - passed by Airflow
    """The asset as an OpenLineage dataset: ``crm://host`` and ``contacts``."""
    from airflow.providers.common.compat.openlineage.facet import Dataset

    namespace, name = dataset_of(asset.uri)
    return Dataset(namespace=namespace, name=name)


def dataset_of(uri: str) -> tuple[str, str]:
    """Namespace and name of a CRM asset's dataset."""
    parts = urlsplit(uri)
    return f"{SCHEME}://{parts.netloc}", parts.path.strip("/")


def crm_assets(assets: Any, listing: str) -> Iterator[Any]:
    """The CRM listings among a task's inlets or outlets."""
    for asset in assets or ():
        uri = str(getattr(asset, "uri", ""))
        if uri.startswith(f"{SCHEME}://") and uri.rpartition("/")[2] == listing:
            yield asset


def note_load(task: Any, context: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Add a load's counts to the events of the assets that it writes.

    A dry run writes nothing and creates no event.
    """
    found = list(crm_assets(task.outlets, task.kind.options.records))
    if result.get("dry_run"):
        task.outlets = [asset for asset in task.outlets if asset not in found]
        return
    for asset in found:
        context["outlet_events"][asset].extra.update({name: result[name] for name in EVENT_EXTRA if name in result})


def note_listing(task: Any, context: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Add the counts of a listing to the events of the outlets that it was written to: those outside the CRM."""
    facts = {"listing": task.listing, "mode": getattr(task, "mode", None), **result}
    extra = {name: facts[name] for name in LISTING_EXTRA if facts.get(name) is not None}
    for asset in task.outlets or ():
        uri = str(getattr(asset, "uri", ""))
        if uri and not uri.startswith(f"{SCHEME}://"):
            context["outlet_events"][asset].extra.update(extra)
