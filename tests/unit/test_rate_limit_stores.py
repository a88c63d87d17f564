"""Stores of budgets: the host's file heals and survives kills, and every failing store has a fallback."""

from __future__ import annotations

import logging
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from crm_provider.client.settings import Settings
from crm_provider.errors import CrmConfigurationError
from crm_provider.rate_limit import host_file
from crm_provider.rate_limit import limiter as budgets
from crm_provider.rate_limit.host_file import HostFileStore, file_name
from crm_provider.rate_limit.limiter import RECHECK, Budget, FallbackStore, MemoryStore
from crm_provider.rate_limit.schedule import (
    LONGEST_PAUSE,
    RECORD_SIZE,
    Grant,
    GrantStatus,
    Lane,
    Pace,
    RateStore,
    Schedule,
    StoreUnusable,
    Ticket,
)

from .fakes import FakeClock, logged
from .rate_limit_scene import NEVER_MIND

REAL = Pace.of(5.0, 2)
SINGLE = Lane.SINGLE


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def store(folder: Path, clock: FakeClock) -> HostFileStore:
    return HostFileStore("key.rate", folder=folder, clock=clock)


def slot(store: RateStore, ticket: Ticket | None = None) -> float:
    """Seconds to the slot that a caller gets now."""
    grant, _ = store.ask(SINGLE, ticket, REAL, NEVER_MIND)
    assert grant.status is GrantStatus.GRANTED
    return grant.seconds


def tickets(store: RateStore) -> list[int]:
    """Of two callers: they follow each other if one schedule serves both."""
    return [store.ask(SINGLE, None, REAL, NEVER_MIND)[1].number for _ in range(2)]


# -- the file of the host ------------------------------------------------------------------------------------


def test_file_is_private_and_reveals_nothing(folder: Path, store: HostFileStore) -> None:
    slot(store)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "key.rate").stat().st_mode) == 0o600
    assert (folder / "key.rate").stat().st_size == RECORD_SIZE
    name = file_name("https://crm.example/v2", Settings(api_key="s3cret-key").key_fingerprint)
    assert "s3cret" not in name
    assert "crm.example" not in name
    assert name != file_name("https://crm.example/v3", Settings(api_key="s3cret-key").key_fingerprint)


def test_stores_with_one_file_share_one_budget(folder: Path, clock: FakeClock) -> None:
    first, second = (HostFileStore("key.rate", folder=folder, clock=clock) for _ in range(2))
    assert [slot(first), slot(second)] == pytest.approx([0.0, REAL.spacing])


def test_ticket_of_another_store_is_ignored(folder: Path, clock: FakeClock) -> None:
    first = HostFileStore("a.rate", folder=folder, clock=clock)
    for _ in range(2):
        slot(first)
    grant, ticket = first.ask(SINGLE, None, REAL, NEVER_MIND)
    assert (grant.status, ticket.number) == (GrantStatus.RETRY_AFTER, 2)
    _, other = HostFileStore("b.rate", folder=folder, clock=clock).ask(SINGLE, ticket, REAL, NEVER_MIND)
    assert other.number == 0


DAMAGE = st.one_of(
    st.binary(max_size=300),
    st.integers(0, RECORD_SIZE - 1).map(lambda size: Schedule(next=1e18).to_bytes()[:size]),
    st.builds(
        lambda next_, asked: Schedule(next=next_, asked=asked).to_bytes(), st.floats(-1e300, 1e300), st.floats(0, 1e300)
    ),
    st.binary(min_size=1, max_size=50).map(lambda more: Schedule().to_bytes() + more),
)


@given(damage=DAMAGE)
@example(damage=Schedule().to_bytes() + b"more")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_damage_heals(folder: Path, damage: bytes) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "key.rate").write_bytes(damage)
    clock = FakeClock()
    budget = Budget(HostFileStore("key.rate", folder=folder, clock=clock), 5.0, 2, clock=clock, sleep=clock.sleep)
    assert budget.lane(SINGLE).acquire(NEVER_MIND) <= LONGEST_PAUSE + 1.0
    assert budget.lane(SINGLE).acquire(NEVER_MIND) <= REAL.spacing + 1e-6
    assert Schedule.from_bytes((folder / "key.rate").read_bytes()) is not None


