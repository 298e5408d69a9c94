"""A body's pace."""

import asyncio
import time

import pytest

from dropoff_tus.errors import BodySlowError
from server.http.body import Pace


@pytest.mark.parametrize(
    ("after_seconds", "received", "slow"), [(29, 0, False), (41, 50_000, False), (41, 30_000, True)]
)
def test_body_below_the_rate_is_cut_as_too_slow(
    monkeypatch: pytest.MonkeyPatch, after_seconds: int, received: int, slow: bool
) -> None:
    """By what came until then, after the first 30 s; the log tells it from one that stands still."""
    began = time.monotonic()
    monkeypatch.setattr("server.http.body.time.monotonic", lambda: began)
    pace = Pace(min_bytes_per_second=1000)
    monkeypatch.setattr("server.http.body.time.monotonic", lambda: began + after_seconds)
    if not slow:
        asyncio.run(pace.keep(received))
        return
    with pytest.raises(BodySlowError) as found:
        asyncio.run(pace.keep(received))
    assert found.value.cut == "too slow"
