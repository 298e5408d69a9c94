"""Wrong codes and API tokens: how fast they may come, and how they are counted for the audit.

Each name has a bucket that holds an hour's wrong ones and refills evenly. A right one never asks here, so nobody can
lock others out; and whatever is counted, the tables stay bounded. The counts are recorded every minute, so that no
burst fills the audit.
"""

import math
from collections import Counter, OrderedDict
from dataclasses import replace

from dropoff_tus.audit import Event, actor
from dropoff_tus.errors import DropoffError
from dropoff_tus.ports.catalog import AuditRows

_HOUR_SECONDS = 3600.0
MOST_ORIGINS = 500
"""How many rows may name an origin; one more row counts all others."""


class WrongCredentials:
    """Counts what was refused, by what it was and where it came from."""

    def __init__(self, catalog: AuditRows) -> None:
        """Take the catalog."""
        self._catalog = catalog
        self._counted: Counter[Event] = Counter()

    def count(self, event: Event) -> None:
        """Count an event of whoever acts now. It must name nothing that does not exist, or memory would fill."""
        named = replace(event, origin=actor().origin)
        self._counted[named if named in self._counted or len(self._counted) < MOST_ORIGINS else event] += 1

    async def record(self) -> None:
        """Record what was counted since the last time.

        Raises:
            CatalogUnavailableError: It is recorded the next time.
        """
        counted, self._counted = self._counted, Counter()
        if not counted:
            return
        try:
            await self._catalog.record(*(replace(event, count=count) for event, count in counted.items()))
        except DropoffError:
            self._counted += counted
            raise


class Throttle:
    """The buckets of one kind of name."""

    def __init__(self, per_hour: int, *, max_names: int = 16384) -> None:
        """Let `per_hour` wrong codes of one name pass at once, and again as many in each hour; 0 lets all pass.

        Beyond `max_names` the name that was wrong longest ago is forgotten: its bucket has refilled most.
        """
        self._max_names = max_names
        self.limit(per_hour)
        # When the bucket of a name will be full again: the generic cell rate algorithm.
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def limit(self, per_hour: int) -> None:
        """Let so many pass from now on."""
        self._interval_seconds = _HOUR_SECONDS / per_hour if per_hour else 0.0

    def __len__(self) -> int:
        """Return how many names are remembered."""
        return len(self._full_at)

    def count(self, name: str, now_seconds: float) -> int:
        """Count a wrong code, unless the bucket is empty.

        Args:
            name: An address, or a drop-off's id, known or not.
            now_seconds: The time on a clock that never goes back.

        Returns:
            0 if it was within the limit; else in how many whole seconds, at least one, the next one will be.
        """
        if not self._interval_seconds:
            return 0
        full_at = max(self._full_at.get(name, 0.0), now_seconds) + self._interval_seconds
        over_seconds = full_at - now_seconds - _HOUR_SECONDS
        # Sums of intervals need not be exact: a hair beyond is within.
        if over_seconds > self._interval_seconds * 1e-6:
            self._full_at.move_to_end(name)
            return max(1, math.ceil(over_seconds))
        self._full_at[name] = full_at
        self._full_at.move_to_end(name)
        if len(self._full_at) > self._max_names:
            self._full_at.popitem(last=False)
        return 0
