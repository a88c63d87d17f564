"""The tables of ``docs/reliability.md``: the results of faults, recorded by the tests that cause them.

    pytest -m reliability tests/integration --reliability FILE    records the results as JSON lines
    python scripts/reliability.py FILE                            writes them into docs/reliability.md
    python scripts/reliability.py FILE --only-seen                keeps the lines that the run did not record

``make reliability`` runs these commands. Without ``--reliability`` each test compares its result with its line in the
document, and fails if they differ. Standard library and ``crm_provider``; no Airflow.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import generated

from crm_provider.errors import CrmError

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "reliability.md"
REGENERATE = "make reliability"

HEADINGS = ("Fault", "Affects", "Result", "Requests", "In the CRM", "Message", "What to do")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The result of one fault in one place: a line of a table.

    :param part: the table: ``call`` (one call), ``network`` (tasks with a broken network) or ``process`` (a local
        failure)
    :param fault: the cause; with ``hits`` it identifies the line
    :param hits: the affected call, operator or sensor
    :param ends: the final state of the task, or ``raised`` for a call of the client
    :param requests: the number of requests that reached the server
    :param data: lost and duplicated data, as checked by the test
    :param said: class and message of the error
    :param remedy: the advice of the message
    """

    part: str
    fault: str
    hits: str
    ends: str
    requests: str
    data: str
    said: str
    remedy: str

    @classmethod
    def of(cls, *, error: BaseException | None = None, **fields: Any) -> Seen:
        """Build a line from a test's result. The error provides ``said`` and ``remedy`` if they are missing."""
        typed = _typed(error)
        said = f"`{type(typed).__name__}`: {_message(typed)}" if typed else "nothing"
        remedy = typed.suggested_action if isinstance(typed, CrmError) else "nothing"
        texts = {"said": said, "remedy": remedy, **fields}
        return cls(**{name: stable(str(text)) for name, text in texts.items()})

    @property
    def key(self) -> tuple[str, str]:
        return self.fault, self.hits

    @property
    def line(self) -> str:
        """The line in Markdown."""
        return generated.line(list(asdict(self).values())[1:])


def _typed(error: BaseException | None) -> BaseException | None:
    """The error of this package that caused Airflow's exception, if there is one."""
    found = error
    while found is not None and not isinstance(found, CrmError):
        found = found.__cause__
    return found or error


def _message(error: BaseException) -> str:
    if not isinstance(error, CrmError):
        return str(error)
    unsure = "" if error.outcome_known else ". The write may or may not have happened"
    return f"{error.message}{unsure}"


Lines = dict[tuple[str, str], str]
"""The lines of a table by ``fault`` and ``hits``, in order."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables.

    :return: the exit code: 1 if no result was recorded
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("seen", type=Path, metavar="FILE", help="the file that pytest --reliability FILE has written")
    parser.add_argument("--only-seen", action="store_true", help="keep lines that this run did not record")
    options = parser.parse_args(arguments)
    seen = read(options.seen)
    if not seen:
        print(f"{options.seen} is empty: no test with the marker `reliability` ran", file=sys.stderr)
    for part, old in tables(DOCUMENT).items():
        new = {one.key: one.line for one in seen if one.part == part}
        if options.only_seen:
            new = {**old, **new}
        if new:
            write(part, new)
            for fault, hits in old.keys() - new.keys():
                print(f"removed from {part}, because no test recorded it: {fault} ({hits})", file=sys.stderr)
    return 0 if seen else 1


def read(path: Path) -> list[Seen]:
    """Read the recorded results of a run."""
    return [Seen(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def note(path: Path, seen: Seen) -> None:
    """Append a result to the file of a run."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(seen)) + "\n")


def tables(document: Path) -> dict[str, Lines]:
    """The tables of a document, by part."""
    return {part: _lines(text) for part, text in generated.parts(document, "reliability").items()}


def _lines(text: str) -> Lines:
    """The lines of a table below its headings."""
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    return {(cells[0], cells[1]): line for line in rows if (cells := _cells(line))}


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def write(part: str, lines: Lines) -> None:
    """Write the table of a part into the document."""
    text = "\n".join([generated.table(HEADINGS, []), *lines.values()])
    generated.replace(DOCUMENT, f"reliability: {part}", text)


def difference(seen: Seen, document: Path = DOCUMENT) -> str | None:
    """The difference between a result and the document; None if they agree."""
    lines = tables(document).get(seen.part)
    if lines is None:
        return f"docs/{document.name} has no markers <!-- reliability: {seen.part} --> and <!-- end -->"
    if lines.get(seen.key) == seen.line:
        return None
    return (
        f"docs/{document.name} differs. If the observed result is right, run: {REGENERATE}\n"
        f"observed: {seen.line}\ndocument: {lines.get(seen.key, '(no such line)')}"
    )


# -- texts that are equal in every run --------------------------------------------------------------------

_VARYING = (
    (re.compile(r"(?<=localhost:|127\.0\.0\.1:)\d+"), "PORT"),
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "ID"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?(Z|[+-]\d\d:?\d\d)?"), "TIME"),
    (re.compile(r"(?<![\w/.])/(?:tmp|var|home|root|private|work)(?:/[^\s'\",;:)]+)+"), "FILE"),
    (re.compile(r"(?<=in )\d+(?:\.\d+)?(?= s\b)"), "N"),
    (re.compile(r"\bself signed\b"), "self-signed"),  # OpenSSL 1.1
    (re.compile(r"(\S)\1{9,}"), r"\1\1\1..."),
    (re.compile(r"\s+"), " "),
)


def stable(text: str) -> str:
    """Replace the varying parts of a text: ports, ids, times, paths, durations, OpenSSL's spelling."""
    for pattern, replacement in _VARYING:
        text = pattern.sub(replacement, text)
    return text.strip()


if __name__ == "__main__":
    sys.exit(main())
