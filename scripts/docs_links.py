"""Check the external links of the documents: well-formed, over HTTPS, and to hosts that we know.

    python scripts/docs_links.py             what the tests check, too
    python scripts/docs_links.py --fetch     asks each address once, too: not in CI, for others' servers are not ours

Links in text count, not addresses shown as code. Standard library only.
"""

from __future__ import annotations

import argparse
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

import docs_text
from docs_text import ROOT

HOSTS = frozenset(
    {
        "airflow.apache.org",
        "connect.pingback.com",
        "docs.python.org",
        "github.com",
        "keepachangelog.com",
        "semver.org",
    }
)
"""Where a link may lead: the vendor, projects that we stand on, standards. No blog, no shortener."""

SECONDS = 15.0
"""To wait for an answer."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Check all documents; 0 if there is nothing to mend."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fetch", action="store_true", help="ask each address, too")
    fetch = parser.parse_args(arguments).fetch
    found = external_links()
    problems = [f"{place}: {link}: {problem}" for place, link in found if (problem := objection(link))]
    if fetch:
        for link in sorted({link for _, link in found}):
            problem = answer(link.partition("#")[0])
            if problem is None:
                print(f"{link}: is there")
            else:
                problems.append(f"{link}: {problem}")
    print(*problems, sep="\n", end="\n" if problems else "")
    return 1 if problems else 0


def external_links() -> list[tuple[str, str]]:
    """Each link that leads out of this repository, and where it stands."""
    return [
        (document.relative_to(ROOT).as_posix(), link)
        for document in docs_text.documents()
        for link in [*docs_text.links(document), *_bare(docs_text.prose(document))]
        if re.match(r"[A-Za-z][\w+.-]*:|//", link)
    ]


def _bare(text: str) -> Iterator[str]:
    """Addresses between angle brackets, and those that stand alone: a code host makes links of them."""
    text = re.sub(r"`[^`\n]+`", "code", text)
    yield from re.findall(r"<((?:https?:|//)[^>\s]+)>", text)
    yield from re.findall(r"(?<![(<\w])(https?://[^\s)>\]]+)", text)


def objection(link: str) -> str | None:
    """What is wrong with a link, as far as it shows."""
    try:
        parts = urlsplit(link)
        port = parts.port
    except ValueError as wrong:
        return f"is no address ({wrong})"
    if parts.scheme != "https":
        return "does not begin with https://"
    if parts.username or parts.password or port:
        return "has a user, a password or a port"
    if parts.hostname not in HOSTS:
        return f"leads to {parts.hostname}, which is not in HOSTS of scripts/docs_links.py"
    if re.search(r"[\s\"<>\\^`{|}]|%(?![0-9A-Fa-f]{2})", link):
        return "has characters that must be escaped"
    return None


def answer(link: str) -> str | None:
    """What is wrong with what is there; None if nothing is."""
    request = urllib.request.Request(link, headers={"User-Agent": "airflow-provider-crm documentation check"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            arrived = urlsplit(response.url)
    except urllib.error.HTTPError as refused:
        return f"answers {refused.code}"
    except OSError as failed:
        return f"does not answer ({failed})"
    return None if arrived.hostname in HOSTS else f"leads on to {arrived.hostname}"


if __name__ == "__main__":
    sys.exit(main())
