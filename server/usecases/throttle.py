"""How fast wrong codes may come, from one client address and for one drop-off. Pure: the time is an argument.

Each name has a bucket that holds an hour's wrong codes and refills evenly. A right code never asks here, so nobody can
lock others out; and whatever is counted, the tables stay bounded.
"""

import math
from collections import OrderedDict

_HOUR_SECONDS = 3600.0


class Throttle:
    """The buckets of one kind of name."""

    def __init__(self, per_hour: int, *, max_names: int = 16384) -> None:
        """Let `per_hour` wrong codes of one name pass at once, and again as many in each hour; 0 lets all pass.

        Beyond `max_names` the name that was wrong longest ago is forgotten: its bucket has refilled most.
        """
        self._interval_seconds = _HOUR_SECONDS / per_hour if per_hour else 0.0
        self._max_names = max_names
        # When the bucket of a name will be full again: the generic cell rate algorithm.
        self._full_at: OrderedDict[str, float] = OrderedDict()

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
