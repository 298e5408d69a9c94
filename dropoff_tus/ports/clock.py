"""The port of the clock."""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Where use cases take the time from."""

    def now(self) -> datetime:
        """Return the present as aware UTC."""
        ...
