"""What a fault does to a call: it takes the backend's place, or it spoils what the backend answered."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from crm_provider.sandbox.answers import Answer, Writer
from crm_provider.sandbox.faults import Fault

ELSEWHERE = "https://login.example/"
"""Where a redirect leads by default: a host that does not exist and must never see the key."""

LARGE = 100 * 1024 * 1024
"""Bytes of a large answer: JSON with blanks behind it, which a client that reads on takes for a good one."""

_HTML = (
    "<!DOCTYPE html>\n<html><head><title>{status}</title></head>"
    "<body><h1>{status}</h1><p>This page comes from a proxy, not from the API.</p></body></html>\n"
)
_GARBAGE = {"text": "upstream said something", "list": '["not", "an", "object"]', "empty": ""}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What becomes of a call.

    :param answer: None if the connection is closed without one
    :param hold: seconds for which the answer, or the closing, is held back
    :param drip: seconds between two bytes of the body; 0 to send it at once
    :param padding: blanks behind the body
    :param cut: close the connection after this many bytes of the body; None to send all
    :param error: the error's type in the catalogue
    :param applied: whether the call was carried out with success
    :param duplicate: it tried to create what was there already
    :param detail: which rule of the API was broken
    """

    answer: Answer | None
    hold: float = 0.0
    drip: float = 0.0
    padding: int = 0
    cut: int | None = None
    error: str | None = None
    fault: str | None = None
    applied: bool = False
    duplicate: bool = False
    detail: str = ""


def strike(fault: Fault | None, writer: Writer, backend: Callable[[], Outcome]) -> Outcome:
    """The outcome of a call under a fault, or without one.

    :param backend: carries the call out; not called if the fault takes its place
    """
    if fault is None:
        return backend()
    if instead := _INSTEAD.get(fault.effect):
        outcome = instead(fault, writer)
    else:
        outcome = _SPOIL[fault.effect](fault, writer, backend())
    return replace(outcome, fault=fault.name, hold=0.0 if outcome.drip else fault.latency)


# -- instead of the backend -----------------------------------------------------------------------------------


def _error(fault: Fault, writer: Writer) -> Outcome:
    answer = writer.fail(fault.problem, retry_after=fault.retry_after)
    return Outcome(answer=answer, error=fault.problem.type)


def _drop(_fault: Fault, _writer: Writer) -> Outcome:
    return Outcome(answer=None)


def _html(fault: Fault, _writer: Writer) -> Outcome:
    status = fault.status or 502
    body = _HTML.format(status=status).encode()
    return Outcome(answer=Answer(status=status, headers={"content-type": "text/html; charset=utf-8"}, body=body))


def _redirect(fault: Fault, _writer: Writer) -> Outcome:
    headers = {"location": fault.location or ELSEWHERE}
    return Outcome(answer=Answer(status=fault.status or 302, headers=headers, body=b""))


# -- after the backend ----------------------------------------------------------------------------------------


def _latency(_fault: Fault, _writer: Writer, outcome: Outcome) -> Outcome:
    return outcome


def _drip(fault: Fault, _writer: Writer, outcome: Outcome) -> Outcome:
    return replace(outcome, drip=fault.latency or 1.0)


def _large(fault: Fault, _writer: Writer, outcome: Outcome) -> Outcome:
    if outcome.answer is None or fault.variant != "gzip":
        return replace(outcome, padding=LARGE)
    headers = {**outcome.answer.headers, "content-encoding": "gzip"}
    return replace(outcome, answer=replace(outcome.answer, headers=headers, body=_bomb(outcome.answer.body)))


def _bomb(body: bytes) -> bytes:
    packer = zlib.compressobj(level=1, wbits=zlib.MAX_WBITS | 16)
    blanks = b" " * 1024 * 1024
    pieces = [packer.compress(body), *(packer.compress(blanks) for _ in range(LARGE // len(blanks))), packer.flush()]
    return b"".join(pieces)


def _lost(_fault: Fault, _writer: Writer, outcome: Outcome) -> Outcome:
    return replace(outcome, answer=None)


def _lost_error(fault: Fault, writer: Writer, outcome: Outcome) -> Outcome:
    answer = writer.fail(fault.problem, retry_after=fault.retry_after)
    return replace(outcome, answer=answer, error=fault.problem.type)


def _truncate(fault: Fault, _writer: Writer, outcome: Outcome) -> Outcome:
    if outcome.answer is None:
        return outcome
    body = outcome.answer.body
    if fault.variant == "closed":
        return replace(outcome, cut=len(body) // 2)
    return replace(outcome, answer=replace(outcome.answer, body=body[: len(body) // 2]))


def _garbage(fault: Fault, _writer: Writer, outcome: Outcome) -> Outcome:
    if outcome.answer is None:
        return outcome
    body = _GARBAGE[fault.variant or "text"] if fault.body is None else fault.body
    status = fault.status or outcome.answer.status
    return replace(outcome, answer=replace(outcome.answer, status=status, body=body.encode()))


_INSTEAD: Mapping[str, Callable[[Fault, Writer], Outcome]] = {
    "error": _error,
    "drop": _drop,
    "html": _html,
    "redirect": _redirect,
}
_SPOIL: Mapping[str, Callable[[Fault, Writer, Outcome], Outcome]] = {
    "latency": _latency,
    "drip": _drip,
    "large": _large,
    "lost": _lost,
    "lost_error": _lost_error,
    "truncate": _truncate,
    "garbage": _garbage,
}
