"""The errors that the sandbox answers with, all taken from the catalogue."""

from __future__ import annotations

from dataclasses import dataclass

from crm_provider.catalogue import ALIASES, CATALOGUE, GATEWAY_ANSWERS, ErrorSpec, GatewayAnswer, Source
from crm_provider.errors import CrmError
from crm_provider.sandbox.choices import not_one_of


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One error as an answer.

    :param type: its type in the catalogue
    :param gateway: set if the gateway says it: then its form is the gateway's whatever envelope is chosen
    """

    type: str
    status: int
    text: str
    gateway: GatewayAnswer | None = None


class RefusedError(Exception):
    """The backend refuses a call.

    :param error: the error's class
    :param detail: for the journal: which rule was broken, with names of fields but never their values
    :param text: which of the type's texts, if not the documented first one
    """

    def __init__(self, error: type[CrmError], detail: str = "", *, text: str | None = None) -> None:
        super().__init__(detail or error.type)
        self.problem = _from_spec(CATALOGUE[error.type], text)
        self.detail = detail


def gateway_problem(case: str) -> Problem:
    """One of the gateway's own answers.

    :param case: its name in the catalogue, for example ``throttled``
    """
    answer = _CASES[case]
    return Problem(type=answer.type, status=answer.status, text=_text(answer), gateway=answer)


def problem_named(name: str) -> Problem:
    """The error with this name.

    :param name: a type (``DEAL_NOT_FOUND``: written in the chosen envelope), an alias of one
        (``DEAL_ID_IS_NECESSARY``), or a case of the gateway (``key refused``: written in the gateway's form)
    :raises ValueError: no such error; the message names the nearest one
    """
    if name.lower() in _CASES:
        return gateway_problem(name.lower())
    word = name.upper()
    if word in ALIASES:
        return _from_spec(CATALOGUE[ALIASES[word]], word)
    if word not in CATALOGUE:
        raise ValueError(not_one_of("error", name, PROBLEM_NAMES))
    spec = CATALOGUE[word]
    if spec.status is None:
        raise ValueError(f"{word} is never an answer of the API: use the effect 'drop', 'latency' or 'garbage'")
    if spec.source is Source.GATEWAY:
        return gateway_problem(next(answer.case for answer in GATEWAY_ANSWERS if answer.type == word))
    return _from_spec(spec)


def gateway_form(problem: Problem) -> GatewayAnswer | None:
    """How the gateway would say a problem, None if it never says such a thing."""
    said = (a for a in GATEWAY_ANSWERS if a.type == problem.type and a.status == problem.status and _text(a))
    return problem.gateway or next(said, None)


def _from_spec(spec: ErrorSpec, text: str | None = None) -> Problem:
    if spec.status is None:
        raise ValueError(f"{spec.type} is never an answer of the API")
    return Problem(type=spec.type, status=spec.status, text=text or spec.messages[0])


def _text(answer: GatewayAnswer) -> str:
    return next(iter(answer.body.values())) or ""


_CASES = {answer.case: answer for answer in GATEWAY_ANSWERS}

PROBLEM_NAMES: tuple[str, ...] = (
    *(spec.type for spec in CATALOGUE.values() if spec.status is not None),
    *ALIASES,
    *_CASES,
)
"""Every name that :func:`problem_named` knows."""
