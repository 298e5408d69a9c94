"""Sizes, durations and times as people write them."""

from datetime import UTC, datetime, timedelta

import pytest

from server.settings.units import parse_duration, parse_past, parse_size, parse_time

_NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (0, 0),
        (5, 5),
        ("50", 50),
        ("5 b", 5),
        ("1kB", 1000),
        ("1KiB", 1024),
        ("1.5GiB", 3 << 29),
        (" 500 mb ", 500_000_000),
        ("0.1TiB", 109951162777),
        (2**63 - 1, 2**63 - 1),
    ],
)
def test_size_is_read(written: object, size: int) -> None:
    """Bytes, or a number with a unit of a thousand or of 1,024."""
    assert parse_size(written) == size


@pytest.mark.parametrize("written", [-1, 1.5, True, "", "-2", "1 potato", "1e3", "GiB", "1_000", "٣", "1..5", None, []])
def test_what_is_no_size_says_what_to_write(written: object) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match="write a number of bytes"):
        parse_size(written)


@pytest.mark.parametrize("written", [2**63, "9000000000GiB", "9" * 30 + "PiB"])
def test_size_beyond_what_can_be_counted_is_refused(written: object) -> None:
    """A database column holds 63 bits."""
    with pytest.raises(ValueError, match=r"must be from 0 to 9223372036854775807"):
        parse_size(written)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("60s", 60),
        ("1h30m", 5400),
        ("7d", 604800),
        ("1w 1d", 691200),
        ("250ms", 0.25),
        ("1.5h", 5400),
        (0, 0),
        (" 0s", 0),
    ],
)
def test_duration_is_read(written: object, seconds: float) -> None:
    """Numbers with units, one after the other."""
    assert parse_duration(written) == seconds


@pytest.mark.parametrize("written", [60, 1.5, "61", "", "1h30", "h", "-5s", "5 years", False, None, [], "1e9d", "٣s"])
def test_what_is_no_duration_says_what_to_write(written: object) -> None:
    """A bare number could be seconds or days."""
    with pytest.raises(ValueError, match=r'write e\.g\. "'):
        parse_duration(written)


def test_duration_beyond_a_century_is_refused() -> None:
    """It would lead to dates that do not exist."""
    with pytest.raises(ValueError, match="write 0 for never"):
        parse_duration("999999999999w")


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("7d", _NOW + timedelta(days=7)),
        ("2030-01-31T12:00:00Z", datetime(2030, 1, 31, 12, tzinfo=UTC)),
        ("2030-01-31 12:00:00.5+02:00", datetime(2030, 1, 31, 10, 0, 0, 500000, tzinfo=UTC)),
        ("2030-01-31t12:00:00z", datetime(2030, 1, 31, 12, tzinfo=UTC)),
        (datetime(2030, 1, 31, tzinfo=UTC), datetime(2030, 1, 31, tzinfo=UTC)),
    ],
)
def test_time_is_read(written: object, moment: datetime) -> None:
    """RFC 3339, what TOML makes of it, or so long from now."""
    assert parse_time(written, _NOW) == moment


@pytest.mark.parametrize(
    "written",
    [
        "2030-01-31",
        "2030-01-31T12:00:00",
        "20300131T120000Z",
        "2030-02-30T00:00:00Z",
        "9999-12-31T23:59:59-12:00",
        "0001-01-01T00:00:00+12:00",
        "soon",
        "",
        None,
        7,
        datetime(2030, 1, 31),  # noqa: DTZ001 - without its zone on purpose
    ],
)
def test_what_is_no_time_says_what_to_write(written: object) -> None:
    """Without a zone nobody knows which noon is meant."""
    with pytest.raises(ValueError, match="write a duration from now such as"):
        parse_time(written, _NOW)


@pytest.mark.parametrize(
    ("written", "moment"),
    [("7d", _NOW - timedelta(days=7)), ("0", _NOW), ("2020-01-01T00:00:00Z", datetime(2020, 1, 1, tzinfo=UTC))],
)
def test_duration_of_the_past_is_how_long_ago_it_was(written: str, moment: datetime) -> None:
    """A time with its zone is that time."""
    assert parse_past(written, _NOW) == moment


def test_what_is_no_time_of_the_past_says_what_to_write() -> None:
    """As an operator would."""
    with pytest.raises(ValueError, match="how long ago"):
        parse_past("monday", _NOW)
