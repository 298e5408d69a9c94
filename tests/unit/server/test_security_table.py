"""docs/develop/asvs.md: every requirement of the sections it names has a row, and every test it names is there."""

import re
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parents[3]
_ROW = re.compile(r"^\| (\d+\.\d+\.\d+) \|[^|]+\|([^|]+)\|$", re.MULTILINE)
_TEST = re.compile(r"`([a-z0-9_/]+\.py)::(test_[a-z0-9_]+)`")
_SECTIONS = {
    "5.1": 1,
    "5.2": 6,
    "5.3": 3,
    "5.4": 3,
    "6.3": 8,
    "6.5": 8,
    "6.6": 4,
    "7.2": 4,
    "8.2": 4,
    "8.3": 3,
    "14.2": 8,
    "16.2": 5,
    "16.3": 4,
    "16.4": 3,
    "16.5": 4,
}
"""How many requirements each section of ASVS 5.0 has."""


def _rows() -> dict[str, str]:
    return dict(_ROW.findall((_REPOSITORY / "docs" / "develop" / "asvs.md").read_text("utf-8")))


def test_security_table_has_a_row_for_every_requirement() -> None:
    """None of the sections is left out in part."""
    wanted = [f"{section}.{number}" for section, count in _SECTIONS.items() for number in range(1, count + 1)]
    assert list(_rows()) == wanted


def test_security_table_names_tests_that_exist_or_says_why_not() -> None:
    """Each row rests on a test, or says plainly that there is nothing, or that it is somebody else's."""
    for number, said in _rows().items():
        named = _TEST.findall(said)
        for path, name in named:
            text = (_REPOSITORY / "tests" / path).read_text("utf-8")
            assert re.search(rf"def {name}\(", text), (number, path, name)
        assert named or re.search(r"not met|does not apply|nothing is fetched", said), (number, said)
