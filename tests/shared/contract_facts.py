"""Unconfirmed facts about the API, and what accounts responded: the reference infers them or does not mention them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One unconfirmed fact.

    :param name: in the table
    :param sure: ``I``: inferred, ``U``: unknown, ``D/I``: documented in part
    :param assumed: what the provider relies on; empty if it accepts anything
    """

    name: str
    sure: str
    assumed: str = ""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one account responded.

    :param holds: whether it matches the assumption; None if there is none, or if the response leaves it open
    """

    fact: str
    target: str
    saw: str
    holds: bool | None

    @property
    def cell(self) -> str:
        verdict = {True: "confirms: ", False: "**breaks**: ", None: ""}[self.holds]
        return f"{verdict}{self.saw}".replace("|", "\\|").replace("\n", " ")


def _facts(*facts: tuple[str, str, str]) -> Mapping[str, Fact]:
    return {name: Fact(name=name, sure=sure, assumed=assumed) for name, sure, assumed in facts}


FACTS = _facts(
    ("success envelope", "conflict", "the fields are under `data` or at the top level"),
    ("status of a creation", "I", "any 2xx"),
    ("response to a creation", "D/I", "has `id`"),
    ("response to an update", "D/I", "is an object or empty"),
    ("response to a deletion", "I", "any 2xx"),
    ("path of a deletion", "I", "DELETE /contacts/{email}; the contact is gone at once"),
    ("deleting twice", "U", "404 CONTACT_NOT_FOUND"),
    ("creating after deleting", "U", "the address is free again"),
    ("update keeps fields that are not sent", "I", "yes"),
    ("attributes in an update", "D/I", "are at the top level of the body"),
    ("attribute that does not exist", "U", ""),
    ("letter case of an email", "U", ""),
    ("a `+` in an email", "I", "percent-encoded in the path, it is the same contact"),
    ("form of a phone number", "D/I", "is kept as E.164 with `+`"),
    ("`createdAt`", "I", "an ISO 8601 time"),
    ("`status` values", "U", ""),
    ("membership on a contact", "I", "`segmentedListsIds` is a list"),
    ("delay until a contact shows a membership", "U", ""),
    ("response to adding to a list", "U", "any 2xx"),
    ("request id", "U", "in the body or a header of the gateway"),
    ("form of an error", "U", "its type or its documented text is in the body"),
    ("unknown contact", "I", "CONTACT_NOT_FOUND"),
    ("empty body", "I", "MISSING_BODY"),
    ("invalid email", "I", "INVALID_INPUT"),
    ("second creation", "I", "CONTACT_ALREADY_EXISTS"),
    ("unknown deal", "I", "DEAL_NOT_FOUND"),
    ("unknown list", "I", "SEGMENTATION_LIST_NOT_FOUND"),
    ("unknown pipeline", "I", "PIPELINE_NOT_FOUND or STAGE_NOT_FOUND"),
    ("refused key", "I", "an error of access"),
    ("no key", "I", "an error of access"),
    ("unknown route", "I", "403 Missing Authentication Token, or 404: distinct from a refused key"),
    ("page numbers", "D", "start at 0; 10 records a page"),
    ("`total` of contacts", "I", "counts records"),
    ("past the last page", "U", "an empty page or 404"),
    ("the same page twice", "U", ""),
    ("order of a listing", "U", ""),
    ("neighbouring pages", "U", "have no record in common while nothing changes"),
    ("listing of lists", "U", "`id`, and `name` or `title`, in each"),
    ("listing of deals", "I", "has the form of the listing of contacts"),
    ("fields of a deal", "I", "`id`, `contactId`, `pipelineId`, `stageId`, `attributes`"),
    ("paths of deals", "I", "GET and DELETE /deals/{dealId}"),
    ("`pb_amount`", "U", "is returned with the digits that were sent"),
    ("developer mode", "D/I", "works with fake data; production is untouched"),
    ("response to an email verification", "U", "any 2xx"),
)

NOT_ASKED = {
    "scope of the rate limit": ("I", "per key", "it would take more calls than the limit allows"),
    "form of a 429": ("I", "429, with or without Retry-After", "it would take more calls than the limit allows"),
    "quota of the plan": ("I", "429 Limit Exceeded", "it would use up the plan's quota"),
    "responses of a broken backend": ("I", "500, 502, 503, 504", "they cannot be requested"),
    "response of an automation": ("D/I", "any 2xx", "it would start one"),
}


def table(findings: Sequence[Finding], targets: Sequence[str]) -> str:
    """All facts as a Markdown table, one column for each target."""
    seen = {(finding.fact, finding.target): finding for finding in findings}
    lines = [_line("Fact", "Sure", "The provider assumes", *targets), _line(*["---"] * (3 + len(targets)))]
    for fact in FACTS.values():
        cells = [seen[fact.name, target].cell if (fact.name, target) in seen else "not shown" for target in targets]
        lines.append(_line(fact.name, fact.sure, fact.assumed or "nothing", *cells))
    for name, (sure, assumed, reason) in NOT_ASKED.items():
        lines.append(_line(name, sure, assumed, *[f"not tested: {reason}"] * len(targets)))
    return "\n".join(lines)


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
