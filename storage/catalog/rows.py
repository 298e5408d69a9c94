"""Values that all rows have in common: times and lists; and a sentence for a row that somebody changed."""

import functools
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

from dropoff_tus.errors import CatalogTamperedError

T = TypeVar("T")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIRST_MICROS = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_LAST_MICROS = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND


class Row(Protocol):
    """The common form of both drivers' rows: values by the name of their column, or all in their order."""

    def __iter__(self) -> Iterator[Any]:
        """Go through the values."""
        ...

    def __getitem__(self, name: str, /) -> Any:  # noqa: ANN401 - each column has its type
        """Return one column's value."""
        ...


def reads(read: Callable[[Row], T]) -> Callable[[Row], T]:
    """Let a reader of rows say in a sentence what is in the way of all that list them."""

    @functools.wraps(read)
    def reading(row: Row) -> T:
        try:
            return read(row)
        except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
            kind, named = read.__name__.removeprefix("read_"), next(iter(row))
            message = (
                f"the {kind} {named} has something in the database that cannot be: it was changed; put it right there"
            )
            raise CatalogTamperedError(message) from error

    return reading


def to_micros(moment: datetime) -> int:
    """Write an aware time as whole microseconds since 1970; a naive one is a TypeError."""
    return (moment - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """Read such a number as aware UTC; one that somebody wrote there and no calendar has, as the nearest."""
    return _EPOCH + timedelta(microseconds=max(_FIRST_MICROS, min(micros, _LAST_MICROS)))


def micros_or_none(moment: datetime | None) -> int | None:
    """Write a time, if there is one."""
    return None if moment is None else to_micros(moment)


def moment_or_none(micros: int | None) -> datetime | None:
    """Read a time, if there is one."""
    return None if micros is None else from_micros(micros)


def write_texts(texts: tuple[str, ...]) -> str:
    """Write a list as JSON."""
    return json.dumps(texts)


def read_texts(written: str) -> tuple[str, ...]:
    """Read such a list."""
    return tuple(json.loads(written))
