"""The time: of the system, asked for nowhere else; and that by which uploads are ended.

The second is the first, unless that is far beyond the last time that is known to be right.

A server that runs notes the time in the catalog, once an hour. Where the clock is days beyond that, it jumped, or no
server ran for as long: only an operator knows. Until one says so (`store trust-clock`), or the clock is set right, time
stands still for endings; all else goes on. Rows that are written meanwhile prove nothing: they carry the clock's time.
"""

import logging
from datetime import UTC, datetime, timedelta

from dropoff_tus.ports.catalog import StoreNotes
from dropoff_tus.ports.clock import Clock
from server.settings.units import stamp

_log = logging.getLogger(__name__)
FAR_AHEAD = timedelta(days=3)
"""Longer than a server is off over a weekend."""
_NOTE_EVERY = timedelta(hours=1)


class SystemClock:
    """Implements `dropoff_tus.ports.clock.Clock`."""

    def now(self) -> datetime:
        """Return the present as aware UTC."""
        return datetime.now(UTC)


class TrustedTime:
    """Implements `dropoff_tus.ports.clock.Clock` for whatever ends by time."""

    def __init__(self, catalog: StoreNotes, clock: Clock) -> None:
        """Take the catalog and the system's clock; until `learn` or `look` that one is believed."""
        self._catalog, self._clock = catalog, clock
        self._noted: datetime | None = None
        self._warned = False

    def now(self) -> datetime:
        """Return the clock's time, or while it is far ahead the last one that was noted: nothing ends at that."""
        now = self._clock.now()
        return self._noted if self._noted is not None and now - self._noted > FAR_AHEAD else now

    @property
    def problem(self) -> str | None:
        """A sentence for operators while the clock is not believed."""
        now = self._clock.now()
        if self._noted is None or now - self._noted <= FAR_AHEAD:
            return None
        return (
            f"nothing is ended by time: the clock says {stamp(now)}, and a server last ran at {stamp(self._noted)}; "
            "set the clock right, or say with `dropoff-tus store trust-clock` that it is"
        )

    async def learn(self) -> None:
        """Ask the catalog for the last time that was noted."""
        self._noted = await self._catalog.noted_time()

    async def look(self) -> None:
        """Learn it, and note the present unless the clock is far ahead. Called again and again while a server runs."""
        await self.learn()
        problem, now = self.problem, self._clock.now()
        if problem is None and (self._noted is None or now - self._noted >= _NOTE_EVERY):
            await self._catalog.note_time(now)
            self._noted = now
        if problem is not None and not self._warned:
            _log.warning(problem)
        self._warned = problem is not None
