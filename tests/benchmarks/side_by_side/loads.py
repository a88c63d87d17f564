"""The file of leads, loaded by each client into its own CRM, and again a day later."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crm_provider.sandbox import Sandbox
from side_by_side.figures import BURST, LATENCY, RATE, Load, seen
from side_by_side.leads import Lead, fill, leads, not_loaded, write_file
from side_by_side.ways import Ran, Way


def load(way: Way, rows: int, folder: Path, *, days: Sequence[int] = (0, 1)) -> list[Load]:
    """Load the file on the first day, on the next day, or on both with the same CRM.

    The CRM has its own API key, so the run has its own rate budget.
    """
    files = [leads(rows, later=day > 0) for day in days]
    name = f"{Path(way.file).stem}-{'-'.join(map(str, days))}"
    with Sandbox(seed="empty", rate=RATE, burst=BURST, api_key=f"{folder.name}-{name}", journal_size=10 * rows) as crm:
        crm.add_fault(effect="latency", latency=LATENCY)
        fill(crm, files[0])
        runs = way.run(crm, [conf(folder, name, day, given) for day, given in zip(days, files, strict=True)])
        missing = not_loaded(crm, files[-1])
        return [measured(crm, ran, rows, missing) for ran in runs]


def conf(folder: Path, name: str, day: int, given: list[Lead]) -> dict[str, str]:
    """The parameters of a DAG run."""
    file = write_file(folder / f"{name}-day{day}.csv", given)
    return {"file": str(file), "rejects": f"{file}.rejects", "state": str(folder / f"{name}.state")}


def measured(crm: Sandbox, ran: Ran, rows: int, missing: int) -> Load:
    """The measurements of a run. The CRM's journal may contain other runs, too."""
    journal = [one for one in crm.journal() if ran.started <= one.at <= ran.ended]
    of_crm: dict[str, Any] = seen(journal)
    return Load(
        rows=rows,
        seconds=ran.seconds,
        cpu=ran.cpu,
        peak_mb=ran.peak_mb,
        base_mb=ran.base_mb,
        not_loaded=missing,
        state=ran.state,
        **of_crm,
    )
