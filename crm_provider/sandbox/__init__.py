"""A local, stateful stand-in for the CRM's API: for demos, for trying out DAGs, and for tests.

From a shell: ``python -m crm_provider.sandbox --port 8000 --seed demo``. From Python::

    from crm_provider.sandbox import Sandbox

    with Sandbox(seed="demo") as sandbox:
        ...  # sandbox.url, sandbox.api_key, sandbox.store

In pytest: the fixtures of :mod:`crm_provider.testing`. ``docs/sandbox.md`` describes everything.

Modules, from the outside to the inside::

    server, __main__      Sandbox, and the command line
    http_server, admin    HTTP and the admin routes (FastAPI and uvicorn, loaded only when a server starts)
    gateway               how a request passes: route, key, faults, rate limit, backend, journal
    fault_rules, faults   when a fault applies, and what it does
    routes, operations    how a request is read, and what the API does with it
    seeds, store          initial data, and the CRM's state with its rules
    responses, journal    errors and envelopes; what was received
    settings, ids         set-up, clock, hosts; stable ids

From the rest of the package it uses only the error catalogue and the version.
"""

from __future__ import annotations

from crm_provider.sandbox.fault_rules import MAGIC_EMAILS, FaultStatus, MagicEmail
from crm_provider.sandbox.faults import EFFECTS, Fault
from crm_provider.sandbox.journal import Counters, JournalEntry
from crm_provider.sandbox.responses import RefusedError
from crm_provider.sandbox.seeds import SeedError
from crm_provider.sandbox.server import Sandbox
from crm_provider.sandbox.settings import DEFAULT_API_KEY, Clock, ManualClock, SandboxSettings, SystemClock
from crm_provider.sandbox.store import CrmStore

__all__ = [
    "DEFAULT_API_KEY",
    "EFFECTS",
    "MAGIC_EMAILS",
    "Clock",
    "Counters",
    "CrmStore",
    "Fault",
    "FaultStatus",
    "JournalEntry",
    "MagicEmail",
    "ManualClock",
    "RefusedError",
    "Sandbox",
    "SandboxSettings",
    "SeedError",
    "SystemClock",
]
