"""Command line: ``python -m crm_provider policy`` prints the effective error policy."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence

from crm_provider.errors import CrmConfigurationError
from crm_provider.errors.on_error import OnError, Work
from crm_provider.errors.policy import OPERATORS, ErrorPolicy, with_mode
from crm_provider.errors.policy_table import PolicyLine, explain
from crm_provider.values.suggest import did_you_mean

COLUMNS: Mapping[str, str] = {
    "type": "Type",
    "error": "Class",
    "status": "Status",
    "in_call": "In one call",
    "action": "Outcome",
    "effect": "What happens",
    "origin": "Decided by",
    "advice": "What to do",
}
"""Fields of a line, and their headings."""

WIDE_COLUMNS = ("error", "advice")
"""Omitted from the text table, whose lines would be too long for a terminal."""

REJECTS = "CrmRetryRejectsOperator"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    :return: 0 on success, 2 on invalid input
    """
    arguments = _parser().parse_args(argv)
    try:
        work = with_mode(arguments.work, arguments.mode) if arguments.mode else arguments.work
        policy = _policy(str(work), arguments.on_error, site=arguments.site)
    except (ValueError, CrmConfigurationError) as wrong:
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    try:
        print(render(explain(policy), arguments.format), flush=True)
    except BrokenPipeError:  # for example, `| head` has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m crm_provider", description="Command-line tools of the CRM provider."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    policy = commands.add_parser(
        "policy",
        help="print the effective error policy",
        description="Print the action for each error, and the line of the policy that decides it.",
        epilog=f"operators: {', '.join(OPERATORS)}",
    )
    policy.add_argument(
        "--for",
        dest="work",
        metavar="OPERATOR",
        default="task",
        help="an operator or sensor, or a kind of work: task (default), sensor or load",
    )
    policy.add_argument("--mode", default="", help="the mode of the operator: --for CrmLoadDealsOperator --mode move")
    policy.add_argument(
        "--on-error", metavar="JSON", default="{}", help='on_error of a task as JSON: \'{"DEAL_NOT_FOUND": "skip"}\''
    )
    policy.add_argument(
        "--site",
        action="store_true",
        help="also apply [crm] on_error of this site's Airflow configuration (slower: loads Airflow)",
    )
    policy.add_argument(
        "--format", choices=("text", "markdown", "json"), default="text", help="output format (default: text)"
    )
    return parser


def _policy(work: str, on_error: str, *, site: bool) -> ErrorPolicy:
    try:
        overrides = json.loads(on_error)
    except (ValueError, RecursionError) as broken:
        raise ValueError(
            f'--on-error is not valid JSON ({broken}); write it like \'{{"DEAL_NOT_FOUND": "skip"}}\''
        ) from None
    operator, _, mode = work.partition("(mode=")
    if work not in OPERATORS and operator in OPERATORS:
        others = [name.partition("(mode=")[2].rstrip(")") for name in OPERATORS if name.startswith(f"{operator}(mode=")]
        known = f"known: {', '.join(others)}, or leave it out" if others else "leave it out"
        deals = "; rejects of deals follow the rules of CrmLoadDealsOperator" if operator == REJECTS else ""
        raise ValueError(f"--mode: {operator} has no rules for the mode {mode.rstrip(')')}{deals}; {known}")
    if work not in OPERATORS and work not in [kind.value for kind in Work]:
        hint = did_you_mean(work, OPERATORS, otherwise=f"Known: {', '.join(OPERATORS)}.")
        raise ValueError(f"--for: unknown operator {work!r}. {hint}")
    named = work if work in OPERATORS else None
    kind = OPERATORS[named] if named else Work(work)
    return ErrorPolicy(overrides, work=kind, operator=named, site=_site_lines(kind) if site else {})


def _site_lines(work: Work) -> OnError:
    from crm_provider import config

    return config.on_error(work)


def render(lines: Sequence[PolicyLine], style: str) -> str:
    """The table as aligned text, Markdown or JSON."""
    if style == "json":
        return json.dumps([dataclasses.asdict(line) for line in lines], indent=2)
    columns = [name for name in COLUMNS if style == "markdown" or name not in WIDE_COLUMNS]
    rows = [[str(getattr(line, column) or "-") for column in columns] for line in lines]
    headings = [COLUMNS[name] for name in columns]
    if style == "markdown":
        head = [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
        return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)])
    widths = [max(len(row[n]) for row in (headings, *rows)) for n in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (headings, *rows)
    )


if __name__ == "__main__":
    sys.exit(main())
