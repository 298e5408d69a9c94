"""Wrong codes and tokens on their way to the audit: counted, and recorded every minute, so that no burst fills it."""

from collections import Counter
from dataclasses import replace

from dropoff_tus.audit import Event, actor
from dropoff_tus.errors import DropoffError
from dropoff_tus.ports.catalog import AuditRows

MOST_ORIGINS = 500
"""How many rows may name an origin; one more row counts all others."""


class Refusals:
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
