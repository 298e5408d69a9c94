"""The buckets that slow wrong codes."""

from hypothesis import given
from hypothesis import strategies as st

from server.usecases.wrong_credentials import Throttle


def test_throttle_lets_an_hours_worth_pass_at_once_and_then_says_when() -> None:
    """A typing mistake costs nothing; a guesser waits as long as one code takes."""
    throttle = Throttle(30)
    assert [throttle.count("a", 1000.0) for _ in range(30)] == [0] * 30
    assert throttle.count("a", 1000.0) == 120
    assert throttle.count("b", 1000.0) == 0


def test_throttle_refills_evenly_and_refusals_cost_nothing() -> None:
    """A client that waits as long as Retry-After says is let through, however often it asked meanwhile."""
    throttle = Throttle(30)
    for _ in range(30):
        throttle.count("a", 0.0)
    for _ in range(1000):
        assert throttle.count("a", 1.0) == 119
    assert throttle.count("a", 120.0) == 0
    assert throttle.count("a", 120.0) == 120
    assert [throttle.count("a", 120.0 + 3600) for _ in range(30)] == [0] * 30


def test_throttle_of_zero_lets_all_pass_and_remembers_nobody() -> None:
    """Zero switches it off."""
    throttle = Throttle(0)
    assert not any(throttle.count("a", 0.0) for _ in range(1000))
    assert len(throttle) == 0


def test_throttle_table_is_bounded_and_forgets_who_was_wrong_longest_ago() -> None:
    """However many addresses come, memory stays, and those who still guess are remembered."""
    throttle = Throttle(2, max_names=100)
    for _ in range(2):
        throttle.count("old", 1.0)
    assert throttle.count("old", 1.0) > 0
    for number in range(10_000):
        throttle.count(f"n{number}", 1.0)
        throttle.count("busy", 1.0)
    assert len(throttle) == 100
    assert throttle.count("busy", 1.0) > 0
    assert throttle.count("old", 1.0) == 0


@given(
    per_hour=st.integers(1, 50),
    gaps=st.lists(st.floats(0, 600), min_size=1, max_size=200),
)
def test_throttle_never_passes_more_than_twice_its_limit_in_an_hour(per_hour: int, gaps: list[float]) -> None:
    """At any times: in any hour no more passes than a full bucket and its refill."""
    throttle, now, passed = Throttle(per_hour), 0.0, list[float]()
    for gap in gaps:
        now += gap
        wait = throttle.count("a", now)
        assert wait >= 0
        if not wait:
            passed.append(now)
    for start in passed:
        assert sum(start <= at <= start + 3600 for at in passed) <= 2 * per_hour + 1
