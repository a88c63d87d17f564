"""The mutants that may survive, in groups, and why."""

from __future__ import annotations

import re
from dataclasses import dataclass

REASONS = {
    "same value": "the changed code gives the same value for all that it can be given",
    "default said": "an argument is left out that says the default",
    "same order": "numbers that are only compared with each other begin elsewhere or grow in larger steps",
    "no such name": "a text that stands for none is replaced by another that nothing is named",
    "capitals": "SQL, and names of codecs and of hash functions, are taken in capitals and in small letters alike",
    "newer Python": "only Python 3.10 needs it, and mutants run on a newer one; the tests run on both",
    "words": "a message for people may end in other letters; nothing is decided by it",
}
"""What the groups have in common."""


@dataclass(frozen=True)
class Explained:
    """Changes that no test has to notice.

    :param group: one of :data:`REASONS`
    :param module: below ``crm_provider``, with dots
    :param function: part of the mutant's name
    :param change: found in the lines that were taken out and put in; a regular expression
    """

    group: str
    module: str
    function: str
    change: str


_SQL_IN_OTHER_LETTERS = r"\A-(.*\b(?:CREATE|SELECT|INSERT|DELETE|ORDER BY)\b.*)\n\+(?i:\1)\Z"

EXPLAINED = (
    Explained("same order", "load.row_results", "__init__", r"_launched = 1"),
    Explained("same order", "load.row_results", "launching", r"\+= 2"),
    Explained("capitals", "load.state.temp_tables", "", _SQL_IN_OTHER_LETTERS),
    Explained("capitals", "load.state.temp_tables", "", _SQL_IN_OTHER_LETTERS),
    Explained("capitals", "load.state.fingerprints", "", _SQL_IN_OTHER_LETTERS),
    Explained("capitals", "load.state.fingerprints", "lines_of", r'decode\("ASCII"\)'),
    Explained("capitals", "load.state.fingerprints", "", r'"SHA256"'),
    Explained("words", "load.row_results", "_reject", r"rstrip\('XX\.XX'\)"),
    Explained("words", "tasks.outcome", "_remark", r"rstrip\('XX\.XX'\)"),
    Explained("default said", "load.row_results", "_reject_unsendable", r"^-        (request_id=None|retryable=False)"),
    Explained("no such name", "errors.policy", "", r'operator or "XXXX"'),
    Explained("no such name", "client.responses", "_spec_by_header", r'"XXXX"\)'),
    Explained("no such name", "client.responses", "_http_date", r'value or "XXXX"'),
    Explained("newer Python", "values.server_clock", "utc_time", r"fromisoformat\(value"),
    Explained("same value", "rate_limit.schedule", "_before", r"if i <= own else"),
    Explained("same value", "rate_limit.limiter", "ShareRateLimiter", r"ProcessRateLimiter\(rate, 2\)"),
    Explained("same value", "rate_limit.stores", "FallbackStore", r"_untold.* = \[False\]"),
    Explained("same value", "waiting.backoff", "back_off", r"min\(failed - 1, 33\)"),
    Explained("same value", "load.planner", "choose", r"pages_of\(count or 1\)"),
    Explained("same value", "client.upsert", "LearnedOrder", r"share: float = 1\.0"),
)


def explanation(module: str, function: str, change: str) -> str | None:
    """The group that a survivor is in, if it is in one."""
    return next(
        (
            known.group
            for known in EXPLAINED
            if known.module == module and known.function in function and re.search(known.change, change, re.MULTILINE)
        ),
        None,
    )
