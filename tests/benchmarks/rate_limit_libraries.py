"""Rate limiters of others, as one would use them for this limit; each is asked before a plain call is made."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

WANTED = ("limits==5.8.0", "pyrate-limiter==4.5.1", "filelock==4.2.11", "aiolimiter==1.3.0", "steindamm[redis]==0.11.1")

Gate = Callable[[], object]
"""Returns when a call may be made."""


def install(folder: Path) -> str | None:
    """Put them into a folder of their own; what went wrong if that fails."""
    installer = [sys.executable, "-m", "pip", "install"] if find_spec("pip") else ["uv", "pip", "install"]
    command = [*installer, "--quiet", "--target", str(folder), *WANTED]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr.strip().rpartition("\n")[2] if done.returncode else None


def moving_window(given: dict[str, Any]) -> Gate:
    """``limits``: 5 in any second, in memory. It has no waiting of its own."""
    limits = import_module("limits")

    limiter = limits.strategies.MovingWindowRateLimiter(limits.storage.MemoryStorage())
    limit = limits.parse("5/second")

    def wait() -> None:
        while not limiter.hit(limit, given["key"]):
            time.sleep(0.01)

    return wait


def shared_window(given: dict[str, Any]) -> Gate:
    """``pyrate-limiter``: 1 in any 200 ms, in an SQLite file that processes share."""
    pyrate_limiter = import_module("pyrate_limiter")

    path = str(Path(given["home"]) / f"pyrate-{given['key']}-{given['url'].rpartition(':')[2].partition('/')[0]}.db")
    limiter = pyrate_limiter.limiter_factory.create_sqlite_limiter(
        1, 200, db_path=path, use_file_lock=True, buffer_ms=2
    )
    return lambda: limiter.try_acquire("call")


def event_loop(given: dict[str, Any]) -> Gate:
    """``aiolimiter``: 1 in 202 ms, in one event loop."""
    aiolimiter = import_module("aiolimiter")

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    limiter = aiolimiter.AsyncLimiter(1, 1 / (0.99 * 5))
    return lambda: asyncio.run_coroutine_threadsafe(limiter.acquire(), loop).result()


def redis_slots(given: dict[str, Any]) -> Gate:
    """``steindamm``: a token each 202 ms, in Redis."""
    import redis

    steindamm = import_module("steindamm")

    connection = redis.Redis.from_url(given["store"])
    bucket = steindamm.SyncTokenBucket.create(
        name=given["url"], capacity=1, refill_frequency=1 / (0.99 * 5), refill_amount=1, connection=connection
    )

    def wait() -> None:
        with bucket:
            pass

    return wait


GATES: dict[str, Callable[[dict[str, Any]], Gate]] = {
    "limits": moving_window,
    "pyrate-limiter": shared_window,
    "aiolimiter": event_loop,
    "steindamm": redis_slots,
}
