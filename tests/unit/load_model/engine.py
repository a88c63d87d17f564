"""Runs the load engine for the model. This is the only file here that imports the package.

The client sends its requests to the fake CRM, and time passes only there. Rows in flight together are
processed one after the other, in launch order, so that a scenario is deterministic.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import parse_qsl, urlsplit

import requests
import urllib3
from requests.adapters import BaseAdapter

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.settings import Settings
from crm_provider.client.transport import Transport
from crm_provider.errors.on_error import Work
from crm_provider.errors.policy import ErrorPolicy
from crm_provider.load.job import LoadJob
from crm_provider.load.kinds.contacts import CONTACTS
from crm_provider.load.kinds.deals import DEALS
from crm_provider.load.outcomes.file import OutcomesFile
from crm_provider.load.progress import RowCounts
from crm_provider.load.rejects.file import RejectedRows, RejectsFile
from crm_provider.load.report import LoadInterrupted, LoadStopped
from crm_provider.load.rows import Row
from crm_provider.load.state.checkpoint import FileCheckpoints
from crm_provider.load.state.fingerprints import Fingerprints, secret_for
from crm_provider.load.suppression import Suppression
from crm_provider.load.workers import CancelToken, RequestStats

from .fake_crm import Clock, FakeCrm, Http, Lost, Refused, TimedOut
from .scenario import LoadSpec

POOLS = ("concurrent.futures.ThreadPoolExecutor", "crm_provider.client.pagination.ThreadPoolExecutor")
"""Modules from which the engine takes its threads."""


class Killed(BaseException):
    """The process ends here: nothing after it has an effect."""


Server = Callable[[str, str, Mapping[str, str], Any], Http]
"""Maps method, path, query, and body of a request to its response."""


@dataclass(frozen=True)
class Ended:
    """The end of one try.

    :param how: ``done``, ``stopped`` (by an error of the run) or ``interrupted``
    :param error: type of the error of the run
    """

    how: str
    rows: int
    left: int
    counts: Mapping[str, int]
    calls: int
    forecast: int
    plan: str
    error: str | None = None


@dataclass
class Files:
    """The files of a load.

    :param state: None for no state file
    :param source: a rejects file to load again, or None for the rows of the specification
    """

    checkpoint: Path
    rejects: Path
    state: Path | None = None
    source: Path | None = None

    @property
    def outcomes(self) -> Path:
        return self.rejects.with_suffix(".outcomes.jsonl")


class _Inline(concurrent.futures.Executor):
    """Runs each task immediately."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self._given = 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        future = _Numbered(self._given)
        self._given += 1
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - as every executor does
            future.set_exception(error)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Nothing is left to do."""


class _Numbered(concurrent.futures.Future):  # type: ignore[type-arg]
    """A collection that returns its items in insertion order."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class _Adapter(BaseAdapter):
    """Replaces the network under a ``requests`` session."""

    def __init__(self, server: Server, started: Callable[[bool], None]) -> None:
        super().__init__()
        self._server, self._started = server, started

    def send(self, request: requests.PreparedRequest, **_: Any) -> requests.Response:  # type: ignore[override]
        url = urlsplit(str(request.url))
        body = json.loads(request.body) if request.body else None
        self._started(True)
        try:
            response = self._server(str(request.method), url.path.removeprefix("/v2"), dict(parse_qsl(url.query)), body)
        except Refused:
            self._started(False)
            raise requests.ConnectionError(ConnectionRefusedError(111, "Connection refused")) from None
        except Lost:
            raise requests.ConnectionError(ConnectionResetError(104, "Connection reset by peer")) from None
        except TimedOut:
            raise requests.ReadTimeout("no response") from None
        return _response(request, response)

    def close(self) -> None:
        """No connection is open."""


def _response(request: requests.PreparedRequest, response: Http) -> requests.Response:
    made = requests.Response()
    length = len(response.body) + (10 if response.cut else 0)
    headers = {**response.headers, "Content-Length": str(length)}
    made.status_code, made.request, made.url = response.status, request, str(request.url)
    made.headers.update(headers)
    made.raw = urllib3.HTTPResponse(
        io.BytesIO(response.body),
        status=response.status,
        headers=headers,
        preload_content=False,
        enforce_content_length=True,
    )
    return made


