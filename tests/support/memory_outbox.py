"""An outbox in memory, honest to the contract of `dropoff_tus.ports.catalog.Outbox`."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from dropoff_tus.model import Dropoff, Role, UploadRow
from dropoff_tus.outbox import Backlog, EventKind, OutboxRow, SinkName, Sinks, event_id

_Key = tuple[str, SinkName]


class MemoryOutbox:
    """Implements `dropoff_tus.ports.catalog.Outbox`."""

    def __init__(self, sinks: Sinks) -> None:
        """Start empty."""
        self._sinks = sinks
        self.kept: dict[_Key, OutboxRow] = {}

    def note(self, kind: EventKind, upload: UploadRow, dropoff: Dropoff, at: datetime) -> None:
        """Write an event for each sink that wants it."""
        if upload.role is Role.PARTIAL:
            return
        found = event_id(upload.id, kind)
        for name, sink in self._sinks.items():
            if kind in sink.kinds and (dropoff.terms.notify or not sink.notified_only):
                row = OutboxRow(found, name, kind, upload.drop_id, upload.id, at, sink.due_at(at))
                self.kept.setdefault((found, name), row)

    def forget(self, upload_id: str) -> None:
        """Forget an upload's events."""
        self.kept = {key: row for key, row in self.kept.items() if row.upload_id != upload_id}

    def _due(self, sink: SinkName, now: datetime) -> list[OutboxRow]:
        due = [row for row in self.kept.values() if row.sink is sink and not row.dead and row.next_at <= now]
        return sorted(due, key=lambda row: (row.next_at, row.drop_id, row.at, row.event_id))

    async def is_due(self, sink: SinkName, now: datetime) -> bool:
        """Tell whether anything is due."""
        return bool(self._due(sink, now))

    async def claim(self, sink: SinkName, now: datetime, until: datetime, limit: int) -> list[OutboxRow]:
        """Take what is due."""
        found = self._due(sink, now)[:limit]
        for row in found:
            self.kept[row.event_id, sink] = replace(row, next_at=until, attempts=row.attempts + 1)
        return [replace(row, attempts=row.attempts + 1) for row in found]

    def _held(self, rows: Sequence[OutboxRow]) -> list[tuple[_Key, OutboxRow]]:
        pairs = [((row.event_id, row.sink), self.kept.get((row.event_id, row.sink))) for row in rows]
        attempts = [row.attempts for row in rows]
        return [(key, kept) for (key, kept), n in zip(pairs, attempts, strict=True) if kept and kept.attempts == n]

    async def delivered(self, rows: Sequence[OutboxRow]) -> None:
        """Forget rows."""
        for key, _kept in self._held(rows):
            del self.kept[key]

    async def failed(self, rows: Sequence[OutboxRow], problem: str, next_at: datetime, *, max_attempts: int) -> None:
        """Keep rows for later, or as dead."""
        for key, kept in self._held(rows):
            self.kept[key] = replace(kept, next_at=next_at, dead=kept.attempts >= max_attempts, problem=problem)

    async def release(self, rows: Sequence[OutboxRow], now: datetime) -> None:
        """Give rows back."""
        for key, kept in self._held(rows):
            self.kept[key] = replace(kept, next_at=now, attempts=kept.attempts - 1)

    async def backlog(self) -> list[Backlog]:
        """Return what waits at each sink."""
        found = []
        for sink in sorted({row.sink for row in self.kept.values()}):
            ats = [row.at for row in self.kept.values() if row.sink is sink and not row.dead]
            dead = sum(row.sink is sink and row.dead for row in self.kept.values())
            found.append(Backlog(sink, len(ats), min(ats, default=None), dead))
        return found

    async def rows(self, *, dead_only: bool = False) -> list[OutboxRow]:
        """Return what waits."""
        found = [row for row in self.kept.values() if row.dead or not dead_only]
        return sorted(found, key=lambda row: (row.at, row.event_id, row.sink))

    async def hold(self, problem: str) -> int:
        """Keep back what waits."""
        waiting = [key for key, row in self.kept.items() if not row.dead]
        for key in waiting:
            self.kept[key] = replace(self.kept[key], dead=True, problem=problem)
        return len(waiting)

    async def resend(self, event_ids: Sequence[str] | None, now: datetime) -> int:
        """Begin again."""
        chosen = [
            key for key, row in self.kept.items() if (row.dead if event_ids is None else row.event_id in event_ids)
        ]
        for key in chosen:
            self.kept[key] = replace(self.kept[key], next_at=now, attempts=0, dead=False)
        return len(chosen)
