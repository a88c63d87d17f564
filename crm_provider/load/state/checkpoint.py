"""Checkpoints: the data that a later try needs to continue, small enough for Airflow's task state."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from crm_provider.files.paths import AnyPath, atomic_writer, is_local, read_own, remove
from crm_provider.load.rows import Outcome

log = logging.getLogger(__name__)

VERSION = 1
"""Version of the data of a checkpoint. Checkpoints of other versions are not used."""

REFUSED, RETRYABLE = "refused", "retryable"
"""Keys beside the outcomes in a checkpoint's counts: rows whose call ended without success; rejected rows that may
succeed as they are."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The counts of a load at one moment. Rows are done up to a number, and a few after it.

    :param epoch: distinguishes the tries of one run from a run that was started again
    :param fingerprint: fingerprint of the input, because row numbers are valid for this input only
    :param done_above: numbers over ``done_upto``, in order
    :param counts: outcome -> rows
    :param errors: error type -> rows
    :param calls: calls of all tries so far
    :param seconds: seconds of all tries so far
    :param notes: further data for a later try
    """

    epoch: int
    fingerprint: str
    done_upto: int = 0
    done_above: tuple[int, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    calls: int = 0
    seconds: float = 0.0
    notes: Mapping[str, Any] = field(default_factory=dict)
    version: int = VERSION

    @property
    def rows(self) -> int:
        """Rows that are done."""
        return self.done_upto + len(self.done_above)

    def as_data(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "done_above": list(self.done_above), "seconds": round(self.seconds, 3)}

    @staticmethod
    def from_data(data: Any) -> Checkpoint:
        """The checkpoint that :meth:`as_data` was called on; for another version, only the version.

        :raises ValueError: if it is not a checkpoint
        """
        if not isinstance(data, Mapping) or not isinstance(data.get("version"), int):
            raise ValueError("it is not a checkpoint of a load")
        if data["version"] != VERSION:
            return Checkpoint(epoch=-1, fingerprint="", version=data["version"])
        if data.keys() - _SHAPE.keys() or not all(name in data and fits(data[name]) for name, fits in _SHAPE.items()):
            raise ValueError("it is a checkpoint with missing, unknown or invalid parts")
        return Checkpoint(**{**data, "done_above": tuple(data["done_above"])})


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _are_counts(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and all(isinstance(name, str) for name in value)
        and all(map(_is_count, value.values()))
    )


_SHAPE: Mapping[str, Callable[[Any], bool]] = {
    "epoch": lambda value: isinstance(value, int),
    "fingerprint": lambda value: isinstance(value, str),
    "done_upto": _is_count,
    "done_above": lambda value: isinstance(value, (list, tuple)) and all(map(_is_count, value)),
    "counts": lambda value: (
        _are_counts(value) and value.keys() <= {REFUSED, RETRYABLE, *(outcome.value for outcome in Outcome)}
    ),
    "errors": _are_counts,
    "calls": _is_count,
    "seconds": lambda value: isinstance(value, (int, float)) and 0 <= value < math.inf,
    "notes": lambda value: isinstance(value, Mapping),
    "version": lambda value: isinstance(value, int),
}
"""A check for each part of a checkpoint, because the file may have been edited, or belong to another program."""


def resumable(checkpoint: Checkpoint, epoch: int, fingerprint: str) -> str | None:
    """Why a load cannot continue from a checkpoint, None if it can."""
    if checkpoint.version != VERSION:
        return f"the checkpoint is of version {checkpoint.version} of this package's data, which is now {VERSION}"
    if checkpoint.epoch != epoch:
        return "the task was cleared since the checkpoint was written"
    if checkpoint.fingerprint != fingerprint:
        return "the input, the mapping or an option has changed since the checkpoint was written"
    return None


class DoneRows:
    """Numbers of rows, from 1, nearly all of them in one range, so that memory does not grow with the rows.

    :param upto: all numbers up to this one are in it
    :param above: more numbers
    """

    def __init__(self, upto: int = 0, above: Iterable[int] = ()) -> None:
        self.upto = upto
        self.above = {number for number in above if number > upto}
        """Numbers outside the range, which determine the size of a checkpoint."""
        self._close_up()

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and (1 <= number <= self.upto or number in self.above)

    def __len__(self) -> int:
        return self.upto + len(self.above)

    def add(self, number: int) -> None:
        """One more row is done."""
        if number > self.upto:
            self.above.add(number)
            self._close_up()

    def as_data(self) -> tuple[int, tuple[int, ...]]:
        """``done_upto`` and ``done_above`` of a :class:`Checkpoint`."""
        return self.upto, tuple(sorted(self.above))

    def _close_up(self) -> None:
        while self.upto + 1 in self.above:
            self.upto += 1
            self.above.remove(self.upto)


class Checkpoints(Protocol):
    """Keeps the last checkpoint of one task between its tries."""

    @property
    def is_local(self) -> bool:
        """Whether saving is fast."""

    def load(self) -> Checkpoint | None: ...

    def save(self, checkpoint: Checkpoint) -> None: ...

    def clear(self) -> None: ...


class NoCheckpoints:
    """Every try starts with the first row."""

    is_local = True

    def load(self) -> Checkpoint | None:
        return None

    def save(self, checkpoint: Checkpoint) -> None:
        """Do nothing: there is no place for it."""

    def clear(self) -> None:
        """Nothing to clear."""


LARGEST = 64 << 20
"""Maximum bytes of a checkpoint; a larger one is truncated and so invalid."""


class FileCheckpoints:
    """In a file, which holds no value of a row. It is replaced as a whole.

    :param path: one for each task instance
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = path

    @property
    def is_local(self) -> bool:
        return is_local(self.path)

    def load(self) -> Checkpoint | None:
        """The newest checkpoint. An invalid one counts as none, because rows that are sent twice do no harm.

        :raises CannotRead: if others may have put it there
        """
        try:
            with read_own(self.path) as file:
                return Checkpoint.from_data(json.loads(file.read(LARGEST)))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError):  # also invalid JSON or UTF-8
            log.warning(
                "The checkpoint %s cannot be read and is not used; the load starts from the first row.", self.path
            )
            return None

    def save(self, checkpoint: Checkpoint) -> None:
        with atomic_writer(self.path) as file:
            json.dump(checkpoint.as_data(), file)

    def clear(self) -> None:
        remove(self.path)
