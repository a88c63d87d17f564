"""How a load ends before its last row. What was done is in the books; the next try goes on from there."""

from __future__ import annotations

from crm_provider import errors as e
from crm_provider.errors.policy import Decision
from crm_provider.files.paths import CannotWrite
from crm_provider.load.summary import Summary


class LoadStopped(Exception):
    """An error of the run, not of a row; what was done is in the books, and the next try goes on from there.

    :param error: the error
    :param decision: what is to happen to the task
    """

    def __init__(self, error: e.CrmError, decision: Decision, summary: Summary) -> None:
        super().__init__(error, decision, summary)
        self.error, self.decision, self.summary = error, decision, summary

    def __str__(self) -> str:
        return f"{self.error} The load stopped after: {self.summary.line()}"


class LoadUnsaved(Exception):
    """A file of the load cannot be written, such as its rejects on a disk that is full: nothing more was sent.

    :param unwritten: which file, and why
    """

    def __init__(self, unwritten: CannotWrite, summary: Summary) -> None:
        super().__init__(unwritten, summary)
        self.unwritten, self.summary = unwritten, summary

    def __str__(self) -> str:
        return f"{self.unwritten}. The load stopped after: {self.summary.line()}. {MEND}"


MEND = "Make room there, or mend what is said; a retry goes on from there, a cleared task starts with the first row"


class LoadInterrupted(Exception):
    """The load was told to stop; the next try goes on from there."""

    def __init__(self, summary: Summary) -> None:
        super().__init__(summary)
        self.summary = summary

    def __str__(self) -> str:
        return f"The load was interrupted; {self.summary.line()}"
