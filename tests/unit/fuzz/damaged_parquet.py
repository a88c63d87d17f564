"""Parquet with wrong bytes. Only ``make fuzz`` runs it, because it mostly exercises pyarrow, which is not Python."""

from __future__ import annotations

import random
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crm_provider.load.rows import SourceError

from .test_any_file import PARQUET, read


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32))
def test_parquet_with_wrong_bytes_is_reported_or_has_all_its_rows(tmp_path: Path, seed: int) -> None:
    chance, content = random.Random(seed), bytearray(PARQUET)
    for _ in range(chance.randint(1, 3)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    found = read(tmp_path / "damaged.parquet", bytes(content))
    assert isinstance(found, SourceError) or len(found) == 50
