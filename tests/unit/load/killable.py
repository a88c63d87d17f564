"""A load in a process of its own, to be killed: ``python killable.py BASE_URL FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

from crm_provider.client.client import CrmClient
from crm_provider.client.settings import Settings
from crm_provider.client.transport import Transport
from crm_provider.errors.on_error import Work
from crm_provider.errors.policy import ErrorPolicy
from crm_provider.load import job
from crm_provider.load.job import LoadJob
from crm_provider.load.mapping.mapper import Mapper
from crm_provider.load.outcomes.file import OutcomesFile
from crm_provider.load.rejects.file import RejectsFile
from crm_provider.load.sources.source import open_source
from crm_provider.load.state.checkpoint import FileCheckpoints
from crm_provider.load.state.fingerprints import Fingerprints
from crm_provider.load.workers import LEAST, CancelToken, RequestStats
from crm_provider.rate_limit.limiter import ProcessRateLimiter

RATE, BURST = 100.0, 10


def main(base_url: str, folder: Path) -> None:
    settings = Settings(api_key="sandbox-key", base_url=base_url)
    job.width_for = lambda rate, latency: LEAST  # as many on their way on a slow machine, too
    cancel_token, stats = CancelToken(), RequestStats()
    transport = Transport(settings, limiter=ProcessRateLimiter(RATE, BURST), sleep=cancel_token.sleep, observer=stats)
    with CrmClient(settings, transport=transport) as client:
        summary = LoadJob(
            source=open_source(folder / "people.csv"),
            mapper=Mapper(None),
            client=client,
            stats=stats,
            policy=ErrorPolicy(work=Work.LOAD),
            rate=RATE,
            rejects=RejectsFile(folder / "rejects.csv"),
            outcomes=OutcomesFile(folder / "outcomes.parquet", keys="name"),
            fingerprints=Fingerprints(folder / "state", b"secret"),
            checkpoints=FileCheckpoints(folder / "checkpoint"),
            cancel_token=cancel_token,
        ).run()
    (folder / "summary").write_text(repr(summary.as_dict()))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
