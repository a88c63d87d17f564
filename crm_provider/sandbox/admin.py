"""The admin routes under ``/__sandbox__``: seed, reset, faults, settings, journal and counters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from crm_provider import __version__
from crm_provider.sandbox.faults import Fault
from crm_provider.sandbox.gateway import Gateway
from crm_provider.sandbox.seeds import snapshot
from crm_provider.sandbox.settings import BASE_PATH, SandboxSettings
from crm_provider.sandbox.store import JsonObject


class SeedBody(BaseModel):
    """The seed to start again with."""

    model_config = ConfigDict(extra="forbid")
    seed: str | JsonObject


class ListBody(BaseModel):
    """A segmentation list to add."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1)
    appears_after: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class JournalFilter(BaseModel):
    """Which requests of the journal to return."""

    model_config = ConfigDict(extra="forbid")
    since: int = 0
    method: str | None = None
    route: str | None = None
    status: int | None = None
    email: str | None = None
    limit: int = Field(default=1000, ge=1)


class Refusal(BaseModel):
    """Why a request is refused."""

    detail: str


def create_admin_app(gateway: Gateway) -> FastAPI:
    """The admin routes of a gateway, as a separate app with its own OpenAPI document.

    ``http_server`` checks host, origin, media type and size of a request before it gets here.
    """
    app = FastAPI(
        title="CRM sandbox: admin routes",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=_REFUSED,
    )
    app.state.gateway = gateway
    app.add_api_route("/ready", ready, methods=["GET"])
    app.add_api_route("/reset", reset, methods=["POST"])
    app.add_api_route("/seed", seed, methods=["POST"])
    app.add_api_route("/snapshot", get_snapshot, methods=["GET"])
    app.add_api_route("/settings", get_settings, methods=["GET"])
    app.add_api_route("/settings", change_settings, methods=["PATCH"])
    app.add_api_route("/lists", add_list, methods=["POST"], status_code=201)
    app.add_api_route("/faults", get_faults, methods=["GET"])
    app.add_api_route("/faults", add_fault, methods=["POST"], status_code=201)
    app.add_api_route("/faults", clear_faults, methods=["DELETE"])
    app.add_api_route("/faults/{name}", remove_fault, methods=["DELETE"], responses={404: {"model": Refusal}})
    app.add_api_route("/journal", get_journal, methods=["GET"])
    app.add_api_route("/counters", get_counters, methods=["GET"])
    app.add_exception_handler(RequestValidationError, _explain)
    app.add_exception_handler(ValidationError, _explain)
    app.add_exception_handler(ValueError, _explain)
    return app


_REFUSED: dict[int | str, dict[str, Any]] = {status: {"model": Refusal} for status in (403, 413, 415, 421, 422)}


def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


Current = Annotated[Gateway, Depends(_gateway)]


# -- state --------------------------------------------------------------------------------------------------


async def ready() -> JsonObject:
    """The sandbox is up."""
    return {"ready": True, "version": __version__, "base_path": BASE_PATH}


async def reset(gateway: Current) -> JsonObject:
    """Start again with the initial seed and settings."""
    gateway.reset()
    return _sizes(gateway)


async def seed(body: SeedBody, gateway: Current) -> JsonObject:
    """Start again with another seed: a name, the path of a JSON file, or a document such as a snapshot."""
    gateway.reset(replace(gateway.start_settings, seed=body.seed))
    return _sizes(gateway)


async def get_snapshot(gateway: Current) -> JsonObject:
    """The whole state as a seed document."""
    return snapshot(gateway.store)


async def add_list(body: ListBody, gateway: Current) -> JsonObject:
    """Add a segmentation list that appears at once or after some seconds."""
    return gateway.store.add_list(body.name, appears_after=body.appears_after).as_json()


# -- settings -----------------------------------------------------------------------------------------------


async def get_settings(gateway: Current) -> JsonObject:
    """The current settings, with a keyed hash in place of the API key."""
    values = _fields(gateway.settings)
    key = gateway.hasher.hash(values.pop("api_key"))
    return {**values, "seed": values["seed"] if isinstance(values["seed"], str) else "(document)", "key": key}


async def change_settings(changes: JsonObject, gateway: Current) -> JsonObject:
    """Change settings until the next reset: ``{"api_key": null}`` revokes the key, ``{"rate": null}`` the limit."""
    checked = TypeAdapter(SandboxSettings).validate_python({**_fields(gateway.settings), **changes})
    gateway.configure(**{name: getattr(checked, name) for name in changes})
    return await get_settings(gateway)


# -- faults -------------------------------------------------------------------------------------------------


async def get_faults(gateway: Current) -> JsonObject:
    """The fault rules in order, with their counters."""
    with gateway.lock:
        return {"faults": [status.as_json() for status in gateway.faults.statuses()]}


async def add_fault(fault: Fault, gateway: Current) -> JsonObject:
    """Add a fault rule after the others."""
    with gateway.lock:
        return asdict(gateway.faults.add(fault))


async def clear_faults(gateway: Current) -> JsonObject:
    """Remove all fault rules."""
    with gateway.lock:
        gateway.faults.clear()
    return {"faults": []}


async def remove_fault(name: str, gateway: Current) -> JsonObject:
    """Remove one fault rule."""
    with gateway.lock:
        if not gateway.faults.remove(name):
            raise HTTPException(404, f"there is no fault named {name!r}")
    return await get_faults(gateway)


# -- journal ------------------------------------------------------------------------------------------------


async def get_journal(wanted: Annotated[JournalFilter, Query()], gateway: Current) -> JsonObject:
    """The oldest requests that match. Pass ``next`` as ``since`` to get the following ones."""
    filters = wanted.model_dump(exclude={"limit", "email"})
    with gateway.lock:
        entries = gateway.journal.entries(**filters, email=gateway.hasher.hash(wanted.email))[: wanted.limit]
        dropped = gateway.journal.counters().journal_dropped
    last = entries[-1].seq if entries else wanted.since
    return {"entries": [entry.as_json() for entry in entries], "next": last, "dropped": dropped}


async def get_counters(gateway: Current) -> JsonObject:
    """Totals since the start or the last reset."""
    with gateway.lock:
        return asdict(gateway.journal.counters())


# -- helpers ------------------------------------------------------------------------------------------------


def _sizes(gateway: Gateway) -> JsonObject:
    store = gateway.store
    tables: Mapping[str, Mapping[str, Any]] = {
        "contacts": store.contacts,
        "deals": store.deals,
        "lists": store.lists,
        "pipelines": store.pipelines,
    }
    return {name: len(records) for name, records in tables.items()}


def _fields(settings: SandboxSettings) -> JsonObject:
    return {field.name: getattr(settings, field.name) for field in fields(settings)}


async def _explain(_request: Request, error: Exception) -> JSONResponse:
    """What is wrong with an admin request, in one line and without the values that were sent."""
    if isinstance(error, RequestValidationError | ValidationError):
        return JSONResponse({"detail": "; ".join(_lines(error.errors()))}, status_code=422)
    return JSONResponse({"detail": str(error)}, status_code=422)


def _lines(errors: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    for one in errors:
        place = ".".join(str(part) for part in one["loc"] if part not in ("body", "query"))
        text = str(one["msg"]).removeprefix("Value error, ")
        yield f"{place}: {text}" if place else text
