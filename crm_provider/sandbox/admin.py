"""The admin routes under ``/__sandbox__``: seed, reset, faults, settings, and what the sandbox saw."""

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
from crm_provider.sandbox.records import JsonObject
from crm_provider.sandbox.routes import BASE_PATH
from crm_provider.sandbox.seeds import snapshot
from crm_provider.sandbox.settings import Settings

ADMIN_PATH = "/__sandbox__"


class SeedBody(BaseModel):
    """Which seed to start anew with."""

    model_config = ConfigDict(extra="forbid")
    seed: str | JsonObject


class ListBody(BaseModel):
    """A segmentation list to add."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1)
    appears_after: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class Refusal(BaseModel):
    """Why a request is refused."""

    detail: str


def create_admin_app(gateway: Gateway) -> FastAPI:
    """The admin routes for a gateway, as an app of its own with an OpenAPI document of its own."""
    app = FastAPI(
        title="CRM sandbox: admin routes", version=__version__, docs_url=None, redoc_url=None, responses=_REFUSED
    )
    app.state.gateway = gateway
    app.add_api_route("/ready", ready, methods=["GET"])
    app.add_api_route("/reset", reset, methods=["POST"])
    app.add_api_route("/seed", seed, methods=["POST"])
    app.add_api_route("/snapshot", show_snapshot, methods=["GET"])
    app.add_api_route("/settings", show_settings, methods=["GET"])
    app.add_api_route("/settings", change_settings, methods=["PATCH"])
    app.add_api_route("/lists", add_list, methods=["POST"], status_code=201)
    app.add_api_route("/faults", show_faults, methods=["GET"])
    app.add_api_route("/faults", add_fault, methods=["POST"], status_code=201)
    app.add_api_route("/faults", clear_faults, methods=["DELETE"])
    app.add_api_route("/faults/{name}", remove_fault, methods=["DELETE"], responses={404: {"model": Refusal}})
    app.add_api_route("/journal", show_journal, methods=["GET"])
    app.add_api_route("/counters", show_counters, methods=["GET"])
    app.add_exception_handler(RequestValidationError, _explain)
    app.add_exception_handler(ValidationError, _explain)
    app.add_exception_handler(ValueError, _explain)
    return app


_REFUSED: dict[int | str, dict[str, Any]] = {422: {"model": Refusal}}


def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


Current = Annotated[Gateway, Depends(_gateway)]


# -- state --------------------------------------------------------------------------------------------------


async def ready() -> JsonObject:
    """The sandbox answers."""
    return {"ready": True, "version": __version__, "base_path": BASE_PATH}


async def reset(gateway: Current) -> JsonObject:
    """Start anew with the seed and the settings of the start."""
    gateway.reset()
    return _holdings(gateway)


async def seed(body: SeedBody, gateway: Current) -> JsonObject:
    """Start anew with another seed: a name, the path of a JSON file, or a document such as a snapshot."""
    gateway.reset(replace(gateway.start_settings, seed=body.seed))
    return _holdings(gateway)


async def show_snapshot(gateway: Current) -> JsonObject:
    """The whole state, in the form of a seed."""
    return snapshot(gateway.store)


async def add_list(body: ListBody, gateway: Current) -> JsonObject:
    """Add a segmentation list, at once or after some seconds."""
    return gateway.store.add_list(body.name, appears_after=body.appears_after).as_json()


# -- settings -----------------------------------------------------------------------------------------------


async def show_settings(gateway: Current) -> JsonObject:
    """The settings in use; the key as a fingerprint."""
    shown = _fields(gateway.settings)
    key = gateway.fingerprints.of(shown.pop("api_key"))
    return {**shown, "seed": shown["seed"] if isinstance(shown["seed"], str) else "(document)", "key": key}


async def change_settings(changes: JsonObject, gateway: Current) -> JsonObject:
    """Change settings until the next reset: ``{"api_key": null}`` revokes the key, ``{"rate": null}`` the limit."""
    checked = TypeAdapter(Settings).validate_python({**_fields(gateway.settings), **changes})
    gateway.configure(**{name: getattr(checked, name) for name in changes})
    return await show_settings(gateway)


# -- faults -------------------------------------------------------------------------------------------------


async def show_faults(gateway: Current) -> JsonObject:
    """The fault rules in order, and how often each struck."""
    with gateway.lock:
        return {"faults": [status.as_json() for status in gateway.faults.statuses()]}


async def add_fault(fault: Fault, gateway: Current) -> JsonObject:
    """Add a fault rule behind the others."""
    with gateway.lock:
        return asdict(gateway.faults.add(fault))


async def clear_faults(gateway: Current) -> JsonObject:
    """Take all fault rules out."""
    with gateway.lock:
        gateway.faults.clear()
    return {"faults": []}


async def remove_fault(name: str, gateway: Current) -> JsonObject:
    """Take one fault rule out."""
    with gateway.lock:
        if not gateway.faults.remove(name):
            raise HTTPException(404, f"there is no fault named {name!r}")
    return await show_faults(gateway)


# -- what it saw --------------------------------------------------------------------------------------------


class JournalFilter(BaseModel):
    """Which calls of the journal to show."""

    model_config = ConfigDict(extra="forbid")
    since: int = 0
    method: str | None = None
    route: str | None = None
    status: int | None = None
    email: str | None = None
    limit: int = Field(default=1000, ge=1)


async def show_journal(wanted: Annotated[JournalFilter, Query()], gateway: Current) -> JsonObject:
    """The oldest calls that fit; ``next`` is the ``since`` to go on with."""
    filters = wanted.model_dump(exclude={"limit", "email"})
    with gateway.lock:
        entries = gateway.journal.entries(**filters, email=gateway.fingerprints.of(wanted.email))[: wanted.limit]
        dropped = gateway.journal.counters().journal_dropped
    last = entries[-1].seq if entries else wanted.since
    return {"entries": [entry.as_json() for entry in entries], "next": last, "dropped": dropped}


async def show_counters(gateway: Current) -> JsonObject:
    """Totals since the start or reset."""
    with gateway.lock:
        return asdict(gateway.journal.counters())


# -- helpers ------------------------------------------------------------------------------------------------


def _holdings(gateway: Gateway) -> JsonObject:
    store = gateway.store
    tables: Mapping[str, Mapping[str, Any]] = {
        "contacts": store.contacts,
        "deals": store.deals,
        "lists": store.lists,
        "pipelines": store.pipelines,
    }
    return {name: len(records) for name, records in tables.items()}


def _fields(settings: Settings) -> JsonObject:
    return {field.name: getattr(settings, field.name) for field in fields(settings)}


async def _explain(_request: Request, error: Exception) -> JSONResponse:
    """What is wrong with an admin request, in one line and without repeating what was sent."""
    if isinstance(error, RequestValidationError | ValidationError):
        return JSONResponse({"detail": "; ".join(_flat(error.errors()))}, status_code=422)
    return JSONResponse({"detail": str(error)}, status_code=422)


def _flat(errors: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    for one in errors:
        place = ".".join(str(part) for part in one["loc"] if part not in ("body", "query"))
        text = str(one["msg"]).removeprefix("Value error, ")
        yield f"{place}: {text}" if place else text
