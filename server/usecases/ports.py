"""The base of the use cases of uploads: the ports, the times and the settings, in one value that each takes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from dropoff_tus.ports.catalog import DropoffRows, UploadRows
from dropoff_tus.ports.clock import Clock
from dropoff_tus.ports.store import Store
from server.clock import TrustedTime

Advance = Callable[[int], None]
"""Counts so many more as done."""
Begin = Callable[[int], Advance]
"""Is told how many there are, and makes what counts them."""


class Rows(DropoffRows, UploadRows, Protocol):
    """The catalog as they need it."""


@dataclass(frozen=True, slots=True)
class UploadSettings:
    """The configuration of uploads. 0 means no limit, or never."""

    max_upload_bytes: int = 0
    expire_after_seconds: float = 7 * 86400.0
    terminate_finished: bool = False
    body_idle_timeout_seconds: float = 60.0


@dataclass(slots=True)
class Counts:
    """What became of uploads here since this process began. `damaged` has the ids of those that did not verify."""

    created: int = 0
    finished: int = 0
    terminated: int = 0
    damaged: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Ports:
    """`clock` dates what happens; `trusted` says what is old; `counts` are for monitoring."""

    store: Store
    catalog: Rows
    clock: Clock
    trusted: TrustedTime
    settings: UploadSettings
    counts: Counts = field(default_factory=Counts)
