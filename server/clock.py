"""The one place that asks the system for the time."""

from datetime import UTC, datetime


class SystemClock:
    """Implements `dropoff_tus.ports.clock.Clock`."""

    def now(self) -> datetime:
        """Return the present as aware UTC."""
        return datetime.now(UTC)
