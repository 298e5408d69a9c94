"""Which parts concatenations are made of: their own logs say it, whatever the catalog says."""

import contextlib
import json
from collections import defaultdict
from threading import Lock
from typing import Any

from dropoff_tus.errors import DropoffError, PartInUseError, UploadNotFoundError
from storage.uploads.base import StoreBase


def said_at_creation(base: StoreBase, upload_id: str, *, aside: bool = False) -> dict[str, Any] | None:
    """Return the record that a log, or one that was set aside, begins with, without believing it; None without one."""
    try:
        with contextlib.closing(base.chains.open(upload_id, aside=aside)) as log:
            found = json.loads((log.first() or b"").rpartition(b" ")[0])
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


class Claims:
    """Looks at each log once, when first asked: some seconds for a hundred thousand of them. For any thread."""

    def __init__(self, base: StoreBase) -> None:
        """Look at nothing yet: few processes end a finished part."""
        self._base = base
        self._lock = Lock()
        self._seen: set[str] = set()
        self._finals: defaultdict[str, list[str]] = defaultdict(list)

    def check_free(self, part: str) -> None:
        """Refuse to end a part that a concatenation is made of, which would be damaged.

        Raises:
            PartInUseError: It is, and the concatenation has not ended.
        """
        with self._lock:
            for upload_id in set(self._base.chains.ids()) - self._seen:
                self._look(upload_id)
            finals = list(self._finals[part])
        if any(self._lives(final) for final in finals):
            raise PartInUseError("this upload is a part of another one; end that one")

    def _look(self, upload_id: str) -> None:
        record = said_at_creation(self._base, upload_id)
        if record is None:
            return  # it may be on its way
        self._seen.add(upload_id)
        for part in (record.get("concat") or {}).get("parts", ()):
            self._finals[part].append(upload_id)

    def _lives(self, final: str) -> bool:
        try:
            return self._base.load(final).ended is None
        except UploadNotFoundError:
            return False
        except DropoffError:
            return True  # what is damaged may be put right
