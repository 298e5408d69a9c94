"""Log lines that anybody can cause, at any rate: the first of a kind in a minute are written, the others counted.

They are those of requests that were refused, or that name neither an upload nor an API token. A body that was cut off
is none of them: only whoever has the upload's URL can send one.
"""

import logging
from collections import Counter

_log = logging.getLogger(__name__)
MOST_OF_A_KIND = 60
# Each has few values, whatever a client sends.
_KIND = ("method", "route", "status", "code", "kind")
_LET_IN = ("upload_id", "token_id")
_REFUSED = 400


class Repeats(logging.Filter):
    """A filter for the loggers of such lines; `tell` is to be called every minute."""

    def __init__(self) -> None:
        """Start with nothing counted."""
        super().__init__()
        self._seen: Counter[tuple[object, ...]] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is to be written."""
        told = record.__dict__
        if "cut" in told or (told.get("status", 0) < _REFUSED and any(told.get(name) for name in _LET_IN)):
            return True
        kind = tuple(told.get(name) for name in _KIND)
        self._seen[kind] += 1
        return self._seen[kind] <= MOST_OF_A_KIND

    def tell(self) -> None:
        """Log how many were not written since the last time."""
        seen, self._seen = self._seen, Counter()
        for kind, count in seen.items():
            if count > MOST_OF_A_KIND:
                named = {name: value for name, value in zip(_KIND, kind, strict=True) if value is not None}
                _log.info("more requests of a kind", extra={**named, "count": count - MOST_OF_A_KIND})


repeats = Repeats()
"""Those of the process."""