def test_bytes_after_the_record_are_truncated(folder: Path, store: HostFileStore) -> None:
    slot(store)
    with (folder / "key.rate").open("ab") as file:
        file.write(b"more")
    slot(store)
    assert (folder / "key.rate").stat().st_size == RECORD_SIZE
    assert Schedule.from_bytes((folder / "key.rate").read_bytes()) is not None


def test_file_deleted_meanwhile_is_recreated(folder: Path, store: HostFileStore, clock: FakeClock) -> None:
    slot(store)
    (folder / "key.rate").unlink()
    assert slot(store) == 0.0
    assert slot(store) == pytest.approx(REAL.spacing)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    clock.now += 10
    assert slot(store) == 0.0


def test_file_in_use_is_not_swept(folder: Path, clock: FakeClock) -> None:
    import fcntl

    slot(HostFileStore("old.rate", folder=folder, clock=clock))
    os.utime(folder / "old.rate", (0, 0))
    with (folder / "old.rate").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        slot(HostFileStore("new.rate", folder=folder, clock=clock))
    assert (folder / "old.rate").exists()


def other_owner(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)


def open_to_others(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o770)


def a_link(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(folder.parent / "elsewhere")


def a_file(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    folder.touch()


def no_parent(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    folder.parent.rmdir()


def a_link_in_it(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    folder.mkdir(mode=0o700)
    (folder.parent / "victim").write_bytes(b"precious")
    (folder / "key.rate").symlink_to(folder.parent / "victim")


def a_pipe_in_it(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    folder.mkdir(mode=0o700)
    os.mkfifo(folder / "key.rate")


@pytest.mark.parametrize("trap", [other_owner, open_to_others, a_link, a_file, no_parent, a_link_in_it, a_pipe_in_it])
def test_folder_writable_by_others_is_not_used(
    monkeypatch: pytest.MonkeyPatch, folder: Path, clock: FakeClock, trap: Callable[[pytest.MonkeyPatch, Path], None]
) -> None:
    trap(monkeypatch, folder)
    with pytest.raises(StoreUnusable, match=r"cannot be kept in .*state"):
        HostFileStore("key.rate", folder=folder, clock=clock).ask(SINGLE, None, REAL, NEVER_MIND)
    assert not (folder.parent / "elsewhere" / "key.rate").exists()
    if trap is a_link_in_it:
        assert (folder.parent / "victim").read_bytes() == b"precious"


# -- real processes ------------------------------------------------------------------------------------------

CALLER = """
import sys, time
from pathlib import Path
from crm_provider.rate_limit import host_file as hostfile
from crm_provider.rate_limit.limiter import Budget
from crm_provider.rate_limit.host_file import HostFileStore
from crm_provider.rate_limit.schedule import Lane

hostfile.LOCK_PATIENCE = 60.0  # the holder of the lock continues later, or is killed
limiter = Budget(HostFileStore("key.rate", folder=Path(sys.argv[1])), float(sys.argv[2]), 2).lane(Lane.BULK)
print("ready", flush=True)
while True:
    limiter.acquire(1e9)
    sys.stdout.write(f"{time.monotonic()}\\n")
    sys.stdout.flush()
"""


def start_caller(folder: Path, rate: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CALLER, str(folder), str(rate)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def next_call_after(moment: float, process: subprocess.Popen[str]) -> list[float]:
    """The calls of a process up to its first call after a moment."""
    assert process.stdout
    calls = [float(process.stdout.readline())]
    while calls[-1] <= moment:
        calls.append(float(process.stdout.readline()))
    return calls


@pytest.mark.slow
def test_constantly_killed_processes_neither_break_the_rate_nor_stop_the_others(folder: Path) -> None:
    rate = 100.0
    steady = [start_caller(folder, rate) for _ in range(2)]
    began = time.monotonic()
    calls = []
    try:
        for _ in range(8):
            victim = start_caller(folder, rate)
            victim.send_signal(signal.SIGKILL)
            calls += [float(line) for line in victim.communicate()[0].split("\n") if line.strip()]
            killed = time.monotonic()
            for process in steady:
                calls += next_call_after(killed, process)
        ended = time.monotonic()
    finally:
        for process in steady:
            process.kill()
            calls += [float(line) for line in process.communicate()[0].splitlines()]
    within = [at for at in calls if began <= at < ended]
    assert len(within) <= rate * (ended - began) + 35, "calls within the horizon may still go"
    assert Schedule.from_bytes((folder / "key.rate").read_bytes()) is not None


# -- fallbacks -----------------------------------------------------------------------------------------------


class Broken:
    """A store that fails on demand."""

    def __init__(self, whole: RateStore) -> None:
        self.whole, self.fails, self.asked = whole, True, 0

    def ask(self, lane: Lane, ticket: Ticket | None, pace: Pace, patience: float) -> tuple[Grant, Ticket]:
        self.asked += 1
        if self.fails:
            raise StoreUnusable("the store at somewhere is out of order")
        return self.whole.ask(lane, ticket, pace, patience)

    def pause(self, seconds: float, phase: float, pace: Pace) -> None:
        if self.fails:
            raise StoreUnusable("the store at somewhere is out of order")
        self.whole.pause(seconds, phase, pace)


def test_failing_store_logs_one_warning_and_a_line_when_it_recovers(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = Broken(MemoryStore(clock=clock))
    store = FallbackStore(first, MemoryStore(clock=clock), otherwise="each host paces itself", clock=clock)
    assert slot(store) == 0.0
    assert slot(store) == pytest.approx(REAL.spacing), "the second store counts"
    store.pause(0.0, 0.0, REAL)
    assert first.asked == 1, "the broken one is not used for a while"
    for _ in range(3):
        clock.now += RECHECK + 0.1
        slot(store)
    assert first.asked == 4
    assert [record.levelname for record in logged(caplog)] == ["WARNING"]
    assert "somewhere is out of order; each host paces itself until" in caplog.text
    first.fails = False
    clock.now += RECHECK + 0.1
    assert slot(store) == 0.0
    assert slot(store) == pytest.approx(REAL.spacing)
    assert first.asked == 6
    assert [record.levelname for record in logged(caplog)] == ["WARNING", "INFO"]


def test_failed_store_is_tried_again_after_a_while_by_one_caller(clock: FakeClock) -> None:
    """The others do not wait for this attempt, which may be slow."""
    meanwhile: list[int] = []

    class Slow(Broken):
        def ask(self, lane: Lane, ticket: Ticket | None, pace: Pace, patience: float) -> tuple[Grant, Ticket]:
            if self.asked == 1:
                self.asked += 1
                meanwhile.extend(tickets(store))
            return super().ask(lane, ticket, pace, patience)

    first, second = Slow(MemoryStore(clock=clock)), MemoryStore(clock=clock)
    store = FallbackStore(first, second, otherwise="-", clock=clock)
    assert tickets(store) == [0, 1]
    clock.now += RECHECK / 2
    assert tickets(store) == [2, 3]
    assert first.asked == 1
    clock.now += RECHECK / 2
    first.fails = False
    assert tickets(store) == [0, 1]
    assert meanwhile == [4, 5]


@pytest.mark.parametrize("fails", [True, False])
def test_refusal_reaches_the_store_in_use(clock: FakeClock, fails: bool) -> None:
    first, second = Broken(MemoryStore(clock=clock)), MemoryStore(clock=clock)
    first.fails = fails
    FallbackStore(first, second, otherwise="-", clock=clock).pause(4.0, 0.0, REAL)
    used, other = (second, first.whole) if fails else (first.whole, second)
    assert used.ask(SINGLE, None, REAL, NEVER_MIND)[0].status is GrantStatus.RETRY_AFTER
    assert slot(other) == 0.0


@pytest.mark.parametrize("fails", [True, False, None])
def test_ticket_keeps_its_position(clock: FakeClock, fails: bool | None) -> None:
    store: RateStore = MemoryStore(clock=clock)
    if fails is not None:
        first = Broken(store)
        first.fails = fails
        store = FallbackStore(first, MemoryStore(clock=clock), otherwise="-", clock=clock)
    tickets(store)
    grant, mine = store.ask(SINGLE, None, REAL, NEVER_MIND)
    _, others = store.ask(SINGLE, None, REAL, NEVER_MIND)
    assert (grant.status, mine.number, others.number) == (GrantStatus.RETRY_AFTER, 2, 3)
    assert store.ask(SINGLE, mine, REAL, NEVER_MIND)[1] == mine
    assert store.ask(SINGLE, others, REAL, NEVER_MIND)[1] == others


def test_one_of_many_threads_warns(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    together = threading.Barrier(8)

    class Failing(Broken):
        def ask(self, lane: Lane, ticket: Ticket | None, pace: Pace, patience: float) -> tuple[Grant, Ticket]:
            together.wait(60)  # all start before one has failed
            return super().ask(lane, ticket, pace, patience)

    store = FallbackStore(Failing(MemoryStore()), MemoryStore(), otherwise="-", clock=clock)
    threads = [threading.Thread(target=store.ask, args=(SINGLE, None, REAL, NEVER_MIND)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(logged(caplog)) == 1


def test_caller_from_the_broken_store_queues_up_at_the_other(clock: FakeClock) -> None:
    first = Broken(MemoryStore(clock=clock))
    first.fails = False
    store = FallbackStore(first, MemoryStore(clock=clock), otherwise="-", clock=clock)
    slot(store)
    slot(store)
    _, ticket = store.ask(SINGLE, None, REAL, NEVER_MIND)
    first.fails = True
    assert slot(store, ticket) == 0.0


def test_each_process_paces_itself_without_a_private_folder(
    monkeypatch: pytest.MonkeyPatch, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_to_others(monkeypatch, folder)
    monkeypatch.setattr(host_file, "state_folder", lambda: folder)
    store = budgets.store_for(Settings(api_key="k"))
    assert tickets(store) == [0, 1]
    assert [record.levelname for record in logged(caplog)] == ["WARNING"]
    assert "mode 0700); each process paces itself until it can be used again" in caplog.text


def test_host_paces_itself_without_redis_and_hides_the_password(
    monkeypatch: pytest.MonkeyPatch, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(host_file, "state_folder", lambda: folder)
    url = "redis://:s3cret@127.0.0.1:1/0"
    store = budgets.store_for(Settings(api_key="k", rate_store=url))
    assert tickets(store) == [0, 1]
    assert len(list(folder.iterdir())) == 1
    assert [record.levelname for record in logged(caplog)] == ["WARNING"]
    assert "Redis at 127.0.0.1:1 (ConnectionError); each host paces itself" in caplog.text
    assert "s3cret" not in caplog.text + repr(Settings(api_key="k", rate_store=url))


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(CrmConfigurationError, match=r"pip install 'airflow-provider-crm\[redis\]'"):
        budgets.store_for(Settings(api_key="k", rate_store="redis://host"))


@pytest.mark.parametrize("option", ["socket_timeout=soon", "no_such_option=1"])
def test_unknown_redis_option_is_reported(option: str) -> None:
    with pytest.raises(CrmConfigurationError, match="option after its '\\?'") as raised:
        budgets.store_for(Settings(api_key="k", rate_store=f"redis://:s3cret@host/0?{option}"))
    assert "s3cret" not in str(raised.value)


# -- forks and refusals --------------------------------------------------------------------------------------


def test_file_swept_while_its_lock_is_awaited_is_reopened(
    monkeypatch: pytest.MonkeyPatch, folder: Path, clock: FakeClock, store: HostFileStore
) -> None:
    slot(store)
    lock, locked = store._file._lock, []

    def swept_meanwhile(file: int) -> None:
        lock(file)
        locked.append(file)
        if len(locked) == 1:
            (folder / "key.rate").unlink()

    monkeypatch.setattr(store._file, "_lock", swept_meanwhile)
    assert slot(store) == 0.0, "the budget starts anew"
    assert len(locked) == 2
    assert slot(HostFileStore("key.rate", folder=folder, clock=clock)) == pytest.approx(REAL.spacing)


def test_child_process_starts_with_its_own_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code of a forked child, run in this process."""
    lock, known = threading.Lock(), {"key": object()}
    monkeypatch.setattr(budgets, "_budgets_lock", lock)
    monkeypatch.setattr(budgets, "_budgets", known)
    lock.acquire()
    budgets._forget_in_child()
    assert known == {}
    assert not budgets._budgets_lock.locked()

    store = MemoryStore(clock=lambda: 1000.0)
    slot(store)
    store._lock.acquire()
    budgets._forget_in_child()
    assert slot(store) == 0.0
