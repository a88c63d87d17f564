"""The mutants that may survive, in groups with a reason."""

from __future__ import annotations

import re
from dataclasses import dataclass

REASONS = {
    "same value": "the changed code gives the same value for every possible input",
    "same default": "the removed argument has the default value",
    "same order": "numbers that are only compared with each other start elsewhere or grow in larger steps",
    "no such name": "a placeholder for a missing name is replaced by another text that is not a name",
    "capitals": "SQL and the names of codecs and hash functions ignore case",
    "newer Python": "only Python 3.10 needs it, and mutants run on a newer version; the tests run on both",
}
"""The groups, and why their mutants may survive."""


@dataclass(frozen=True)
class Explained:
    """Changes that a test need not notice.

    :param group: one of :data:`REASONS`
    :param module: the module below ``crm_provider``, with dots
    :param function: part of the mutant's name
    :param change: a regular expression that matches part of the removed and added lines
    """

    group: str
    module: str
    function: str
    change: str


_SQL_IN_OTHER_LETTERS = r"\A-(.*\b(?:CREATE|SELECT|INSERT|DELETE|ORDER BY)\b.*)\n\+(?i:\1)\Z"

EXPLAINED = (
    Explained("same order", "load.row_results", "__init__", r"\.launched = 1"),
    Explained("capitals", "load.state.temp_tables", "", _SQL_IN_OTHER_LETTERS),
    Explained("capitals", "load.kinds.remote_deletions", "", _SQL_IN_OTHER_LETTERS),
    Explained("capitals", "load.suppression", "", rf'encoding="UTF-8"|{_SQL_IN_OTHER_LETTERS}'),
    Explained("capitals", "files.fingerprints", "", _SQL_IN_OTHER_LETTERS),
    Explained("capitals", "client.responses", "_whole_characters", r'"UTF-16-LE"'),
    Explained("capitals", "files.fingerprints", "lines_of", r'decode\("ASCII"\)'),
    Explained("capitals", "load.state.fingerprints", "", r'"SHA256"'),
    Explained("same value", "tasks.outcome", "", r"^\+.*log\.log\(level, \w|default=1\)"),
    Explained("same default", "load.row_results", "_reject_unsendable", r"^-        (request_id=None|retryable=False)"),
    Explained("same default", "load.report", "write_report", r"^\+.*atomic_writer\(path(, ?)?\) as"),
    Explained("no such name", "client.responses", "_spec_by_header", r'"XXXX"$'),
    Explained("no such name", "client.responses", "_http_date", r'value or "XXXX"'),
    Explained("no such name", "load.kinds.deal_sender", "", r'stage_id or "XXXX"'),
    Explained("newer Python", "values.server_clock", "utc_time", r"fromisoformat\(value"),
    Explained("same value", "rate_limit.schedule", "_before", r"if i <= own else"),
    Explained("same value", "rate_limit.leases", "__init__", r"_length = 2\.0"),
    Explained("same value", "rate_limit.roster", "parse", r'"XX\{\}XX"|found = None'),
    Explained("same value", "rate_limit.roster", "_stretches", r"begin >= at|math\.inf\], (strict=False)?\)"),
    Explained("same value", "rate_limit.limiter", "ShareRateLimiter", r"ProcessRateLimiter\(rate, 2\)"),
    Explained("same value", "rate_limit.limiter", "FallbackStore", r"_warning_due.* = \[False\]"),
    Explained("same value", "load.kinds.remote_deletions", "", r"or 1\)$|kept >= 0"),
    Explained("same value", "load.kinds.deal_plan", "", r"round\(with(out)?_reading, 7\)|pages_of\(total or 1\)"),
    Explained("same value", "load.kinds.deal_sender", "", r"undecided = None|found\.changes\(deal, None\)"),
    Explained("same value", "load.kinds.remote_deals", "", r"return False, True|pages_of\(total or 1\)"),
    Explained("same value", "transfers.sql_rows", "", r'note\(1, problem|"XX/XX"|"XXXX", sql|max\(\[2,'),
    Explained("same value", "load.planner", "choose", r"pages_of\(count or 1\)"),
    Explained("same value", "client.upsert", "LearnedOrder", r"share: float = 1\.0"),
)


def explanation(module: str, function: str, change: str) -> str | None:
    """The group of a surviving mutant, if it has one."""
    return next(
        (
            known.group
            for known in EXPLAINED
            if known.module == module and known.function in function and re.search(known.change, change, re.MULTILINE)
        ),
        None,
    )
