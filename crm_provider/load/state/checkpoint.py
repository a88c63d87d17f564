"""Checkpoints: what a later try must know to go on, small enough for Airflow's task state."""

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
"""Of the data of a checkpoint; one of another version is not used."""

REFUSED = "refused"
"""Beside the outcomes in a checkpoint's counts: rows that a call has ended without success."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The counts of a load at one moment. Rows are done up to a number, and a few after it.

    :param epoch: tells the tries of one run apart from a run that was started anew
    :param fingerprint: of the input: the numbers of the rows mean nothing in another one
    :param done_above: numbers over ``done_upto``, in order
    :param counts: outcome -> rows
    :param errors: error type -> rows
    :param calls: of all tries so far
    :param seconds: of all tries so far
    :param notes: what else a later try must know
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
        """A checkpoint of what :meth:`as_data` returned; of another version, the version alone.

        :raises ValueError: if it is no checkpoint
        """
        if not isinstance(data, Mapping) or not isinstance(data.get("version"), int):
            raise ValueError("it is no checkpoint of a load")
        if data["version"] != VERSION:
            return Checkpoint(epoch=-1, fingerprint="", version=data["version"])
        if data.keys() - _SHAPE.keys() or not all(name in data and fits(data[name]) for name, fits in _SHAPE.items()):
            raise ValueError("it is a checkpoint with missing, unknown or impossible parts")
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
    "counts": lambda value: _are_counts(value) and value.keys() <= {REFUSED, *(outcome.value for outcome in Outcome)},
    "errors": _are_counts,
    "calls": _is_count,
    "seconds": lambda value: isinstance(value, (int, float)) and 0 <= value < math.inf,
    "notes": lambda value: isinstance(value, Mapping),
    "version": lambda value: isinstance(value, int),
}
"""What each part of a checkpoint must be: the file may have been edited, or be another program's."""


def resumable(checkpoint: Checkpoint, epoch: int, fingerprint: str) -> str | None:
    """Why a load cannot go on from a checkpoint, None if it can."""
    if checkpoint.version != VERSION:
        return f"the checkpoint is of version {checkpoint.version} of this package's data, which is now {VERSION}"
    if checkpoint.epoch != epoch:
        return "the task was cleared since the checkpoint was written"
    if checkpoint.fingerprint != fingerprint:
        return "the input, the mapping or an option has changed since the checkpoint was written"
    return None


class DoneRows:
    """Numbers of rows, from 1, nearly all of them in one piece: memory stays flat however many rows there are.

    :param upto: all numbers up to this one are in it
    :param above: more numbers
    """

    def __init__(self, upto: int = 0, above: Iterable[int] = ()) -> None:
        self.upto = upto
        self.above = {number for number in above if number > upto}
        """Numbers that are not in the one piece: they are what makes a checkpoint large."""
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
    """Keeps the newest checkpoint of one task between its tries."""

    @property
    def is_local(self) -> bool:
        """Whether saving one takes moments only."""

    def load(self) -> Checkpoint | None: ...

    def save(self, checkpoint: Checkpoint) -> None: ...

    def clear(self) -> None: ...


class NoCheckpoints:
    """Every try starts with the first row."""

    is_local = True

    def load(self) -> Checkpoint | None:
        return None

    def save(self, checkpoint: Checkpoint) -> None:
        """Nowhere to save it."""

    def clear(self) -> None:
        """Nothing to clear."""


LARGEST = 64 << 20
"""Bytes of a checkpoint that are read; a larger one is cut, so that it is not valid."""


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
        """The newest checkpoint. One that is not valid counts as none: rows that are sent twice do no harm.

        :raises CannotRead: if others may have put it there
        """
        try:
            with read_own(self.path) as file:
                return Checkpoint.from_data(json.loads(file.read(LARGEST)))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError):  # no JSON or no UTF-8 either
            log.warning(
                "The checkpoint %s cannot be read and is not used; the load starts from the first row.", self.path
            )
            return None

    def save(self, checkpoint: Checkpoint) -> None:
        with atomic_writer(self.path) as file:
            json.dump(checkpoint.as_data(), file)

    def clear(self) -> None:
        remove(self.path)
