"""Sizes, durations and times as people write them: in the configuration, the environment and on the command line.

Every function that reads raises ValueError with a predicate that says what to write instead, to be put behind a name.
"""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import overload

_SIZE_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "pb": 10**15}
_SIZE_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "pib": 2**50}
_SIZE = re.compile(r"([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*([a-z]*)", re.IGNORECASE)
_MOST_BYTES = 2**63 - 1

_DURATION_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION_PART = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*(ms|s|m|h|d|w)\s*")
_MOST_SECONDS = 36525 * 86400.0
"""A hundred years: beyond it a date may have no name, and nobody means it."""

MOST_LABEL_CHARACTERS = 200

_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*")
_MOST_ADDRESS = 254
MOST_ADDRESSES = 20
"""The most addresses of one drop-off."""

_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_TIME_HELP = 'write a duration from now such as "7d", or a time with its zone such as "2030-01-31T12:00:00Z"'


def mail_address(value: object) -> str:
    """Read a mail address, of the plain kind that needs no quoting."""
    if not isinstance(value, str) or len(value) > _MOST_ADDRESS or _ADDRESS.fullmatch(value) is None:
        raise ValueError('is not a mail address; write e.g. "data@example.org", without a name')
    return value


def mail_addresses(values: object) -> tuple[str, ...]:
    """Read the addresses that a drop-off names."""
    if not isinstance(values, list | tuple):
        raise ValueError('must be a list; write e.g. ["data@example.org"]')  # noqa: TRY004 - as above
    if len(values) > MOST_ADDRESSES:
        raise ValueError(f"takes up to {MOST_ADDRESSES} addresses; write that of a list")
    return tuple(mail_address(value) for value in values)


def parse_size(value: object) -> int:
    """Read a size in bytes: a whole number, or a string with a unit such as `1GiB` or `500 MB`."""
    help_text = 'write a number of bytes, or e.g. "1GiB" or "500MB"'
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
        if found is None:
            raise ValueError(f"is not a size; {help_text}")
        factor = _SIZE_UNITS.get(found[2].lower())
        if factor is None:
            message = f"has a unit that is not known; {help_text} (units: B, kB, MB, GB, TB, KiB, MiB, GiB, TiB)"
            raise ValueError(message)
        size = int(Decimal(found[1]) * factor)
    if not 0 <= size <= _MOST_BYTES:
        raise ValueError(f"must be from 0 to {_MOST_BYTES} bytes; {help_text}")
    return size


def parse_duration(value: object) -> float:
    """Read a duration in seconds: a string such as `60s`, `1h30m` or `7d`; `0` means never, or none."""
    if value in (0, "0") and not isinstance(value, bool):
        return 0.0
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f'needs a unit; write e.g. "{value}s", or "7d"')  # noqa: TRY004 - one kind of error for everything written wrongly
    text = value.strip().lower() if isinstance(value, str) else ""
    parts = _DURATION_PART.findall(text)
    if not parts or _DURATION_PART.sub("", text):
        raise ValueError('is not a duration; write e.g. "60s", "1h30m" or "7d"')
    seconds = float(sum(float(number) * _DURATION_UNITS[unit] for number, unit in parts))
    if seconds > _MOST_SECONDS:
        raise ValueError("is longer than a hundred years; write 0 for never")
    return seconds


def check_label(name: str) -> str | None:
    """Say what is wrong with the name that an operator gives something, or None."""
    if not name.strip() or len(name) > MOST_LABEL_CHARACTERS:
        return f"must have from 1 to {MOST_LABEL_CHARACTERS} characters; it is how you find it again"
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return "is not text in this terminal's encoding (UTF-8 is expected)"
    # PostgreSQL's text has no such character.
    return "has a NUL character in it; leave it out" if "\0" in name else None


def parse_time(value: object, now: datetime) -> datetime:
    """Read a time: RFC 3339 with a zone, or a duration from `now`.

    Args:
        value: The text; TOML's own dates too.
        now: The present, aware.
    """
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, str) and _RFC3339.fullmatch(value.strip()):
        try:
            moment = datetime.fromisoformat(value.strip().upper())
        except ValueError:
            raise ValueError(f"is no day or time that exists; {_TIME_HELP}") from None
    else:
        try:
            seconds = parse_duration(value)
        except ValueError:
            raise ValueError(f"is not a time; {_TIME_HELP}") from None
        moment = now + timedelta(seconds=seconds)
    if moment.tzinfo is None:
        raise ValueError(f"has no zone; {_TIME_HELP}")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"is no day or time that exists in UTC; {_TIME_HELP}") from None


def parse_past(value: str, now: datetime) -> datetime:
    """Read a time as `parse_time` does; a duration is how long ago it was."""
    if _RFC3339.fullmatch(value.strip()):
        return parse_time(value, now)
    try:
        return now - timedelta(seconds=parse_duration(value))
    except ValueError:
        message = 'is not a time; write how long ago, such as "7d", or a time with its zone: "2030-01-31T12:00:00Z"'
        raise ValueError(message) from None


@overload
def stamp(moment: datetime) -> str: ...
@overload
def stamp(moment: None) -> None: ...
@overload
def stamp(moment: datetime | None) -> str | None: ...
def stamp(moment: datetime | None) -> str | None:
    """Write a time as RFC 3339, to the second, in UTC."""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
