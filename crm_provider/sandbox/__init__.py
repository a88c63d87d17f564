"""A stateful stand-in for the CRM's API on this machine: for demos, for trying out DAGs, and for tests.

From a shell: ``python -m crm_provider.sandbox --port 8000 --seed demo``. From Python::

    from crm_provider.sandbox import Sandbox

    with Sandbox(seed="demo") as sandbox:
        ...  # sandbox.url, sandbox.api_key, sandbox.store

In pytest: the fixtures of :mod:`crm_provider.testing`. All of it is described in ``docs/sandbox.md``.

How it is built::

    app, admin, serving          HTTP: FastAPI and uvicorn; loaded only when a server starts
    server, __main__             Sandbox, and the command line
    gateway                      the way of a call: route, key, faults, rate limit, backend, journal
      calls, routes              what a call is about
      faults, faultbook, magic   what goes wrong on purpose, and when
      effects                    what that does to the answer
      bucket, journal            rate limit; what was seen
    operations, validation       the API's calls, and the checks of what they are sent
      store, tables, records     the CRM's rules and its state; developer: a made-up one
    problems, answers            errors from the catalogue; envelopes
    settings, seeds, ids, clock  set-up
"""

from __future__ import annotations

from crm_provider.sandbox.clock import Clock, ManualClock, SystemClock
from crm_provider.sandbox.faultbook import FaultStatus
from crm_provider.sandbox.faults import EFFECTS, Fault
from crm_provider.sandbox.journal import Counters, JournalEntry
from crm_provider.sandbox.magic import MAGIC_EMAILS, MagicEmail
from crm_provider.sandbox.problems import RefusedError
from crm_provider.sandbox.seed_fields import SeedError
from crm_provider.sandbox.server import Sandbox
from crm_provider.sandbox.settings import DEFAULT_API_KEY, Settings
from crm_provider.sandbox.store import Store

__all__ = [
    "DEFAULT_API_KEY",
    "EFFECTS",
    "MAGIC_EMAILS",
    "Clock",
    "Counters",
    "Fault",
    "FaultStatus",
    "JournalEntry",
    "MagicEmail",
    "ManualClock",
    "RefusedError",
    "Sandbox",
    "SeedError",
    "Settings",
    "Store",
    "SystemClock",
]
