"""The reference is what the code says: its pages are made from there, and name every code of an error."""

import re
from pathlib import Path

import pytest

from tests.support import reference

_CODE = re.compile(r"\bERR_[A-Z_]*[A-Z]\b")
_SOURCES = [
    path
    for package in ("dropoff_tus", "server", "storage")
    for path in (reference.REPOSITORY / package).rglob("*.py")
    if "node_modules" not in path.parts
]


@pytest.mark.parametrize("page", reference.PAGES)
def test_page_is_what_the_code_says(page: str) -> None:
    """Else `make reference` writes it again."""
    written = (reference.REFERENCE / page).read_text("utf-8")
    assert written == reference.made(page), f"docs/reference/{page} is stale: run `make reference`"


def _codes(path: Path) -> set[str]:
    return set(_CODE.findall(path.read_text("utf-8"))) - {"ERR_CODE"}  # which stands for any


def test_error_reference_has_every_code_and_no_other() -> None:
    """Wherever it is raised; and no document speaks of one that there is not."""
    known = set().union(*map(_codes, _SOURCES))
    assert _codes(reference.REFERENCE / "errors.md") == known
    for document in (reference.REPOSITORY / "docs").rglob("*.md"):
        assert _codes(document) <= known, document


def test_advice_is_for_codes_that_there_are() -> None:
    """None is left of an error that is gone."""
    assert reference.ADVICE.keys() <= reference.error_classes().keys()