class _Unlimited:
    """Grants each slot at once."""

    def acquire(self, max_wait: float) -> float:
        return 0.0

    def pause(self, seconds: float) -> None:
        """Nobody else uses this budget."""


@dataclass
class _Rows:
    given: tuple[Mapping[str, Any], ...]
    name: str = "rows"
    columns: None = None

    def rows(self) -> Iterator[Row]:
        for number, values in enumerate(self.given, start=1):
            yield Row(number, values)


class _Checkpoints(FileCheckpoints):
    """Reports each save, before and after."""

    def __init__(self, path: Path, on_save: Callable[[str], None]) -> None:
        super().__init__(path)
        self._on_save = on_save

    def save(self, checkpoint: Any) -> None:
        self._on_save("before")
        super().save(checkpoint)
        self._on_save("after")


@contextlib.contextmanager
def client_of(
    server: Server, clock: Clock, cancel_token: CancelToken | None = None, stats: RequestStats | None = None
) -> Iterator[Any]:
    """A client whose requests go to the fake CRM."""

    def sleep(seconds: float) -> None:
        clock.advance(seconds)
        if cancel_token is not None:
            cancel_token.sleep(0)

    settings = Settings(api_key="key", base_url="http://127.0.0.1:9/v2")
    transport = Transport(
        settings, limiter=_Unlimited(), clock=clock, sleep=sleep, jitter=lambda: 0.5, observer=stats
    )  # fmt: skip
    http = transport._http
    adapter = _Adapter(server, lambda sent: setattr(http._progress, "sent", sent))
    for scheme in ("http://", "https://"):
        http._session.get_adapter(f"{scheme}x").close()
        http._session.mount(scheme, adapter)
    with CrmClient(settings, transport=transport) as client:
        yield client


def attempt(
    spec: LoadSpec,
    files: Files,
    crm: FakeCrm,
    server: Server,
    *,
    on_outcome: Callable[[int, str], None],
    on_save: Callable[[str], None],
    with_interrupt: Callable[[Callable[[], None]], None],
) -> Ended:
    """One try of a load.

    :param on_outcome: receives the outcome of each row as it happens
    :param on_save: receives ``before`` and ``after`` for each save of a checkpoint
    :param with_interrupt: receives the function that interrupts the load
    :raises Killed: the caller must undo any write after it
    """
    cancel_token, stats = CancelToken(), RequestStats()
    with_interrupt(cancel_token.set)
    given = {
        "mapping": None, "mode": spec.mode, "plan": spec.plan, "empty": spec.empty, "duplicates": spec.duplicates,
        "list_ids": spec.list_ids, "resubscribe": spec.resubscribe, "max_rejects": "100%",
    }  # fmt: skip
    options = CONTACTS.options_of(given)
    with contextlib.ExitStack() as opened:
        for name in POOLS:
            opened.enter_context(mock.patch(name, _Inline))
        opened.enter_context(_outcomes_reported(on_outcome))
        client = opened.enter_context(client_of(server, crm.clock, cancel_token, stats))
        fingerprints = None
        if files.state is not None:
            effect: dict[str, Any] = {"list_ids": sorted(options.checked_lists())} if options.list_ids else {}
            effect |= {"mode": "create"} if spec.mode == "create" else {}
            fingerprints = Fingerprints(files.state, secret_for(client.settings), effect=effect)
            opened.callback(fingerprints.close)
        suppressed = None
        if spec.suppression:
            suppressed = opened.enter_context(contextlib.closing(Suppression.read(list(spec.suppression)))).__contains__
        source: Any = _Rows(spec.rows) if files.source is None else RejectedRows(files.source)
        load = LoadJob(
            source=source,
            mapper=CONTACTS.mapper_of(given),
            client=client,
            stats=stats,
            options=options,
            policy=ErrorPolicy(work=Work.LOAD, operator=_operator(spec.mode)),
            rejects=RejectsFile(files.rejects, original=None if files.source is None else source.original),
            outcomes=OutcomesFile(files.outcomes, keys="email"),
            fingerprints=fingerprints,
            full_refresh=spec.full_refresh and files.state is not None,
            checkpoints=_Checkpoints(files.checkpoint, on_save),
            suppressed=suppressed,
            cancel_token=cancel_token,
            clock=crm.clock,
        )
        try:
            return _ended("done", load.run())
        except LoadStopped as stopped:
            return _ended("stopped", stopped.summary, stopped.error.type)
        except LoadInterrupted as interrupted:
            return _ended("interrupted", interrupted.summary)


