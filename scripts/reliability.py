"""The tables of ``docs/reliability.md``: the results of faults, recorded by the tests that cause them.

    pytest -m reliability tests/integration --reliability FILE    records the results as JSON lines
    python scripts/reliability.py FILE                            prints the tables
    python scripts/reliability.py FILE --write                    writes them into docs/reliability.md
    python scripts/reliability.py FILE --write --only-seen        keeps the lines that the run did not record

``make reliability`` runs these commands. Without ``--reliability`` each test compares its result with its line in the
document, and fails if they differ. Standard library and ``crm_provider``; no Airflow.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from crm_provider.errors import CrmError

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "reliability.md"
REGENERATE = "make reliability"

PARTS = ("call", "network", "process")
"""The tables: one call; tasks with a broken network; tasks with a local failure."""

HEADINGS = ("Fault", "Affects", "Result", "Requests", "In the CRM", "Message", "What to do")

_MARKED = re.compile(r"^<!-- reliability: (\w+) -->\n(.*?)^<!-- end -->$", re.DOTALL | re.MULTILINE)
_CELL = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The result of one fault in one place: a line of a table.

    :param part: one of :data:`PARTS`
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
    def of(
        cls,
        *,
        part: str,
        fault: str,
        hits: str,
        ends: str,
        requests: int | str,
        data: str,
        error: BaseException | None = None,
        said: str | None = None,
        remedy: str | None = None,
    ) -> Seen:
        """Build a line from a test's result. The error provides ``said`` and ``remedy`` if they are missing."""
        typed = _typed(error)
        if said is None:
            said = f"`{type(typed).__name__}`: {_message(typed)}" if typed else "nothing"
        if remedy is None:
            remedy = typed.suggested_action if isinstance(typed, CrmError) else "nothing"
        texts = {"fault": fault, "hits": hits, "ends": ends, "data": data, "said": said, "remedy": remedy}
        stables = {name: stable(text) for name, text in texts.items()}
        return cls(part=part, requests=stable(str(requests)), **stables)

    @property
    def key(self) -> tuple[str, str]:
        return self.fault, self.hits

    @property
    def line(self) -> str:
        """The line in Markdown."""
        cells = (self.fault, self.hits, self.ends, self.requests, self.data, self.said, self.remedy)
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


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
    """Print or write the tables.

    :return: the exit code: 1 if no result was recorded
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("seen", type=Path, metavar="FILE", help="the file that pytest --reliability FILE has written")
    parser.add_argument("--write", action="store_true", help=f"rewrite docs/{DOCUMENT.name}")
    parser.add_argument("--only-seen", action="store_true", help="keep lines that this run did not record")
    options = parser.parse_args(arguments)
    seen = read(options.seen)
    if not seen:
        print(f"{options.seen} is empty: no test with the marker `reliability` ran", file=sys.stderr)
        return 1
    old = tables(DOCUMENT) if options.only_seen else {}
    new = {part: _merged(old.get(part, {}), [one for one in seen if one.part == part]) for part in PARTS}
    if options.write:
        for part, (fault, hits) in _unseen(new):
            print(f"removed from {part}, because no test recorded it: {fault} ({hits})", file=sys.stderr)
        write(DOCUMENT, {part: lines for part, lines in new.items() if lines})
    else:
        print("\n\n".join(f"{part}\n\n{table(lines)}" for part, lines in new.items() if lines))
    return 0


def _unseen(new: Mapping[str, Lines]) -> list[tuple[str, tuple[str, str]]]:
    """The lines of the document that the new tables lack."""
    kept = {part: lines for part, lines in new.items() if lines}
    old = tables(DOCUMENT).items()
    return [(part, key) for part, lines in old if part in kept for key in lines if key not in kept[part]]


def read(path: Path) -> list[Seen]:
    """Read the recorded results of a run."""
    return [Seen(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def note(path: Path, seen: Seen) -> None:
    """Append a result to the file of a run."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(seen)) + "\n")


def tables(document: Path) -> dict[str, Lines]:
    """The tables of a document, by part."""
    return {part: _lines(text) for part, text in _MARKED.findall(document.read_text(encoding="utf-8"))}


def write(document: Path, new: Mapping[str, Lines]) -> None:
    """Write tables into a document. Parts that are not given stay unchanged."""

    def part(match: re.Match[str]) -> str:
        lines = new.get(match[1])
        return match[0] if lines is None else f"<!-- reliability: {match[1]} -->\n\n{table(lines)}\n\n<!-- end -->"

    document.write_text(_MARKED.sub(part, document.read_text(encoding="utf-8")), encoding="utf-8")


def table(lines: Lines) -> str:
    """A table in Markdown."""
    return "\n".join([f"| {' | '.join(HEADINGS)} |", f"|{' --- |' * len(HEADINGS)}", *lines.values()])


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in _CELL.split(line)[1:-1]]


def _lines(text: str) -> Lines:
    found: Lines = {}
    for line in text.splitlines():
        cells = _cells(line)
        if len(cells) == len(HEADINGS) and cells[0] != HEADINGS[0] and not cells[0].startswith("---"):
            found[cells[0], cells[1]] = line
    return found


def _merged(old: Lines, seen: Iterable[Seen]) -> Lines:
    return {**old, **{one.key: one.line for one in seen}}


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
