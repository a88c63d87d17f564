"""One rate budget per API key, for all its callers: threads, processes, and hosts if they share a Redis.

Slots are spaced at 99 % of the rate. One token of the CRM's burst stays unused: it absorbs the jitter of the way,
so that evenly spaced calls are never refused. What is beyond it (a raised burst) may be used at once.
"""

from crm_provider.pacing.budget import Budget, LanePacer, pacer_for
from crm_provider.pacing.lanes import WEIGHTS, Lane
from crm_provider.pacing.pacer import (
    LONGEST_PAUSE,
    MARGIN,
    BudgetBusy,
    Pacer,
    ProcessPacer,
    SharePacer,
    Unlimited,
)

__all__ = [
    "LONGEST_PAUSE",
    "MARGIN",
    "WEIGHTS",
    "Budget",
    "BudgetBusy",
    "Lane",
    "LanePacer",
    "Pacer",
    "ProcessPacer",
    "SharePacer",
    "Unlimited",
    "pacer_for",
]
