"""A clock that stands still until a test moves it."""

from datetime import UTC, datetime, timedelta

NOON = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


class FakeClock:
    """Implements `dropoff_tus.ports.clock.Clock`."""

    def __init__(self, start: datetime = NOON) -> None:
        """Start at a moment, an aware UTC time."""
        self._now = start

    def now(self) -> datetime:
        """Return the moment the clock stands at."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move on."""
        self._now += timedelta(seconds=seconds)
