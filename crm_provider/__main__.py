"""``python -m crm_provider policy``: what happens on which error, and why."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import os
import sys
from collections.abc import Sequence

from crm_provider.errors import CrmConfigurationError
from crm_provider.policy import OPERATORS, ErrorPolicy, Line, OnError, Work, explain

COLUMNS = ("type", "error", "status", "in_call", "action", "origin", "advice")
HEADINGS = ("Type", "Class", "Status", "In one call", "Outcome", "Says", "What to do")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 on success, 2 on bad input."""
    arguments = _parser().parse_args(argv)
    try:
        policy = _policy(arguments.work, arguments.on_error, site=arguments.site)
    except (ValueError, CrmConfigurationError) as wrong:
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    try:
        print(render(explain(policy), arguments.format), flush=True)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m crm_provider", description="Tools of the CRM provider.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    policy = commands.add_parser(
        "policy",
        help="print the effective error policy",
        description="Print what happens on which error, with the origin of each line.",
        epilog=f"operators: {', '.join(OPERATORS)}",
    )
    policy.add_argument(
        "--for",
        dest="work",
        metavar="OPERATOR",
        default="task",
        help="an operator or sensor, or one of: task, sensor, load",
    )
    policy.add_argument(
        "--on-error", metavar="JSON", default="{}", help='overrides as in a DAG, like \'{"DEAL_NOT_FOUND": "skip"}\''
    )
    policy.add_argument(
        "--site",
        action="store_true",
        help="also what this site's Airflow configuration says ([crm] on_error); takes a moment, for it loads Airflow",
    )
    policy.add_argument("--format", choices=("text", "markdown", "json"), default="text")
    return parser


def _policy(work: str, on_error: str, *, site: bool) -> ErrorPolicy:
    try:
        overrides = json.loads(on_error)
    except (ValueError, RecursionError) as broken:
        raise ValueError(f'--on-error is no JSON ({broken}); write it like \'{{"DEAL_NOT_FOUND": "skip"}}\'') from None
    if work not in OPERATORS and work not in [kind.value for kind in Work]:
        close = difflib.get_close_matches(work, OPERATORS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(OPERATORS)}."
        raise ValueError(f"--for: unknown operator {work!r}.{hint}")
    operator = work if work in OPERATORS else None
    kind = OPERATORS[operator] if operator else Work(work)
    return ErrorPolicy(overrides, work=kind, operator=operator, site=_site_lines(kind) if site else {})


def _site_lines(work: Work) -> OnError:
    from crm_provider import site_config

    return site_config.on_error(work)


def render(lines: Sequence[Line], style: str) -> str:
    """The table as aligned text, Markdown or JSON."""
    if style == "json":
        return json.dumps([dataclasses.asdict(line) for line in lines], indent=2)
    rows = [[str(getattr(line, column) or "-") for column in COLUMNS] for line in lines]
    if style == "markdown":
        head = [f"| {' | '.join(HEADINGS)} |", f"|{'---|' * len(HEADINGS)}"]
        return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)])
    shown = [list(HEADINGS)[:-1], *(row[:-1] for row in rows)]  # the advice makes lines too long for a terminal
    widths = [max(len(row[n]) for row in shown) for n in range(len(shown[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown
    )


if __name__ == "__main__":
    sys.exit(main())
