"""A drop-off's terms as JSON, and what a new field of them costs."""

import json
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from dropoff_tus.model import TERMS, Dropoff, DropTerms, Mode
from dropoff_tus.text import canonical

NOW = datetime(2026, 3, 4, 5, 6, 7, 891011, tzinfo=UTC)
FULL = DropTerms(
    "Ünïcode ✓ 'quoted'\n",
    mode=Mode.SEALED,
    seal_in_browser=True,
    opens_at=NOW,
    expires_at=(NOW + timedelta(days=1)).astimezone(timezone(timedelta(hours=-7))),
    max_upload_bytes=2**63 - 1,
    max_total_bytes=2,
    max_uploads=3,
    allowed_types=("text/csv", "image/*"),
    name_patterns=("*.csv",),
    recipients=("age1one",),
    notify=("a@example.org",),
    retain_seconds=4,
    receiver="the Cohort Team",
    contact="Ada",
)


def test_terms_written_as_json_come_back_equal() -> None:
    """Nothing is lost, and a time is the same moment in UTC."""
    for terms in (FULL, DropTerms("x")):
        found = DropTerms.read(canonical(terms.as_json()))
        assert found == terms
        assert found.as_json() == terms.as_json()
    assert all(getattr(FULL, one.name) != one.default for one in fields(DropTerms))


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("value", [True, 1.5, {}, [1], [[]], "9999-99-99", "2030-01-31T12:00:00", object], ids=str)
def test_value_that_a_term_cannot_have_is_refused(name: str, value: Any) -> None:  # noqa: ANN401 - any JSON
    """Any text in the database is a term of its own type, or no terms at all."""
    changed = FULL.as_json() | {name: value}
    if value is object:
        del changed[name]
    elif isinstance(value, str | bool) and type(getattr(FULL, name)) is type(value):
        return  # any text is one, and any flag
    with pytest.raises((ValueError, TypeError, AttributeError)):
        DropTerms.read(json.dumps(changed))


@pytest.mark.parametrize("text", ["", "null", "[]", '{"name":"x"}', "garbage"])
def test_text_that_is_no_terms_is_refused(text: str) -> None:
    """So is what has a member too few."""
    with pytest.raises(ValueError):  # noqa: PT011 - of any kind
        DropTerms.read(text)


def test_signed_text_is_the_same_for_the_same_moments() -> None:
    """The zone in which a time was read does not count; every other value does."""
    drop = Dropoff("d", NOW, FULL)
    same = replace(drop, terms=replace(FULL, expires_at=NOW + timedelta(days=1)))
    assert same.signed_text() == drop.signed_text()
    assert replace(drop, code_mac=b"").signed_text() != drop.signed_text()
