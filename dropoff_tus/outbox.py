"""News of uploads for the outside: events, the rows that wait for delivery, and when a delivery is repeated.

An event is written in the transaction that changes the upload's state, one row for each sink that wants it. Rows hold
ids and fixed words; the rest of a message is made at delivery. Delivery is at least once: the id of an event is made
of what happened, so it is the same at each repetition, even after a catalog was restored from a copy.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal, TypeAlias

from dropoff_tus.states import UploadState

_EVENT_ID_DOMAIN = "dropoff-tus/event-id/v1\n"
_FIRST_WAIT_SECONDS = 5.0
_LONGEST_WAIT_SECONDS = 6 * 3600.0


class EventKind(StrEnum):
    """A change of an upload. Partial uploads have no events; their final has."""

    CREATED = "upload.created"
    COMPLETE = "upload.complete"
    REJECTED = "upload.rejected"
    TERMINATED = "upload.terminated"
    EXPIRED = "upload.expired"
    DELETED = "upload.deleted"


_OF_STATE = {
    UploadState.OPEN: EventKind.CREATED,
    UploadState.COMPLETE: EventKind.COMPLETE,
    UploadState.REJECTED: EventKind.REJECTED,
    UploadState.TERMINATED: EventKind.TERMINATED,
    UploadState.EXPIRED: EventKind.EXPIRED,
    UploadState.DELETED: EventKind.DELETED,
}


def kind_of(state: UploadState) -> EventKind | None:
    """Return the event of entering a state; None if there is none."""
    return _OF_STATE.get(state)


def event_id(upload_id: str, kind: EventKind) -> str:
    """Return the id of an event: 32 hex digits, the same however often it is delivered."""
    return hashlib.sha256(f"{_EVENT_ID_DOMAIN}{upload_id}\n{kind.value}".encode("ascii")).hexdigest()[:32]


class SinkName(StrEnum):
    """Where events go."""

    WEBHOOK = "webhook"
    MAIL = "mail"


@dataclass(frozen=True, slots=True)
class Sink:
    """Which events a sink wants, and how they are gathered.

    With `window_seconds` events become due at the end of their window of this length, counted from 1970, so those of
    one window are due together; 0 is at once. `notified_only`: only of drop-offs that name someone to notify.
    """

    kinds: frozenset[EventKind]
    window_seconds: int = 0
    notified_only: bool = False

    def due_at(self, at: datetime) -> datetime:
        """Return when what happens at a time is to be delivered."""
        if not self.window_seconds:
            return at
        passed = int(at.timestamp()) % self.window_seconds
        return at.replace(microsecond=0) + timedelta(seconds=self.window_seconds - passed)


Sinks = Mapping[SinkName, Sink]
"""The sinks that are configured."""


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """An event that waits for a sink. `attempts` counts deliveries begun; `problem` is a fixed phrase.

    A dead one was attempted as often as it may be; it waits for the operator.
    """

    event_id: str
    sink: SinkName
    kind: EventKind
    drop_id: str
    upload_id: str
    at: datetime
    next_at: datetime
    attempts: int = 0
    dead: bool = False
    problem: str | None = None


Outcome: TypeAlias = Literal["delivered", "failed", "dead"]
"""The outcome of a delivery. A dead event has failed, too."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """The queue of a sink: how many events wait, when the oldest of them happened, and how many are dead."""

    sink: SinkName
    waiting: int
    oldest_at: datetime | None
    dead: int


def retry_seconds(attempts: int, chance: float) -> float:
    """Return how long to wait after a number of attempts (1 or more): doubling, with jitter.

    Args:
        attempts: How many there were.
        chance: From 0 to 1, drawn for each row, so that many rows do not come back as one crowd.
    """
    longest = min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2.0 ** min(attempts - 1, 32))
    return longest * (0.5 + chance / 2)
