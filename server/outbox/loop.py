"""The loop that delivers: claim, deliver, mark; at least once, again and again until it is done or was tried enough.

A delivery that is cut off anywhere, even by a kill between the receiver's answer and the mark, comes again with the
same event id once the claim has run out. Each group of rows is delivered by itself.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from dropoff_tus.errors import DropoffError
from dropoff_tus.outbox import OutboxRow, Outcome, SinkName, retry_seconds
from dropoff_tus.ports.catalog import Outbox
from dropoff_tus.ports.clock import Clock

_log = logging.getLogger(__name__)
_MARGIN_SECONDS = 2.0
"""The time that a claim outlives the longest delivery by, for the mark behind it."""


class DeliveryError(Exception):
    """A delivery failed; the text is a fixed phrase with at most a number in it, fit for the log and the catalog."""


class Courier(Protocol):
    """The sender of one sink."""

    sink: SinkName
    timeout_seconds: float
    max_attempts: int
    claim_rows: int
    """How many rows are claimed at most."""
    side_by_side: int
    """How many deliveries run at a time at most."""
    rounds: int
    """How many deliveries one after the other a claim lasts for; events without a turn are given back."""

    def groups(self, rows: Sequence[OutboxRow]) -> list[list[OutboxRow]]:
        """Part rows into deliveries."""
        ...

    async def deliver(self, rows: Sequence[OutboxRow]) -> None:
        """Deliver one group.

        Raises:
            DeliveryError: It is to be repeated.
        """
        ...


class Deliveries:
    """Delivers what is due at one sink."""

    def __init__(
        self,
        outbox: Outbox,
        clock: Clock,
        courier: Courier,
        count: Callable[[SinkName, Outcome, int], None] = lambda _sink, _outcome, _events: None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Take the ports, who delivers, what counts how events fare, and what draws the jitter from 0 to 1."""
        self._outbox, self._clock, self._courier, self._count, self._chance = outbox, clock, courier, count, chance

    async def look(self) -> None:
        """Deliver all that is due now.

        Raises:
            CatalogUnavailableError: Look again later.
        """
        courier = self._courier
        while await self._outbox.is_due(courier.sink, self._clock.now()):
            now = self._clock.now()
            until = now + timedelta(seconds=courier.timeout_seconds * courier.rounds + _MARGIN_SECONDS)
            rows = await self._outbox.claim(courier.sink, now, until, courier.claim_rows)
            if not rows:
                return  # another process was quicker
            turns = asyncio.Semaphore(courier.side_by_side)
            await asyncio.gather(*(self._in_turn(group, turns, until) for group in courier.groups(rows)))

    async def _in_turn(self, rows: Sequence[OutboxRow], turns: asyncio.Semaphore, until: datetime) -> None:
        """Deliver a group when others have made room, if there is time for it before its claim runs out."""
        async with turns:
            now = self._clock.now()
            if now + timedelta(seconds=self._courier.timeout_seconds) > until:
                await self._outbox.release(rows, now)
            else:
                await self._deliver(rows)

    async def _deliver(self, rows: Sequence[OutboxRow]) -> None:
        courier, first = self._courier, rows[0]
        told = {"event_id": first.event_id, "sink": first.sink.value, "drop_id": first.drop_id, "count": len(rows)}
        try:
            async with asyncio.timeout(courier.timeout_seconds):
                await courier.deliver(rows)
        except (DeliveryError, TimeoutError) as error:
            problem = str(error) or "no answer in time"
        except DropoffError as error:
            problem = error.code
        except Exception:  # noqa: BLE001 - a bug in making one event must not keep the others
            _log.exception("an event could not be made", extra=told)
            problem = "it could not be made"
        else:
            await self._outbox.delivered(rows)
            self._count(courier.sink, "delivered", len(rows))
            _log.info("event delivered", extra={**told, "attempts": first.attempts})
            return
        attempts = max(row.attempts for row in rows)
        next_at = self._clock.now() + timedelta(seconds=retry_seconds(attempts, self._chance()))
        await self._outbox.failed(rows, problem, next_at, max_attempts=courier.max_attempts)
        gone = sum(row.attempts >= courier.max_attempts for row in rows)
        dead = gone > 0
        self._count(courier.sink, "failed", len(rows))
        if dead:
            self._count(courier.sink, "dead", gone)
        _log.log(
            logging.ERROR if dead else logging.WARNING,
            "event given up; see `dropoff-tus outbox list`" if dead else "event not delivered; it is repeated",
            extra={**told, "attempts": attempts, "problem": problem},
        )