@dataclass(frozen=True)
class DealSpec:
    """A load of deals.

    :param only_from: ids of the stages that a deal may leave
    """

    rows: tuple[Mapping[str, Any], ...]
    mapping: Mapping[str, Any]
    mode: str
    plan: str = "auto"
    only_from: tuple[str, ...] = ()
    duplicates: str = "last"


def attempt_deals(
    spec: DealSpec, files: Files, crm: FakeCrm, server: Server, *, on_outcome: Callable[[int, str], None]
) -> Ended:
    """One try of a load of deals.

    :raises Killed: the caller must undo any write after it
    """
    cancel_token, stats = CancelToken(), RequestStats()
    given = {
        "mapping": spec.mapping, "mode": spec.mode, "plan": spec.plan, "only_from_stages": spec.only_from,
        "max_rejects": "100%", "duplicates": spec.duplicates,
    }  # fmt: skip
    operator = "CrmLoadDealsOperator" if spec.mode == "upsert" else f"CrmLoadDealsOperator(mode={spec.mode!r})"
    with contextlib.ExitStack() as opened:
        for name in POOLS:
            opened.enter_context(mock.patch(name, _Inline))
        opened.enter_context(_outcomes_reported(on_outcome))
        client = opened.enter_context(client_of(server, crm.clock, cancel_token, stats))
        fingerprints = None
        if files.state is not None:
            fingerprints = Fingerprints(files.state, secret_for(client.settings))
            opened.callback(fingerprints.close)
        source: Any = _Rows(spec.rows) if files.source is None else RejectedRows(files.source)
        load = LoadJob(
            source=source,
            kind=DEALS,
            mapper=DEALS.mapper_of(given),
            client=client,
            stats=stats,
            options=DEALS.options_of(given),
            policy=ErrorPolicy(work=Work.LOAD, operator=operator),
            rejects=RejectsFile(files.rejects),
            fingerprints=fingerprints,
            checkpoints=FileCheckpoints(files.checkpoint),
            cancel_token=cancel_token,
            clock=crm.clock,
        )
        try:
            return _ended("done", load.run())
        except LoadStopped as stopped:
            return _ended("stopped", stopped.summary, stopped.error.type)


def _operator(mode: str) -> str:
    """As the operator identifies itself to the policy."""
    return "CrmLoadContactsOperator" if mode == "upsert" else f"CrmLoadContactsOperator(mode={mode!r})"


def _ended(how: str, summary: Any, error: str | None = None) -> Ended:
    counts = {outcome.value: count for outcome, count in summary.counts.items() if count}
    return Ended(how, summary.rows, summary.left, counts, summary.calls, summary.plan_calls, summary.plan, error)


@contextlib.contextmanager
def _outcomes_reported(reported: Callable[[int, str], None]) -> Iterator[None]:
    enter = RowCounts.enter

    def noted(self: RowCounts, number: int, outcome: Any, **details: Any) -> None:
        enter(self, number, outcome, **details)
        reported(number, outcome.value)

    with mock.patch.object(RowCounts, "enter", noted):
        yield


def rejects_of(path: Path) -> dict[int, dict[str, Any]]:
    """The rows of a rejects file by number: their ``values`` and ``type``.

    :raises AssertionError: if a row is in it twice
    """
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    found = {line["row"]: line for line in lines}
    assert len(found) == len(lines), "the rejects file contains a row twice"
    return found


def outcomes_of(path: Path) -> list[tuple[int, str, str | None]]:
    """The lines of an outcomes file: number, outcome and error of a row."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [(line["row_number"], line["outcome"], line["error_type"]) for line in lines]


def create_deal(client: Any, contact_id: str, fields: Mapping[str, Any]) -> tuple[str | None, str | None, bool]:
    """Create a deal.

    :return: its id, or the type of the error and whether the error says that the outcome is known
    """
    try:
        deal = client.create_deal(
            contact_id=contact_id,
            pipeline_id=fields["pipelineId"],
            stage_id=fields["stageId"],
            attributes=fields["attributes"] or None,
        )
    except e.CrmError as error:
        return None, error.type, error.outcome_known
    return str(deal["id"]), None, True


def forget_checkpoint(path: Path) -> None:
    """As the operator does after a complete load."""
    FileCheckpoints(path).clear()
