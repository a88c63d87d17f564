"""What the log of a task shows at its end: one record of short lines, and a traceback without frames that say nothing.

Airflow's log view cuts a line at its right edge, and shows the message of an exception as one line, above its frames.
The record holds no values of rows. The traceback keeps the frames of Airflow and of the DAG's author.
"""

from __future__ import annotations

import functools
import logging
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from types import TracebackType
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote

from crm_provider import config
from crm_provider.errors import CrmError
from crm_provider.errors.policy import Decision

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)

WIDTH, PREFIX = 110, 32
"""Characters of a line that Airflow's log view shows in a window of 1,280 pixels; of its own before the first."""

DOCS = 'docs/operations.md, "What to do, by error family"'

PACKAGE = "crm_provider."
OUTER = tuple(f"{PACKAGE}{name}." for name in ("operators", "sensors", "transfers", "tasks"))
"""What may call code of the DAG's author, such as a ``call`` that a subclass overrides."""


# -- the record ---------------------------------------------------------------------------------------------


def record(happened: str, facts: Iterable[tuple[str, str | None]] = ()) -> str:
    """Lines for people: what happened, then a line for each fact that is known.

    >>> print(record("Deal not found.", [("What to do", "Check that the deal exists."), ("Request id", None)]))
    Deal not found.
    What to do:  Check that the deal exists.
    """
    known = [(f"{name}:", text) for name, text in facts if text]
    indent = max((len(name) for name, _ in known), default=0) + 2
    first, *others = _wrapped(happened, first=" " * PREFIX)
    lines = [first[PREFIX:], *others]
    for name, text in known:
        lines += _wrapped(text, first=name.ljust(indent), others=" " * indent)
    return "\n".join(lines)


def error_record(error: CrmError, *, ended: str, decision: Decision, task: Any) -> str:
    """The record of an error that ends a try.

    :param ended: what becomes of the task
    :param task: the task, for the page with its error policy
    """
    facts = [
        ("What to do", error.advice),
        ("Also", " ".join(error.circumstances)),
        ("Task", ended),
        ("Decided by", decision.origin),
        ("Policy", _policy_page(task)),
        ("Docs", DOCS),
        ("Request id", error.request_id),
    ]
    return record(error.happened, facts)


def moment(date: datetime) -> str:
    """A time for people."""
    return f"{date.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def _policy_page(task: Any) -> str | None:
    """Where Airflow shows the task's error policy."""
    operator = getattr(getattr(task, "error_policy", None), "operator", None)
    return config.page_url(f"policy?operator={quote(operator)}") if operator else None


def _wrapped(text: str, *, first: str = "", others: str = "") -> list[str]:
    """Lines of at most :data:`WIDTH` characters; a URL, an id or a path stays whole."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )


# -- the traceback ------------------------------------------------------------------------------------------


def short_traceback(*kinds: type[BaseException]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: leaves out the frames of this package, and those below them, of some exceptions.

    Without effect on Python 3.10, and if the log level of this package is DEBUG.

    :param kinds: the exceptions whose message says everything
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            with _Shortened(kinds):
                return function(*args, **kwargs)

        return wrapper

    return decorate


class _Shortened(AbstractContextManager[None]):
    def __init__(self, kinds: tuple[type[BaseException], ...]) -> None:
        self._kinds = kinds

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None, /
    ) -> None:
        # the frame of the `with` is added before, and not again when the exception goes on (Python 3.11+)
        if isinstance(error, self._kinds) and not log.isEnabledFor(logging.DEBUG):
            leave_out_own_frames(error)


def leave_out_own_frames(error: BaseException) -> None:
    """Shorten the traceback of an error, and those of its causes."""
    seen: BaseException | None = error
    while seen is not None:
        seen.__traceback__ = _shortened(seen.__traceback__)
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)


def _shortened(traceback: TracebackType | None) -> TracebackType | None:
    shortened = None
    for entry in reversed(list(_foreign(traceback))):
        shortened = TracebackType(shortened, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return shortened


def _foreign(traceback: TracebackType | None) -> Iterator[TracebackType]:
    """The frames that are not of this package, down to where its client begins."""
    while traceback is not None:
        module = str(traceback.tb_frame.f_globals.get("__name__", ""))
        if not module.startswith(PACKAGE):
            yield traceback
        elif not module.startswith(OUTER):
            return
        traceback = traceback.tb_next
